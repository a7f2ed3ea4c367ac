//! The arguments of one tool call as JSON, written while they are spoken.
//!
//! Not here: where a key or value ends. Invariant: the text so far is a prefix of one JSON object.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

/// Which parameters of which tool are texts: their values are spoken as they are, all others as JSON.
#[derive(Debug, Clone, Default)]
pub(in crate::gateway) struct ToolTypes {
    texts: HashMap<String, HashSet<String>>,
    others: HashMap<String, HashSet<String>>,
}

/// What a parameter's schema says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum Kind {
    /// A text.
    Text,
    /// Anything else.
    Json,
    /// Nothing is known: JSON where it is JSON.
    Unknown,
}

impl ToolTypes {
    /// Reads OpenAI's `tools`; what is not a function with a schema is left out.
    pub(in crate::gateway) fn of(tools: &[Value]) -> Self {
        let mut types = Self::default();
        for tool in tools {
            let function = tool.get("function").unwrap_or(tool);
            let Some(name) = function.get("name").and_then(Value::as_str) else { continue };
            let properties = function.pointer("/parameters/properties").and_then(Value::as_object);
            for (key, schema) in properties.into_iter().flatten() {
                let of_kind = match kind(schema) {
                    Kind::Text => &mut types.texts,
                    Kind::Json => &mut types.others,
                    Kind::Unknown => continue,
                };
                of_kind.entry(name.to_owned()).or_default().insert(key.clone());
            }
        }
        types
    }

    pub(super) fn kind(&self, tool: &str, key: &str) -> Kind {
        let has = |of_kind: &HashMap<String, HashSet<String>>| of_kind.get(tool).is_some_and(|keys| keys.contains(key));
        if has(&self.texts) {
            Kind::Text
        } else if has(&self.others) {
            Kind::Json
        } else {
            Kind::Unknown
        }
    }
}

fn kind(schema: &Value) -> Kind {
    match schema.get("type") {
        Some(Value::String(name)) if name == "string" => Kind::Text,
        Some(Value::String(_)) => Kind::Json,
        _ if schema.get("enum").and_then(Value::as_array).is_some_and(|of| of.iter().all(Value::is_string)) => {
            Kind::Text
        }
        _ => Kind::Unknown,
    }
}

/// The object so far.
#[derive(Debug, Default)]
pub(in crate::gateway) struct Arguments {
    keys: usize,
}

impl Arguments {
    /// Opens the next member.
    pub(super) fn key(&mut self, key: &str, out: &mut String) {
        out.push_str(if self.keys == 0 { "{" } else { ", " });
        self.keys += 1;
        out.push_str(&quoted(key));
        out.push_str(": ");
    }

    /// Closes the object.
    pub(super) fn end(&self, out: &mut String) {
        out.push_str(if self.keys == 0 { "{}" } else { "}" });
    }
}

/// A text as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The inside of a JSON string: a part of a text.
pub(super) fn escaped(part: &str) -> String {
    let quoted = quoted(part);
    quoted[1..quoted.len() - 1].to_owned()
}

/// A whole value that is not known to be a text.
pub(super) fn value(spoken: &str) -> String {
    match serde_json::from_str::<Value>(spoken.trim()) {
        Ok(value) => value.to_string(),
        Err(_) => quoted(spoken),
    }
}
