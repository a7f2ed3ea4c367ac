//! Rendering: Jinja in a sandbox, set up as transformers sets it up.

use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::{Map, Value};

use super::date::strftime;
use super::source::TemplateSource;
use super::tojson::tojson;

/// Work that every rendering may do, in minijinja's fuel: about one instruction, or 64 bytes of data, each.
const FUEL_BASE: u64 = 200_000;
/// More of it for each message.
const FUEL_PER_MESSAGE: u64 = 4_000;
/// Deepest nesting of loops, conditions and (ten each) macro calls.
const RECURSION_MAX: usize = 200;

/// Why a conversation has no prompt.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The template is no Jinja.
    #[error("{path}: {reason}")]
    Syntax {
        /// The file that it came from.
        path: String,
        /// What the parser says.
        reason: String,
    },
    /// The template itself says that it does not take such messages.
    #[error("the chat template refuses these messages: {reason}")]
    Raised {
        /// Its words.
        reason: String,
    },
    /// The template did not come to an end in the work that it is given.
    #[error("the chat template did not finish within {fuel} units of work")]
    OutOfFuel {
        /// How much it was given.
        fuel: u64,
    },
    /// The template failed on these messages.
    #[error("the chat template cannot render these messages: {reason}")]
    Render {
        /// What the engine says.
        reason: String,
    },
}

/// What a template is given.
#[derive(Debug, Clone, Copy)]
pub struct Conversation<'a> {
    /// Message objects, as the template shall see them.
    pub messages: &'a [Value],
    /// Tool objects, where there are some.
    pub tools: Option<&'a [Value]>,
    /// Whether the prompt shall end where the assistant begins.
    pub add_generation_prompt: bool,
    /// Further variables, by name; `messages`, `tools` and `add_generation_prompt` are not taken from here.
    pub kwargs: &'a Map<String, Value>,
}

/// A compiled template.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    tokens: Map<String, Value>,
    /// Roles whose content the template reads as a list of parts.
    roles_of_parts: Vec<&'static str>,
    writes_tool_calls: bool,
}

const NAME: &str = "chat";
/// How a tool call begins in the templates that know them.
const TOOL_CALL: &str = "<tool_call>";

impl ChatTemplate {
    /// Compiles a template. `clock` is what `strftime_now` reads.
    ///
    /// # Errors
    /// [`TemplateError::Syntax`].
    pub fn new(source: TemplateSource, clock: fn() -> SystemTime) -> Result<Self, TemplateError> {
        let syntax = |e: Error| TemplateError::Syntax { path: source.path.display().to_string(), reason: one_line(&e) };
        let mut env = Environment::new();
        env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(syntax)?);
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.set_recursion_limit(RECURSION_MAX);
        env.set_unknown_method_callback(unknown_method_callback);
        env.add_filter("tojson", tojson);
        env.add_function("raise_exception", raise_exception);
        env.add_function("strftime_now", move |format: String| strftime(clock(), &format));
        // Jinja2 reads every line end as \n.
        let text = source.text.replace("\r\n", "\n").replace('\r', "\n");
        env.add_template_owned(NAME, text).map_err(syntax)?;
        let writes_tool_calls = source.text.contains(TOOL_CALL);
        let mut template = Self { env, tokens: source.tokens, roles_of_parts: Vec::new(), writes_tool_calls };
        template.roles_of_parts =
            ["system", "user", "assistant"].into_iter().filter(|role| template.reads_parts(role)).collect();
        Ok(template)
    }

    /// The prompt's text.
    ///
    /// # Errors
    /// Each [`TemplateError`] but [`TemplateError::Syntax`].
    pub fn render(&self, conversation: Conversation<'_>) -> Result<String, TemplateError> {
        let bytes: usize = conversation.messages.iter().chain(conversation.tools.unwrap_or_default()).map(weight).sum();
        let messages = conversation.messages.len() as u64;
        let fuel = FUEL_BASE + FUEL_PER_MESSAGE * messages + bytes as u64;
        let mut env = self.env.clone();
        env.set_fuel(Some(fuel));
        let template = env.get_template(NAME).map_err(|e| classify(&e, fuel))?;
        template.render(self.variables(conversation)).map_err(|e| classify(&e, fuel))
    }

    /// Whether the template reads a message of this role part by part; else parts must be joined for it.
    #[must_use]
    pub fn takes_parts(&self, role: &str) -> bool {
        self.roles_of_parts.contains(&role)
    }

    /// Whether the template writes a conversation's tool calls as the model is to write them, in `<tool_call>` markers.
    #[must_use]
    pub fn writes_tool_calls(&self) -> bool {
        self.writes_tool_calls
    }

    fn variables(&self, conversation: Conversation<'_>) -> minijinja::Value {
        let mut variables = self.tokens.clone();
        variables.extend(conversation.kwargs.clone());
        variables.insert("messages".to_owned(), conversation.messages.into());
        variables.insert("tools".to_owned(), conversation.tools.map_or(Value::Null, Into::into));
        variables.insert("documents".to_owned(), Value::Null);
        variables.insert("add_generation_prompt".to_owned(), conversation.add_generation_prompt.into());
        minijinja::Value::from(Serde(&variables))
    }

    /// Renders one message of one text part: a template that does not know parts prints the list itself.
    fn reads_parts(&self, role: &str) -> bool {
        const PROBE: &str = "probe0text";
        let part = serde_json::json!({"role": role, "content": [{"type": "text", "text": PROBE}]});
        let conversation = Conversation {
            messages: std::slice::from_ref(&part),
            tools: None,
            add_generation_prompt: false,
            kwargs: &Map::new(),
        };
        self.render(conversation)
            .is_ok_and(|text| text.find(PROBE).is_some_and(|at| !text[..at].ends_with(['"', '\''])))
    }
}

/// Bytes of text in a value, to give a template fuel by.
fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(weight).sum::<usize>() + 16 * items.len(),
        Value::Object(map) => map.iter().map(|(k, v)| k.len() + weight(v) + 16).sum(),
        _ => 8,
    }
}

/// Marks what the template raised itself.
const RAISED: &str = "raise_exception: ";

fn raise_exception(_: &State<'_, '_>, reason: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{reason}")))
}

fn classify(error: &Error, fuel: u64) -> TemplateError {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(e) = cause {
        if let Some(e) = e.downcast_ref::<Error>() {
            if e.kind() == ErrorKind::OutOfFuel {
                return TemplateError::OutOfFuel { fuel };
            }
            if let Some(reason) = e.detail().and_then(|d| d.strip_prefix(RAISED)) {
                return TemplateError::Raised { reason: reason.to_owned() };
            }
        }
        cause = e.source();
    }
    TemplateError::Render { reason: one_line(error) }
}

/// What went wrong and on which line of the template, without the engine's picture of it.
fn one_line(error: &Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), |d| format!("{}: {d}", error.kind()));
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}
