//! `messages` of a chat request, checked and brought into the form that chat templates read.
//!
//! Only what a template may use goes on: role, content, name, reasoning and tool calls. Parts other than text are refused
//! by name, so that no picture is dropped in silence; so are tool calls where the template has no words for them.

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
    let role = role(at, map, template)?;
    for key in ["function_call", "audio"] {
        if map.get(key).is_some_and(|v| !v.is_null()) {
            let reason = "use tool_calls; audio is not available";
            return Err(ApiError::Unsupported { param: format!("{at}.{key}"), reason });
        }
    }
    let mut out = Map::new();
    out.insert("role".to_owned(), role.into());
    let calls = tool_calls(at, map, role, template)?;
    let said = map.get("content").filter(|v| !v.is_null());
    let content = match (&calls, said) {
        // Whoever only calls tools says nothing.
        (Some(_), None) => Value::from(""),
        _ => content(at, map, template.takes_parts(role))?,
    };
    out.insert("content".to_owned(), content);
    if let Some(calls) = calls {
        out.insert("tool_calls".to_owned(), calls);
    }
    for key in ["name", "reasoning_content"] {
        match map.get(key) {
            None | Some(Value::Null) => {}
            Some(text @ Value::String(_)) => drop(out.insert(key.to_owned(), text.clone())),
            Some(other) => return Err(wrong(&format!("{at}.{key}"), "a string", other)),
        }
    }
    Ok(out.into())
}

/// The calls of an assistant's turn, their arguments as the objects that templates read; `None` where there are none.
fn tool_calls(
    at: &str,
    map: &Map<String, Value>,
    role: &str,
    template: &ChatTemplate,
) -> Result<Option<Value>, ApiError> {
    let param = format!("{at}.tool_calls");
    let list = match map.get("tool_calls") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) if list.is_empty() => return Ok(None),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong(&param, "an array", other)),
    };
    if role != "assistant" || !template.writes_tool_calls() {
        let reason = "tool calls are an assistant's, and only where the model's chat template has words for them";
        return Err(ApiError::Unsupported { param, reason });
    }
    list.iter()
        .enumerate()
        .map(|(i, call)| tool_call(&format!("{param}[{i}]"), call))
        .collect::<Result<_, _>>()
        .map(Some)
}

fn tool_call(at: &str, call: &Value) -> Result<Value, ApiError> {
    let param = format!("{at}.function");
    let function = match call.get("function") {
        Some(Value::Object(function)) => function,
        Some(other) => return Err(wrong(&param, "an object", other)),
        None => return Err(ApiError::Missing { param }),
    };
    let name = match function.get("name") {
        Some(name @ Value::String(_)) => name.clone(),
        Some(other) => return Err(wrong(&format!("{param}.name"), "a string", other)),
        None => return Err(ApiError::Missing { param: format!("{param}.name") }),
    };
    let param = format!("{param}.arguments");
    let arguments = match function.get("arguments") {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(object @ Value::Object(_)) => object.clone(),
        Some(Value::String(text)) if text.trim().is_empty() => Value::Object(Map::new()),
        Some(Value::String(text)) => match serde_json::from_str(text) {
            Ok(object @ Value::Object(_)) => object,
            _ => {
                let expected = "the text of a JSON object".to_owned();
                return Err(ApiError::InvalidValue { param, found: quote(text), expected });
            }
        },
        Some(other) => return Err(wrong(&param, "a string of JSON", other)),
    };
    let mut out = serde_json::json!({"type": "function", "function": {"name": name, "arguments": arguments}});
    if let Some(id @ Value::String(_)) = call.get("id") {
        out["id"] = id.clone();
    }
    Ok(out)
}

fn role<'a>(at: &str, map: &'a Map<String, Value>, template: &ChatTemplate) -> Result<&'a str, ApiError> {
    let param = format!("{at}.role");
    let role = match map.get("role") {
        None | Some(Value::Null) => return Err(ApiError::Missing { param }),
        Some(Value::String(role)) => role.as_str(),
        Some(other) => return Err(wrong(&param, "a string", other)),
    };
    match role {
        "developer" => Ok("system"),
        role if ROLES.contains(&role) => Ok(role),
        "tool" if template.writes_tool_calls() => Ok(role),
        "tool" | "function" => {
            let reason = "the model's chat template has no words for tool calls";
            Err(ApiError::Unsupported { param, reason })
        }
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
