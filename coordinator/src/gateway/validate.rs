//! From a raw request to one that can be generated: types, ranges, defaults, limits.
//!
//! Invariant: whoever holds a [`ValidRequest`] need not check anything again; rank 0 will not refuse it.

use std::time::Duration;

use protocol::generate::{CHOICES_MAX, Grammar, SamplingParams};

use super::admission::Demand;
use super::bundle::Bundle;
use super::errors::ApiError;
use super::fields::RawRequest;
use super::output::OutputRules;
use super::pictures::Shown;
use super::prompt::{Echo, Prompt};
use super::sampling::{Asked, sampling};
use super::spoken::SpeechRules;
use super::state::Target;
use super::style::Style;
use super::terms::Terms;
use super::{rules, unsupported};

/// What any request takes up, whatever it says, bytes.
const FIXED_BYTES: usize = 2048;

/// A request that can be generated.
#[derive(Debug)]
pub(super) struct ValidRequest {
    /// What serves it.
    pub(super) target: Target,
    /// At least one.
    pub(super) prompts: Vec<Prompt>,
    /// Answers to each prompt, at least one. Prompts × choices are at most [`CHOICES_MAX`].
    pub(super) choices: u16,
    /// All but what differs by prompt: see [`Self::sampling_of`].
    pub(super) sampling: SamplingParams,
    /// How the output is read.
    pub(super) rules: OutputRules,
    /// How it is told.
    pub(super) style: Style,
    /// What of the answer is split off, on `/v1/chat/completions`.
    pub(super) speech: Option<SpeechRules>,
    /// When and before whom.
    pub(super) terms: Terms,
}

impl ValidRequest {
    /// What rank 0 is told for one prompt. Where only the prompt is to be told, one token is computed and dropped: it
    /// comes out of the prompt's own step.
    pub(super) fn sampling_of(&self, prompt: &Prompt) -> SamplingParams {
        SamplingParams { max_tokens: prompt.max_tokens.max(1), ..self.sampling.clone() }
    }

    /// What one prompt asks of admission. What all prompts share is held as long as any of them waits; it counts with the
    /// first.
    pub(super) fn demand(&self, prompt: usize) -> Demand {
        let shared = if prompt == 0 { self.shared_bytes() } else { 0 };
        let prompt = &self.prompts[prompt];
        Demand {
            prompt: u32::try_from(prompt.ids.len()).unwrap_or(u32::MAX),
            answer_max: prompt.max_tokens.max(1),
            choices: self.choices,
            bytes: (shared + prompt.bytes()) as u64,
        }
    }

    /// What it holds in memory beside its prompts, bytes; small things are counted by their usual size.
    fn shared_bytes(&self) -> usize {
        let sampling = &self.sampling;
        let stops: usize = self.rules.stop.iter().map(String::len).sum();
        let grammar = sampling.grammar.as_ref().map_or(0, Grammar::len);
        let biases = sampling.logit_bias.len() * size_of::<(u32, f32)>();
        FIXED_BYTES + stops + grammar + biases + self.target.model.len() + self.terms.cache_salt.len()
    }

    /// The prompt that the choice of this index, counted over all prompts, answers.
    pub(super) fn prompt_of(&self, choice: usize) -> &Prompt {
        &self.prompts[choice / usize::from(self.choices)]
    }

    /// Whether the choice of this index is the first of its prompt.
    pub(super) fn is_first(&self, choice: usize) -> bool {
        choice.is_multiple_of(usize::from(self.choices))
    }

    /// Number of choices over all prompts.
    pub(super) fn choices_in_all(&self) -> usize {
        self.prompts.len() * usize::from(self.choices)
    }
}

/// Which of the two endpoints; their fields differ a little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
}

/// All of a request but its prompts, checked.
#[derive(Debug)]
pub(super) struct Options {
    asked: Asked,
    choices: u16,
    rules: OutputRules,
    style: Style,
    terms: Terms,
}

/// A prompt as it was encoded.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) ids: Vec<u32>,
    pub(super) echo: Option<Echo>,
    pub(super) pictures: Shown,
}

impl Encoded {
    /// A prompt of text alone.
    pub(super) fn text(ids: Vec<u32>, echo: Option<Echo>) -> Self {
        Self { ids, echo, pictures: Shown::default() }
    }
}

impl Options {
    /// # Errors
    /// Each [`ApiError`] about a parameter.
    pub(super) fn read(raw: &RawRequest, endpoint: Endpoint, bundle: &Bundle, terms: Terms) -> Result<Self, ApiError> {
        unsupported::check(raw, endpoint)?;
        let style = Style::read(raw, endpoint)?;
        let mut asked = sampling(raw, endpoint, bundle)?;
        asked.params.prompt_logprobs = style.prompt_logprobs.max(asked.params.logprobs.filter(|_| style.echo));
        let rules = rules::read(raw, bundle)?;
        Ok(Self { asked, choices: choices(raw)?, rules, style, terms })
    }

    /// Whether prompts are to be repeated.
    pub(super) fn echo(&self) -> bool {
        self.style.echo
    }

    /// Whether the answer is streamed.
    pub(super) fn streams(&self) -> bool {
        self.style.stream
    }

    /// How long the request may take.
    pub(super) fn timeout(&self) -> Duration {
        self.terms.timeout
    }

    /// Joins prompts and options, and holds them to the context.
    ///
    /// # Errors
    /// [`ApiError::ContextLength`], [`ApiError::InvalidValue`] for an empty prompt or too many choices.
    pub(super) fn with_prompts(self, prompts: Vec<Encoded>, target: Target) -> Result<ValidRequest, ApiError> {
        let in_all = prompts.len().saturating_mul(usize::from(self.choices));
        if in_all > CHOICES_MAX {
            let found = format!("{} for each of {} prompts", self.choices, prompts.len());
            let expected = format!("at most {CHOICES_MAX} choices in all");
            return Err(ApiError::InvalidValue { param: "n".to_owned(), found, expected });
        }
        let prompts = prompts.into_iter().map(|p| self.prompt(p, &target)).collect::<Result<Vec<_>, _>>()?;
        let Self { asked, choices, rules, style, terms } = self;
        let sampling =
            SamplingParams { min_tokens: rules.min_tokens, stop_token_ids: rules.stop_ids.clone(), ..asked.params };
        Ok(ValidRequest { target, prompts, choices, sampling, rules, style, speech: None, terms })
    }

    fn prompt(&self, prompt: Encoded, target: &Target) -> Result<Prompt, ApiError> {
        let Encoded { ids, echo, pictures } = prompt;
        if ids.is_empty() {
            let (param, found) = ("prompt".to_owned(), "empty".to_owned());
            return Err(ApiError::InvalidValue { param, found, expected: "at least one token".to_owned() });
        }
        let limit = target.context_tokens;
        let too_long = |max_tokens| ApiError::ContextLength { limit, prompt: ids.len(), at_least: "", max_tokens };
        let rest = u32::try_from(ids.len()).ok().and_then(|n| limit.checked_sub(n)).filter(|n| *n > 0);
        let max_tokens = match (rest, self.asked.max_tokens) {
            (None, _) => return Err(too_long(None)),
            (Some(rest), Some(asked)) if asked > rest => return Err(too_long(Some(asked))),
            (Some(_), Some(asked)) => asked,
            (Some(rest), None) => target.bundle.defaults.max_new_tokens.map_or(rest, |n| n.min(rest)),
        };
        if self.rules.min_tokens > max_tokens {
            let found = self.rules.min_tokens.to_string();
            let expected = format!("at most max_tokens, here {max_tokens}");
            return Err(ApiError::InvalidValue { param: "min_tokens".to_owned(), found, expected });
        }
        Ok(Prompt { ids: ids.into(), max_tokens, echo, pictures })
    }
}

/// `n`, and the older `best_of`, of which all are told.
fn choices(raw: &RawRequest) -> Result<u16, ApiError> {
    let most = CHOICES_MAX as i64;
    let n = raw.integer("n", 1..=most)?.unwrap_or(1);
    if raw.integer("best_of", 1..=most)?.is_some_and(|best_of| best_of != n) {
        let reason = "only as many as `n`: every choice is told";
        return Err(ApiError::Unsupported { param: "best_of".to_owned(), reason });
    }
    Ok(u16::try_from(n).expect("checked to be in range"))
}
