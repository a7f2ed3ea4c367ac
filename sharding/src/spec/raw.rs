//! Typed, bounded look-ups in a parsed configuration file.
//!
//! Not here: which keys a model has. Invariant: a number that leaves this file lies in the range its caller named.

use std::fmt::Display;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::SpecError;

/// Largest text of a configuration, bytes.
const CONFIG_BYTES_MAX: usize = 1 << 20;

/// The object that is the whole of a file.
pub(super) fn object(file: &'static str, text: &str) -> Result<Map<String, Value>, SpecError> {
    let refused = |found: String| SpecError::NotAnObject { file, found };
    if text.len() > CONFIG_BYTES_MAX {
        return Err(refused(format!("{} bytes, more than {CONFIG_BYTES_MAX}", text.len())));
    }
    match serde_json::from_str(text).map_err(|e| refused(e.to_string()))? {
        Value::Object(map) => Ok(map),
        other => Err(refused(other.to_string().chars().take(40).collect())),
    }
}

/// One object of the configuration with the path that leads to it, for messages.
#[derive(Clone, Copy)]
pub(super) struct Section<'a> {
    file: &'static str,
    path: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Section<'a> {
    pub(super) fn root(file: &'static str, map: &'a Map<String, Value>) -> Self {
        Self { file, path: "", map }
    }

    /// The object under `key`; `null` counts as absent.
    pub(super) fn child(&self, key: &'a str) -> Result<Option<Section<'a>>, SpecError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Section { file: self.file, path: key, map })),
            Some(other) => Err(self.invalid(key, "an object", other)),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn invalid(&self, key: &str, expected: impl Display, found: impl Display) -> SpecError {
        let found: String = found.to_string().chars().take(80).collect();
        SpecError::Invalid { file: self.file, key: self.key(key), expected: expected.to_string(), found }
    }

    pub(super) fn number(&self, key: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, SpecError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(n) if range.contains(&n) => Ok(Some(n)),
            _ => Err(self.invalid(key, format_args!("a whole number {}..={}", range.start(), range.end()), value)),
        }
    }

    pub(super) fn required(&self, key: &str, range: RangeInclusive<u32>) -> Result<u32, SpecError> {
        self.number(key, range.clone())?.ok_or_else(|| SpecError::Missing {
            file: self.file,
            key: self.key(key),
            expected: format!("a whole number {}..={}", range.start(), range.end()),
        })
    }

    /// A number in `range` (ends included).
    pub(super) fn float(&self, key: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, SpecError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(x) if range.contains(&x) => Ok(Some(x)),
            _ => Err(self.invalid(key, format_args!("a number {:e}..={:e}", range.start(), range.end()), value)),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, SpecError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.invalid(key, "true or false", value))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, SpecError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.invalid(key, "a string", value))
    }

    /// One number or a list of at most `len_max` of them; absent means none.
    pub(super) fn numbers(&self, key: &str, len_max: usize, below: u32) -> Result<Vec<u32>, SpecError> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let bad = || self.invalid(key, format_args!("at most {len_max} whole numbers below {below}"), value);
        let one = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n < below).ok_or_else(bad);
        match value {
            Value::Array(items) if items.len() <= len_max => items.iter().map(one).collect(),
            Value::Array(_) => Err(bad()),
            single => Ok(vec![one(single)?]),
        }
    }
}
