//! Fields that would change the answer and that this server does not follow: refused by name, since ignoring them would
//! give a wrong answer that looks right.
//!
//! Fields that are in neither this table nor the readers are ignored, as OpenAI-compatible servers do.

use serde_json::Value;

use super::errors::ApiError;
use super::fields::RawRequest;
use super::validate::Endpoint;

/// Where a field is looked at.
#[derive(PartialEq)]
enum On {
    Both,
    Chat,
    Completions,
}

/// Whether a value asks for nothing more than what is done anyway.
type Harmless = fn(&Value) -> bool;

const NOTHING: Harmless = |v| match v {
    Value::Bool(asked) => !asked,
    Value::Array(items) => items.is_empty(),
    Value::Object(map) => map.is_empty(),
    Value::String(text) => text.is_empty(),
    _ => false,
};
const NEVER: Harmless = |_| false;
const ALLOWED: Harmless = |v| v.as_bool() == Some(true);
const TEXT_ONLY: Harmless = |v| v.as_array().is_some_and(|list| list.iter().all(|m| m.as_str() == Some("text")));
const NO_TOOL: Harmless = |v| v.as_str() == Some("none");

const TABLE: &[(&str, On, Harmless, &str)] = &[
    ("use_beam_search", On::Both, NOTHING, "sampling and greedy search only"),
    ("functions", On::Chat, NOTHING, "use tools"),
    ("function_call", On::Chat, NO_TOOL, "use tools"),
    ("parallel_tool_calls", On::Chat, ALLOWED, "the model decides how many tools it calls"),
    ("guided_whitespace_pattern", On::Both, NEVER, "JSON may have a blank or a line break with an indent"),
    ("structural_tag", On::Both, NEVER, "use response_format or structured_outputs"),
    ("modalities", On::Chat, TEXT_ONLY, "only [\"text\"]"),
    ("audio", On::Chat, NEVER, "answers are text"),
    ("web_search_options", On::Chat, NEVER, "no search is available"),
    ("chat_template", On::Chat, NEVER, "the model's own template is used"),
    ("continue_final_message", On::Chat, NOTHING, "a new message is begun"),
    ("documents", On::Chat, NOTHING, "put documents into messages"),
    ("echo", On::Chat, NOTHING, "the prompt is repeated on /v1/completions only"),
    ("suffix", On::Completions, NOTHING, "text is only continued, not filled in"),
    ("prompt_embeds", On::Completions, NEVER, "a prompt is text or token ids"),
    ("truncate_prompt_tokens", On::Both, NEVER, "prompts are not cut"),
    ("bad_words", On::Both, NOTHING, "use logit_bias"),
    ("allowed_token_ids", On::Both, NOTHING, "use logit_bias"),
    ("logits_processors", On::Both, NOTHING, "use logit_bias"),
];

/// # Errors
/// [`ApiError::Unsupported`] for the first of them.
pub(super) fn check(raw: &RawRequest, endpoint: Endpoint) -> Result<(), ApiError> {
    let here = match endpoint {
        Endpoint::Chat => On::Chat,
        Endpoint::Completions => On::Completions,
    };
    for (param, on, harmless, reason) in TABLE {
        let applies = *on == On::Both || *on == here;
        if applies && raw.get(param).is_some_and(|v| !harmless(v)) {
            return Err(ApiError::Unsupported { param: (*param).to_owned(), reason });
        }
    }
    Ok(())
}
