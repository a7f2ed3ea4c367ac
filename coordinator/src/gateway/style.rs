//! The fields that decide how an answer is told, not what it is.

use super::errors::ApiError;
use super::fields::{RawRequest, kind_of};

/// How an answer is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Style {
    /// By server-sent events.
    pub(super) stream: bool,
    /// With a last chunk that counts tokens.
    pub(super) include_usage: bool,
    /// With the ids of prompt and answer.
    pub(super) return_token_ids: bool,
}

impl Style {
    pub(super) fn read(raw: &RawRequest) -> Result<Self, ApiError> {
        let stream = raw.boolean("stream")?.unwrap_or(false);
        let return_token_ids = raw.boolean("return_token_ids")?.unwrap_or(false);
        let include_usage = match raw.get("stream_options") {
            None => false,
            Some(_) if !stream => {
                let (found, expected) = ("given".to_owned(), "only together with `stream`: true".to_owned());
                return Err(ApiError::InvalidValue { param: "stream_options".to_owned(), found, expected });
            }
            Some(options) => include_usage(options)?,
        };
        Ok(Self { stream, include_usage, return_token_ids })
    }
}

fn include_usage(options: &serde_json::Value) -> Result<bool, ApiError> {
    let wrong = |param: &str, expected, found| ApiError::WrongType { param: param.to_owned(), expected, found };
    let map = options.as_object().ok_or_else(|| wrong("stream_options", "an object", kind_of(options)))?;
    match map.get("include_usage").filter(|v| !v.is_null()) {
        None => Ok(false),
        Some(v) => v.as_bool().ok_or_else(|| wrong("stream_options.include_usage", "a boolean", kind_of(v))),
    }
}
