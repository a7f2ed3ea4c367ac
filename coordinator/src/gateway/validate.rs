//! From a raw request to one that can be generated: types, ranges, defaults, limits.
//!
//! Invariant: whoever holds a [`ValidRequest`] need not check anything again; rank 0 will not refuse it.

use std::sync::Arc;

use protocol::generate::SamplingParams;

use super::bundle::Bundle;
use super::errors::ApiError;
use super::fields::RawRequest;
use super::output::OutputRules;
use super::sampling::{Asked, sampling};
use super::state::Target;
use super::style::Style;
use super::{rules, unsupported};

/// A request that can be generated.
#[derive(Debug)]
pub(super) struct ValidRequest {
    /// What serves it.
    pub(super) target: Target,
    /// Never empty, every id below the vocabulary.
    pub(super) prompt_ids: Arc<[u32]>,
    /// `max_tokens` fits the context.
    pub(super) sampling: SamplingParams,
    /// How the output is read.
    pub(super) rules: OutputRules,
    /// How it is told.
    pub(super) style: Style,
}

/// Which of the two endpoints; their fields differ a little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
}

/// All of a request but its prompt, checked.
#[derive(Debug)]
pub(super) struct Options {
    asked: Asked,
    rules: OutputRules,
    style: Style,
}

impl Options {
    /// # Errors
    /// Each [`ApiError`] about a parameter.
    pub(super) fn read(raw: &RawRequest, endpoint: Endpoint, bundle: &Bundle) -> Result<Self, ApiError> {
        unsupported::check(raw, endpoint)?;
        let style = Style::read(raw)?;
        let asked = sampling(raw, endpoint, bundle)?;
        let rules = rules::read(raw, bundle)?;
        Ok(Self { asked, rules, style })
    }

    /// Joins prompt and options, and holds both to the context.
    ///
    /// # Errors
    /// [`ApiError::ContextLength`], [`ApiError::InvalidValue`] for an empty prompt.
    pub(super) fn with_prompt(self, prompt_ids: Vec<u32>, target: Target) -> Result<ValidRequest, ApiError> {
        let Self { asked, rules, style } = self;
        if prompt_ids.is_empty() {
            let found = "empty".to_owned();
            return Err(ApiError::InvalidValue {
                param: "prompt".to_owned(),
                found,
                expected: "at least one token".to_owned(),
            });
        }
        let limit = target.context_tokens;
        let too_long =
            ApiError::ContextLength { limit, prompt: prompt_ids.len(), at_least: "", max_tokens: asked.max_tokens };
        let rest = u32::try_from(prompt_ids.len()).ok().and_then(|n| limit.checked_sub(n)).filter(|n| *n > 0);
        let max_tokens = match (rest, asked.max_tokens) {
            (None, _) => {
                return Err(ApiError::ContextLength {
                    limit,
                    prompt: prompt_ids.len(),
                    at_least: "",
                    max_tokens: None,
                });
            }
            (Some(rest), Some(asked)) if asked > rest => return Err(too_long),
            (Some(_), Some(asked)) => asked,
            (Some(rest), None) => target.bundle.defaults.max_new_tokens.map_or(rest, |n| n.min(rest)),
        };
        if rules.min_tokens > max_tokens {
            let found = rules.min_tokens.to_string();
            let expected = format!("at most max_tokens, here {max_tokens}");
            return Err(ApiError::InvalidValue { param: "min_tokens".to_owned(), found, expected });
        }
        let sampling = SamplingParams {
            max_tokens,
            min_tokens: rules.min_tokens,
            stop_token_ids: rules.stop_ids.clone(),
            ..asked.params
        };
        Ok(ValidRequest { target, prompt_ids: prompt_ids.into(), sampling, rules, style })
    }
}

/// The ids of a prompt's text, unless it is plainly too long for the context.
///
/// # Errors
/// [`ApiError::ContextLength`].
pub(super) fn encode(text: &str, add_special: bool, target: &Target) -> Result<Vec<u32>, ApiError> {
    let limit = target.context_tokens;
    let least = target.bundle.tokenizer.tokens_min(text.len());
    if least > limit as usize {
        return Err(ApiError::ContextLength { limit, prompt: least, at_least: "at least ", max_tokens: None });
    }
    target.bundle.tokenizer.encode(text, add_special).map_err(|e| {
        tracing::error!(error = %e, "encoding failed");
        ApiError::Internal { what: "tokenizer" }
    })
}
