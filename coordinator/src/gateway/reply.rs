//! How an answer is told: what the two endpoints have in common.
//!
//! A [`Reply`] makes JSON of deltas. [`whole`] collects an answer into one object; [`super::sse`] tells it in chunks.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::errors::ApiError;
use super::generation::Generation;
use super::output::{Delta, Finish, OutToken};
use super::style::Style;

/// The JSON of one endpoint.
pub(super) trait Reply: Send + 'static {
    /// The chunk that opens a stream.
    fn opening(&mut self) -> Option<String>;
    /// The chunk for what a delta adds, without its end.
    fn chunk(&mut self, delta: &Delta) -> String;
    /// The chunk that tells the end.
    fn ending(&mut self, finish: &Finish) -> String;
    /// The chunk that counts tokens.
    fn usage(&mut self, usage: Usage) -> String;
    /// The whole answer as one object.
    fn whole(self, answer: Answer, usage: Usage) -> String;
}

/// How many tokens.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
}

impl Usage {
    /// Of a generation so far.
    pub(super) fn of(generation: &Generation) -> Self {
        let (prompt, completion) = (generation.request().prompt_ids.len(), generation.tokens());
        Self { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion }
    }
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) tokens: Vec<OutToken>,
    pub(super) finish: Finish,
}

/// Collects a generation to its end.
///
/// # Errors
/// [`ApiError`]; nothing of a broken-off answer is told.
///
/// # Cancel safety
/// Dropping the future cancels the request.
pub(super) async fn whole<R: Reply>(mut generation: Generation, reply: R) -> Result<Response, ApiError> {
    let mut text = String::new();
    let mut tokens = Vec::new();
    while let Some(delta) = generation.next().await? {
        text.push_str(&delta.text);
        tokens.extend(delta.tokens);
        if let Some(finish) = delta.finish {
            let usage = Usage::of(&generation);
            let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
            return Ok((json, reply.whole(Answer { text, tokens, finish }, usage)).into_response());
        }
    }
    Err(ApiError::Internal { what: "generation" })
}

/// Whether a delta has something that this client wants to see.
pub(super) fn worth_a_chunk(delta: &Delta, style: Style, logprobs: bool) -> bool {
    !delta.text.is_empty() || ((style.return_token_ids || logprobs) && !delta.tokens.is_empty())
}

/// OpenAI's word for the end.
pub(super) fn finish_reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::StopString(_) | Finish::StopId(_) => "stop",
        Finish::Length => "length",
    }
}

/// What exactly ended it: vLLM's `stop_reason`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum StopReason {
    Text(String),
    Id(u32),
}

impl StopReason {
    pub(super) fn of(finish: &Finish) -> Option<Self> {
        match finish {
            Finish::StopString(text) => Some(Self::Text(text.clone())),
            Finish::StopId(id) => id.map(Self::Id),
            Finish::Length => None,
        }
    }
}

/// The ids of these tokens, where the client wants them.
pub(super) fn token_ids(tokens: &[OutToken], style: Style) -> Option<Vec<u32>> {
    style.return_token_ids.then(|| tokens.iter().map(|t| t.token.id).collect())
}

/// JSON of a reply's own structs.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("strings and finite numbers always become JSON")
}
