//! `tools`, `tool_choice` and `separate_reasoning` of a chat request: what the template shows, and what is split off the
//! answer.
//!
//! Not here: how an answer is split (`spoken`). Invariant: tools are taken only where the model's template writes calls in
//! the grammar that is understood here; else they are refused by name.

use serde_json::Value;

use super::errors::{ApiError, quote};
use super::fields::{RawRequest, wrong};
use super::spoken::{SpeechRules, ToolTypes};
use super::template::ChatTemplate;

/// Most tools of a request.
const TOOLS_MAX: usize = 256;
/// Longest name of a tool, bytes.
const NAME_BYTES_MAX: usize = 256;

/// The tools that may be called.
#[derive(Debug, Default)]
pub(super) struct Tools {
    list: Vec<Value>,
}

impl Tools {
    /// Takes them out of a request; none where `tool_choice` is `none`.
    ///
    /// # Errors
    /// [`ApiError`] naming the tool and the field, or what the model's template has no words for.
    pub(super) fn read(raw: &mut RawRequest, template: &ChatTemplate) -> Result<Self, ApiError> {
        let called = called(raw)?;
        let list = match raw.take("tools") {
            None => Vec::new(),
            Some(Value::Array(list)) => list,
            Some(other) => return Err(wrong("tools", "an array", &other)),
        };
        if list.len() > TOOLS_MAX {
            let (param, found) = ("tools".to_owned(), format!("{} tools", list.len()));
            return Err(ApiError::InvalidValue { param, found, expected: format!("at most {TOOLS_MAX}") });
        }
        list.iter().enumerate().try_for_each(|(i, tool)| check(&format!("tools[{i}]"), tool))?;
        if !list.is_empty() && !template.writes_tool_calls() {
            let reason = "the model's chat template has no words for tool calls";
            return Err(ApiError::Unsupported { param: "tools".to_owned(), reason });
        }
        Ok(Self { list: if called { list } else { Vec::new() } })
    }

    /// What the template shows of them.
    pub(super) fn shown(&self) -> Option<&[Value]> {
        (!self.list.is_empty()).then_some(self.list.as_slice())
    }

    /// How the answer to `prompt` is split, where it is at all.
    ///
    /// # Errors
    /// [`ApiError::WrongType`].
    pub(super) fn speech(&self, raw: &RawRequest, prompt: &str) -> Result<Option<SpeechRules>, ApiError> {
        let reasoning = raw.boolean("separate_reasoning")?.unwrap_or(false);
        let tools = self.shown().map(ToolTypes::of);
        let starts_in_reasoning = prompt.trim_end().ends_with("<think>");
        Ok((reasoning || tools.is_some()).then_some(SpeechRules { reasoning, starts_in_reasoning, tools }))
    }
}

/// Whether tools may be called.
fn called(raw: &RawRequest) -> Result<bool, ApiError> {
    match raw.get("tool_choice") {
        None => Ok(true),
        Some(Value::String(choice)) if choice == "auto" => Ok(true),
        Some(Value::String(choice)) if choice == "none" => Ok(false),
        Some(Value::String(choice)) if choice != "required" => {
            let (param, found) = ("tool_choice".to_owned(), quote(choice));
            Err(ApiError::InvalidValue { param, found, expected: "auto or none".to_owned() })
        }
        Some(Value::String(_) | Value::Object(_)) => {
            let reason = "the model chooses: auto or none";
            Err(ApiError::Unsupported { param: "tool_choice".to_owned(), reason })
        }
        Some(other) => Err(wrong("tool_choice", "a string or an object", other)),
    }
}

fn check(at: &str, tool: &Value) -> Result<(), ApiError> {
    let map = tool.as_object().ok_or_else(|| wrong(at, "an object", tool))?;
    match map.get("type").and_then(Value::as_str) {
        Some("function") => {}
        _ => {
            let found = map.get("type").map_or("absent".to_owned(), |v| quote(&v.to_string()));
            return Err(ApiError::InvalidValue { param: format!("{at}.type"), found, expected: "function".to_owned() });
        }
    }
    let param = format!("{at}.function");
    let function = match map.get("function") {
        Some(Value::Object(function)) => function,
        Some(other) => return Err(wrong(&param, "an object", other)),
        None => return Err(ApiError::Missing { param }),
    };
    let param = format!("{param}.name");
    match function.get("name") {
        Some(Value::String(name)) if !name.is_empty() && name.len() <= NAME_BYTES_MAX => {}
        Some(Value::String(name)) => {
            let (found, expected) = (format!("{} bytes", name.len()), format!("1 to {NAME_BYTES_MAX} bytes"));
            return Err(ApiError::InvalidValue { param, found, expected });
        }
        Some(other) => return Err(wrong(&param, "a string", other)),
        None => return Err(ApiError::Missing { param }),
    }
    match function.get("parameters") {
        None | Some(Value::Null | Value::Object(_)) => Ok(()),
        Some(other) => Err(wrong(&format!("{at}.function.parameters"), "an object", other)),
    }
}
