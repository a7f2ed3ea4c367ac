//! The fields that decide how an answer is told, not what it is.

use protocol::generate::TOP_LOGPROBS_MAX;

use super::errors::ApiError;
use super::fields::{RawRequest, kind_of};
use super::validate::Endpoint;

/// How an answer is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Style {
    /// By server-sent events.
    pub(super) stream: bool,
    /// With a last chunk that counts tokens.
    pub(super) include_usage: bool,
    /// With the ids of prompt and answer.
    pub(super) return_token_ids: bool,
    /// With `token_id:N` for the text of each token that has a logprob.
    pub(super) tokens_as_ids: bool,
    /// After the prompt, on `/v1/completions`.
    pub(super) echo: bool,
    /// With vLLM's `prompt_logprobs`: so many alternatives a prompt token.
    pub(super) prompt_logprobs: Option<u8>,
}

impl Style {
    pub(super) fn read(raw: &RawRequest, endpoint: Endpoint) -> Result<Self, ApiError> {
        let stream = raw.boolean("stream")?.unwrap_or(false);
        let include_usage = match raw.get("stream_options") {
            None => false,
            Some(_) if !stream => return Err(not_with("stream_options", "only together with `stream`: true")),
            Some(options) => include_usage(options)?,
        };
        let prompt_logprobs = raw.integer("prompt_logprobs", 0..=i64::from(TOP_LOGPROBS_MAX))?;
        if stream && prompt_logprobs.is_some() {
            return Err(not_with("prompt_logprobs", "only without `stream`"));
        }
        Ok(Self {
            stream,
            include_usage,
            return_token_ids: raw.boolean("return_token_ids")?.unwrap_or(false),
            tokens_as_ids: raw.boolean("return_tokens_as_token_ids")?.unwrap_or(false),
            echo: endpoint == Endpoint::Completions && raw.boolean("echo")?.unwrap_or(false),
            prompt_logprobs: prompt_logprobs.map(|n| u8::try_from(n).expect("checked to be in range")),
        })
    }
}

fn not_with(param: &str, expected: &str) -> ApiError {
    let (param, found, expected) = (param.to_owned(), "given".to_owned(), expected.to_owned());
    ApiError::InvalidValue { param, found, expected }
}

fn include_usage(options: &serde_json::Value) -> Result<bool, ApiError> {
    let wrong = |param: &str, expected, found| ApiError::WrongType { param: param.to_owned(), expected, found };
    let map = options.as_object().ok_or_else(|| wrong("stream_options", "an object", kind_of(options)))?;
    match map.get("include_usage").filter(|v| !v.is_null()) {
        None => Ok(false),
        Some(v) => v.as_bool().ok_or_else(|| wrong("stream_options.include_usage", "a boolean", kind_of(v))),
    }
}
