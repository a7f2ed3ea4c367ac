//! `messages` of a chat request, checked and brought into the form that chat templates read.
//!
//! Only what a template may use goes on: role, content, name and reasoning. Parts other than text are refused by name,
//! so that no picture is dropped in silence.

use serde_json::{Map, Value};

use super::errors::{ApiError, quote};
use super::fields::{kind_of, wrong};
use super::template::ChatTemplate;

/// Most messages.
const MESSAGES_MAX: usize = 10_000;
/// Who may speak. `developer` is OpenAI's newer word for `system`.
const ROLES: [&str; 4] = ["system", "developer", "user", "assistant"];

/// The messages as the template shall see them.
///
/// # Errors
/// [`ApiError`] naming the message and the field.
pub(super) fn messages(list: &[Value], template: &ChatTemplate) -> Result<Vec<Value>, ApiError> {
    if list.is_empty() || list.len() > MESSAGES_MAX {
        let found = format!("{} messages", list.len());
        let expected = format!("1 to {MESSAGES_MAX}");
        return Err(ApiError::InvalidValue { param: "messages".to_owned(), found, expected });
    }
    list.iter().enumerate().map(|(i, message)| one(&format!("messages[{i}]"), message, template)).collect()
}

fn one(at: &str, message: &Value, template: &ChatTemplate) -> Result<Value, ApiError> {
    let map = message.as_object().ok_or_else(|| wrong(at, "an object", message))?;
    let role = role(at, map)?;
    for key in ["tool_calls", "function_call", "audio"] {
        if map.get(key).is_some_and(|v| !v.is_null() && v.as_array().is_none_or(|list| !list.is_empty())) {
            let reason = "tool calls and audio are not available";
            return Err(ApiError::Unsupported { param: format!("{at}.{key}"), reason });
        }
    }
    let mut out = Map::new();
    out.insert("role".to_owned(), role.into());
    out.insert("content".to_owned(), content(at, map, template.takes_parts(role))?);
    for key in ["name", "reasoning_content"] {
        match map.get(key) {
            None | Some(Value::Null) => {}
            Some(text @ Value::String(_)) => drop(out.insert(key.to_owned(), text.clone())),
            Some(other) => return Err(wrong(&format!("{at}.{key}"), "a string", other)),
        }
    }
    Ok(out.into())
}

fn role<'a>(at: &str, map: &'a Map<String, Value>) -> Result<&'a str, ApiError> {
    let param = format!("{at}.role");
    let role = match map.get("role") {
        None | Some(Value::Null) => return Err(ApiError::Missing { param }),
        Some(Value::String(role)) => role.as_str(),
        Some(other) => return Err(wrong(&param, "a string", other)),
    };
    match role {
        "developer" => Ok("system"),
        role if ROLES.contains(&role) => Ok(role),
        "tool" | "function" => Err(ApiError::Unsupported { param, reason: "tool calls are not available" }),
        other => {
            let expected = ROLES.join(", ");
            Err(ApiError::InvalidValue { param, found: quote(other), expected: format!("one of {expected}") })
        }
    }
}

fn content(at: &str, map: &Map<String, Value>, takes_parts: bool) -> Result<Value, ApiError> {
    let param = format!("{at}.content");
    match map.get("content") {
        None | Some(Value::Null) => Err(ApiError::Missing { param }),
        Some(Value::String(text)) => Ok(text.as_str().into()),
        Some(Value::Array(parts)) => {
            let text = |(i, part): (usize, &Value)| part_text(&format!("{param}[{i}]"), part);
            let texts = parts.iter().enumerate().map(text).collect::<Result<Vec<String>, _>>()?;
            if takes_parts {
                Ok(texts.into_iter().map(|text| serde_json::json!({"type": "text", "text": text})).collect())
            } else {
                Ok(texts.join("\n").into())
            }
        }
        Some(other) => Err(wrong(&param, "a string or an array of parts", other)),
    }
}

fn part_text(at: &str, part: &Value) -> Result<String, ApiError> {
    let map = part.as_object().ok_or_else(|| wrong(at, "an object", part))?;
    let kind = match map.get("type") {
        None => return Err(ApiError::Missing { param: format!("{at}.type") }),
        Some(kind) => kind.as_str().ok_or_else(|| wrong(&format!("{at}.type"), "a string", kind))?,
    };
    if kind != "text" {
        return Err(ApiError::Unsupported {
            param: format!("{at}.{}", quote(kind)),
            reason: "parts of type `text` only",
        });
    }
    match map.get("text") {
        Some(Value::String(text)) => Ok(text.clone()),
        None => Err(ApiError::Missing { param: format!("{at}.text") }),
        Some(other) => {
            Err(ApiError::WrongType { param: format!("{at}.text"), expected: "a string", found: kind_of(other) })
        }
    }
}
