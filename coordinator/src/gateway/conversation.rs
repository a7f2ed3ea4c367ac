//! `messages` of a chat request, checked and brought into the form that chat templates read.
//!
//! Only what a template may use goes on: role, content, name, reasoning and tool calls. A picture goes on as a part that
//! only says where it stands; its file is taken aside. Other parts are refused by name, and pictures too where the model does not
//! see, so that nothing is dropped in silence; so are tool calls where the template has no words for them.

use serde_json::{Map, Value};

use super::errors::{ApiError, quote};
use super::fields::{kind_of, wrong};
use super::pictures::PictureSource;
use super::template::ChatTemplate;

/// Most messages.
const MESSAGES_MAX: usize = 10_000;
/// Who may speak. `developer` is OpenAI's newer word for `system`.
const ROLES: [&str; 4] = ["system", "developer", "user", "assistant"];

/// Reads a conversation for a template.
pub(super) struct Reader<'a> {
    pub(super) template: &'a ChatTemplate,
    /// Whether the model takes pictures.
    pub(super) sees: bool,
    /// The pictures, as they come.
    pub(super) pictures: &'a mut Vec<PictureSource>,
}

impl Reader<'_> {
    /// The messages as the template shall see them. Pictures are taken out of `list`.
    ///
    /// # Errors
    /// [`ApiError`] naming the message and the field.
    pub(super) fn messages(&mut self, list: &mut [Value]) -> Result<Vec<Value>, ApiError> {
        if list.is_empty() || list.len() > MESSAGES_MAX {
            let found = format!("{} messages", list.len());
            let expected = format!("1 to {MESSAGES_MAX}");
            return Err(ApiError::InvalidValue { param: "messages".to_owned(), found, expected });
        }
        list.iter_mut().enumerate().map(|(i, message)| self.one(&format!("messages[{i}]"), message)).collect()
    }

    fn one(&mut self, at: &str, message: &mut Value) -> Result<Value, ApiError> {
        let Some(map) = message.as_object_mut() else { return Err(wrong(at, "an object", message)) };
        let role = role(at, map, self.template)?;
        for key in ["function_call", "audio"] {
            if map.get(key).is_some_and(|v| !v.is_null()) {
                let reason = "use tool_calls; audio is not available";
                return Err(ApiError::Unsupported { param: format!("{at}.{key}"), reason });
            }
        }
        let mut out = Map::new();
        out.insert("role".to_owned(), role.into());
        let calls = tool_calls(at, map, role, self.template)?;
        let said = map.get_mut("content").filter(|v| !v.is_null());
        let content = match (&calls, said) {
            // Whoever only calls tools says nothing.
            (Some(_), None) => Value::from(""),
            (_, said) => self.content(&format!("{at}.content"), said, self.template.takes_parts(role))?,
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

    fn content(&mut self, at: &str, said: Option<&mut Value>, takes_parts: bool) -> Result<Value, ApiError> {
        match said {
            None => Err(ApiError::Missing { param: at.to_owned() }),
            Some(Value::String(text)) => Ok(text.as_str().into()),
            Some(Value::Array(parts)) => {
                let parts = parts.iter_mut().enumerate();
                let parts = parts.map(|(i, part)| self.part(&format!("{at}[{i}]"), part, takes_parts));
                let parts = parts.collect::<Result<Vec<Part>, _>>()?;
                let shown = |part| match part {
                    Part::Text(text) => serde_json::json!({"type": "text", "text": text}),
                    Part::Picture => serde_json::json!({"type": "image"}),
                };
                let text = |part| match part {
                    Part::Text(text) => Some(text),
                    Part::Picture => None,
                };
                if takes_parts {
                    Ok(parts.into_iter().map(shown).collect())
                } else {
                    Ok(parts.into_iter().filter_map(text).collect::<Vec<_>>().join("\n").into())
                }
            }
            Some(other) => Err(wrong(at, "a string or an array of parts", other)),
        }
    }

    fn part(&mut self, at: &str, part: &mut Value, takes_parts: bool) -> Result<Part, ApiError> {
        let Some(map) = part.as_object_mut() else { return Err(wrong(at, "an object", part)) };
        let kind = match map.get("type") {
            None => return Err(ApiError::Missing { param: format!("{at}.type") }),
            Some(kind) => kind.as_str().ok_or_else(|| wrong(&format!("{at}.type"), "a string", kind))?,
        };
        match kind {
            "text" => match map.get("text") {
                Some(Value::String(text)) => Ok(Part::Text(text.clone())),
                None => Err(ApiError::Missing { param: format!("{at}.text") }),
                Some(other) => {
                    let (param, found) = (format!("{at}.text"), kind_of(other));
                    Err(ApiError::WrongType { param, expected: "a string", found })
                }
            },
            "image_url" | "image" => {
                let source = picture(at, map)?;
                let reason = match (self.sees, takes_parts) {
                    (false, _) => "the model reads text alone",
                    (true, false) => "the model's chat template has no place for pictures here",
                    (true, true) => {
                        self.pictures.push(source);
                        return Ok(Part::Picture);
                    }
                };
                Err(ApiError::Unsupported { param: source.param, reason })
            }
            other => {
                let param = format!("{at}.{}", quote(other));
                Err(ApiError::Unsupported { param, reason: "parts of type `text` and `image_url` only" })
            }
        }
    }
}

/// One part of a message.
enum Part {
    Text(String),
    Picture,
}

/// The picture of a part: `{"type": "image_url", "image_url": {"url": …, "detail": …}}` as OpenAI has it, where `detail` is not
/// looked at, since a picture has one size for a model; `"image_url": "…"`; or `{"type": "image", "image": "…"}` (or `url`)
/// as chat templates name it.
fn picture(at: &str, map: &mut Map<String, Value>) -> Result<PictureSource, ApiError> {
    let Some(key) = ["image_url", "image", "url"].into_iter().find(|key| map.contains_key(*key)) else {
        return Err(ApiError::Missing { param: format!("{at}.image_url") });
    };
    let param = format!("{at}.{key}");
    match map.get_mut(key).map(Value::take) {
        Some(Value::String(url)) => Ok(PictureSource::new(param, url)),
        Some(Value::Object(mut inner)) => match inner.get_mut("url").map(Value::take) {
            Some(Value::String(url)) => Ok(PictureSource::new(param, url)),
            None => Err(ApiError::Missing { param: format!("{param}.url") }),
            Some(other) => Err(wrong(&format!("{param}.url"), "a string", &other)),
        },
        other => Err(wrong(&param, "an object with a url", &other.unwrap_or_default())),
    }
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

fn role(at: &str, map: &Map<String, Value>, template: &ChatTemplate) -> Result<&'static str, ApiError> {
    let param = format!("{at}.role");
    let role = match map.get("role") {
        None | Some(Value::Null) => return Err(ApiError::Missing { param }),
        Some(Value::String(role)) => role.as_str(),
        Some(other) => return Err(wrong(&param, "a string", other)),
    };
    match role {
        "developer" => Ok("system"),
        "tool" if template.writes_tool_calls() => Ok("tool"),
        "tool" | "function" => {
            let reason = "the model's chat template has no words for tool calls";
            Err(ApiError::Unsupported { param, reason })
        }
        other => ROLES.into_iter().find(|role| *role == other).ok_or_else(|| {
            let expected = format!("one of {}", ROLES.join(", "));
            ApiError::InvalidValue { param, found: quote(other), expected }
        }),
    }
}
