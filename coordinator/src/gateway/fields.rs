//! The body of a request as it came: a JSON object whose members are read by name and type.
//!
//! Unknown members are not looked at, `null` counts as absent: both as OpenAI's own server has it. Nothing downstream
//! of [`super::validate`] holds one of these.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::errors::{ApiError, quote};

/// A raw request.
#[derive(Debug)]
pub(super) struct RawRequest(Map<String, Value>);

impl RawRequest {
    /// # Errors
    /// [`ApiError::MalformedJson`] with the place, [`ApiError::NotAnObject`].
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let value: Value = serde_json::from_slice(body).map_err(|e| {
            let text = e.to_string();
            let reason = text.split(" at line ").next().unwrap_or_default().to_owned();
            ApiError::MalformedJson { reason, line: e.line(), column: e.column() }
        })?;
        match value {
            Value::Object(map) => Ok(Self(map)),
            other => Err(ApiError::NotAnObject { found: kind_of(&other) }),
        }
    }

    /// A member that is there and not null.
    pub(super) fn get(&self, param: &str) -> Option<&Value> {
        self.0.get(param).filter(|v| !v.is_null())
    }

    /// Takes a member out, so that a large one is not copied.
    pub(super) fn take(&mut self, param: &str) -> Option<Value> {
        self.0.get_mut(param).map(Value::take).filter(|v| !v.is_null())
    }

    /// # Errors
    /// [`ApiError::WrongType`].
    pub(super) fn boolean(&self, param: &str) -> Result<Option<bool>, ApiError> {
        self.get(param).map(|v| v.as_bool().ok_or_else(|| wrong(param, "a boolean", v))).transpose()
    }

    /// # Errors
    /// [`ApiError::WrongType`].
    pub(super) fn string(&self, param: &str) -> Result<Option<&str>, ApiError> {
        self.get(param).map(|v| v.as_str().ok_or_else(|| wrong(param, "a string", v))).transpose()
    }

    /// A number in a range.
    ///
    /// # Errors
    /// [`ApiError::WrongType`], [`ApiError::InvalidValue`].
    pub(super) fn number(&self, param: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.get(param) else { return Ok(None) };
        number_in(param, value, range).map(Some)
    }

    /// An integer in a range; `3.0` is one.
    ///
    /// # Errors
    /// [`ApiError::WrongType`], [`ApiError::InvalidValue`].
    pub(super) fn integer(&self, param: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.get(param) else { return Ok(None) };
        integer_in(param, value, range).map(Some)
    }

    /// A list, or nothing.
    ///
    /// # Errors
    /// [`ApiError::WrongType`].
    pub(super) fn list(&self, param: &str) -> Result<&[Value], ApiError> {
        match self.get(param) {
            None => Ok(&[]),
            Some(Value::Array(items)) => Ok(items),
            Some(other) => Err(wrong(param, "an array", other)),
        }
    }
}

/// One value as a number in a range.
pub(super) fn number_in(param: &str, value: &Value, range: RangeInclusive<f64>) -> Result<f64, ApiError> {
    let number = value.as_f64().ok_or_else(|| wrong(param, "a number", value))?;
    if !range.contains(&number) {
        return Err(out_of(param, value, &range));
    }
    Ok(number)
}

/// One value as an integer in a range.
pub(super) fn integer_in(param: &str, value: &Value, range: RangeInclusive<i64>) -> Result<i64, ApiError> {
    let whole = |x: f64| x.fract() == 0.0 && x.abs() < 9e15;
    #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
    let integer = value.as_i64().or_else(|| value.as_f64().filter(|x| whole(*x)).map(|x| x as i64));
    match integer {
        Some(n) if range.contains(&n) => Ok(n),
        Some(_) => Err(out_of(param, value, &range)),
        None if value.is_u64() => Err(out_of(param, value, &range)),
        None => Err(wrong(param, "an integer", value)),
    }
}

fn out_of<T: std::fmt::Display>(param: &str, value: &Value, range: &RangeInclusive<T>) -> ApiError {
    let expected = format!("{} to {}", range.start(), range.end());
    ApiError::InvalidValue { param: param.to_owned(), found: quote(&value.to_string()), expected }
}

/// A value of the wrong type.
pub(super) fn wrong(param: &str, expected: &'static str, found: &Value) -> ApiError {
    ApiError::WrongType { param: param.to_owned(), expected, found: kind_of(found) }
}

/// What a value is, in the words of a message.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(n) if n.is_f64() => "a number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_json_says_where() {
        let error = RawRequest::parse(b"{\n  \"model\": \"x\",\n  oops\n}").unwrap_err();
        assert!(matches!(error, ApiError::MalformedJson { line: 3, column: 3, .. }), "{error:?}");
        assert_eq!(error.to_string(), "the request body is not valid JSON: key must be a string at line 3 column 3");
        let error = RawRequest::parse(b"[1]").unwrap_err();
        assert_eq!(error.to_string(), "the request body must be a JSON object, found an array");
        assert!(RawRequest::parse(&[b'{', b'"', 0xff, b'"', b':', b'1', b'}']).is_err());
        assert!(RawRequest::parse("[".repeat(10_000).as_bytes()).is_err());
        assert!(RawRequest::parse(b"").is_err());
    }

    #[test]
    fn types_and_ranges_are_named() {
        let raw =
            RawRequest::parse(br#"{"t": 3, "s": "x", "i": 2.5, "n": null, "big": 18446744073709551615, "w": 4.0}"#)
                .unwrap();
        assert_eq!(raw.number("t", 0.0..=2.0).unwrap_err().to_string(), "`t` is 3, expected 0 to 2");
        assert_eq!(raw.number("s", 0.0..=2.0).unwrap_err().to_string(), "`s` must be a number, found a string");
        assert_eq!(raw.integer("i", 0..=9).unwrap_err().to_string(), "`i` must be an integer, found a number");
        assert!(matches!(raw.integer("big", 0..=9), Err(ApiError::InvalidValue { .. })));
        assert_eq!(raw.integer("w", 0..=9), Ok(Some(4)));
        assert_eq!(raw.number("n", 0.0..=2.0), Ok(None));
        assert_eq!(raw.boolean("absent"), Ok(None));
    }
}
