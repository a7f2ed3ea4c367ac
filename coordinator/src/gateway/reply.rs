//! How an answer is told: what the two endpoints have in common.
//!
//! A [`Reply`] makes JSON of deltas. [`whole`] collects all choices into one object; [`super::sse`] tells them in chunks.
//! Choices are counted over all prompts of the request.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use protocol::generate::TokenLogprobs;
use serde::Serialize;

use super::answers::{Answers, Told};
use super::errors::ApiError;
use super::output::{Delta, Finish, OutToken};
use super::style::Style;

/// The JSON of one endpoint.
pub(super) trait Reply: Send + 'static {
    /// The chunk that opens the stream of one choice; `prompt` as in [`Told::Opened`].
    fn opening(&mut self, choice: usize, prompt: &[TokenLogprobs]) -> Option<String>;
    /// The chunk for what a delta adds, without its end; `None` where that is nothing that can be told yet.
    fn chunk(&mut self, choice: usize, delta: &Delta) -> Option<String>;
    /// As [`Self::opening`], where the client has it already.
    fn skip_opening(&mut self, choice: usize);
    /// As [`Self::chunk`], where the client has it already.
    fn skip(&mut self, choice: usize, delta: &Delta);
    /// The chunk that tells the end of one choice.
    fn ending(&mut self, choice: usize, finish: &Finish) -> String;
    /// The chunk that counts tokens.
    fn usage(&mut self, usage: Usage) -> String;
    /// All of it as one object.
    fn whole(self, whole: Whole, usage: Usage) -> String;
}

/// How many tokens.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptTokens,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct PromptTokens {
    cached_tokens: usize,
}

impl Usage {
    pub(super) fn new(prompt_tokens: usize, cached_tokens: usize, completion_tokens: usize) -> Self {
        let total_tokens = prompt_tokens + completion_tokens;
        Self { prompt_tokens, completion_tokens, total_tokens, prompt_tokens_details: PromptTokens { cached_tokens } }
    }
}

/// Everything that a request was answered.
#[derive(Debug)]
pub(super) struct Whole {
    /// Logprobs of each prompt's tokens from the second on, where they were asked for.
    pub(super) prompts: Vec<Vec<TokenLogprobs>>,
    /// Every choice.
    pub(super) answers: Vec<Answer>,
}

/// One whole choice.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) tokens: Vec<OutToken>,
    pub(super) finish: Finish,
}

/// Collects every choice to its end.
///
/// # Errors
/// [`ApiError`]; nothing of a broken-off answer is told.
///
/// # Cancel safety
/// Dropping the future cancels the request.
pub(super) async fn whole<R: Reply>(mut answers: Answers, reply: R) -> Result<Response, ApiError> {
    let request = answers.request().clone();
    let mut prompts = vec![Vec::new(); request.prompts.len()];
    let mut deltas = vec![Delta::default(); request.choices_in_all()];
    while let Some(told) = answers.next().await? {
        match told {
            Told::Opened { prompt, logprobs } => prompts[prompt] = logprobs,
            Told::Choice { choice, delta } => {
                let all = &mut deltas[choice];
                all.text.push_str(&delta.text);
                all.tokens.extend(delta.tokens);
                all.finish = delta.finish;
            }
        }
    }
    let answer = |all: Delta| Some(Answer { text: all.text, tokens: all.tokens, finish: all.finish? });
    let all = deltas.into_iter().map(answer).collect::<Option<Vec<_>>>();
    let whole = Whole { prompts, answers: all.ok_or(ApiError::Internal { what: "generation" })? };
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((json, reply.whole(whole, answers.usage())).into_response())
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

/// A choice's number as JSON has it.
pub(super) fn index(choice: usize) -> u32 {
    u32::try_from(choice).expect("choices are bounded far below")
}

/// JSON of a reply's own structs.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("strings and finite numbers always become JSON")
}
