//! One request to rank 0 of a replica, and the events that come back on the same stream.
//!
//! ```text
//!  gateway                                rank 0
//!   │ ── GenerateRequest ─────────────────▶ │
//!   │ ── Picture* ────────────────────────▶ │   the levels of each picture of the prompt, in order
//!   │ ◀── Started ───────────────────────── │   it has entered its first step
//!   │ ◀── Prompt* ───────────────────────── │   where prompt logprobs were asked for
//!   │ ◀── Tokens*, Finished (each choice) ─ │   the last choice's Finished ends the stream
//!   │ ── EndChoice* ──────────────────────▶ │   a stop string was found: compute no more of this choice
//!   │ ── reset ───────────────────────────▶ │   cancels all of it
//! ```
//! `Choice::resume` holds tokens that an earlier, lost attempt has already sent: they count as output (penalties, seed
//! position, limits) and are not sent again.
#![expect(missing_docs, reason = "rkyv's derive repeats the fields of enum variants without their docs")]

use rkyv::{Archive, Deserialize, Serialize};

use crate::frame::message;
use crate::picture::{PicturePlace, validate_places};
use crate::{ReplicaId, RequestId};

/// Most logprobs a position.
pub const TOP_LOGPROBS_MAX: u8 = 20;
/// Most ids that stop a sequence.
pub const STOP_IDS_MAX: usize = 64;
/// Most tokens in one prompt and its answer.
pub const CONTEXT_TOKENS_MAX: usize = 1 << 20;
/// Most entries of a logit bias.
pub const LOGIT_BIAS_MAX: usize = 1024;
/// Most choices (OpenAI's `n`) of one request.
pub const CHOICES_MAX: usize = 128;
/// Longest text of a grammar, bytes.
pub const GRAMMAR_BYTES_MAX: usize = 256 << 10;
/// Longest salt of the prefix cache, bytes.
pub const CACHE_SALT_BYTES_MAX: usize = 256;

/// What an output must match from its first token to its last.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Grammar {
    /// Any JSON object.
    JsonObject,
    /// JSON that this JSON Schema admits.
    JsonSchema(String),
    /// A text that this regular expression matches as a whole.
    Regex(String),
    /// llguidance's dialect of Lark.
    Lark(String),
}

impl Grammar {
    /// Length of its text, bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an empty text is a grammar like any other")]
    pub fn len(&self) -> usize {
        match self {
            Self::JsonObject => 0,
            Self::JsonSchema(text) | Self::Regex(text) | Self::Lark(text) => text.len(),
        }
    }
}

/// Who goes first where there is not room for all; within one class, whoever came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Archive, Serialize, Deserialize)]
pub enum Priority {
    /// Before all others.
    High,
    /// The default.
    #[default]
    Normal,
    /// When nobody else wants to.
    Low,
}

/// How the next token is chosen. The order of effects is DESIGN §5's.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus mass in (0, 1].
    pub top_p: f32,
    /// Keep the k best; 0 keeps all.
    pub top_k: u32,
    /// Keep those at least this share of the best's probability; 0 keeps all.
    pub min_p: f32,
    /// Divides (or multiplies) logits of tokens seen in prompt or output; 1 is none.
    pub repetition_penalty: f32,
    /// Subtracted once for a token in the output so far.
    pub presence_penalty: f32,
    /// Subtracted for each time a token stands in the output so far.
    pub frequency_penalty: f32,
    /// Added to the logits of these ids.
    pub logit_bias: Vec<(u32, f32)>,
    /// Key of the counter-based generator.
    pub seed: u64,
    /// Most tokens to produce, those of `resume` included.
    pub max_tokens: u32,
    /// Stop ids count only from this many output tokens on.
    pub min_tokens: u32,
    /// Ids that end the sequence; the generation config's eos ids among them unless the request ignores those.
    pub stop_token_ids: Vec<u32>,
    /// `Some(n)`: the chosen token's logprob and the n best, before penalties and temperature.
    pub logprobs: Option<u8>,
    /// `Some(n)`: the same of each prompt token but the first.
    pub prompt_logprobs: Option<u8>,
    /// What the output must match.
    pub grammar: Option<Grammar>,
}

impl SamplingParams {
    /// Greedy, `max_tokens` long, no stop ids.
    #[must_use]
    pub fn greedy(max_tokens: u32) -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            max_tokens,
            min_tokens: 0,
            stop_token_ids: Vec::new(),
            logprobs: None,
            prompt_logprobs: None,
            grammar: None,
        }
    }

    fn validate(&self) -> Result<(), String> {
        let in_range = |what: &str, x: f32, lo: f32, hi: f32| {
            if x.is_finite() && (lo..=hi).contains(&x) {
                Ok(())
            } else {
                Err(format!("{what} {x} is not in {lo}..={hi}"))
            }
        };
        in_range("temperature", self.temperature, 0.0, 100.0)?;
        in_range("top_p", self.top_p, f32::MIN_POSITIVE, 1.0)?;
        in_range("min_p", self.min_p, 0.0, 1.0)?;
        in_range("repetition_penalty", self.repetition_penalty, 1e-3, 1e3)?;
        in_range("presence_penalty", self.presence_penalty, -100.0, 100.0)?;
        in_range("frequency_penalty", self.frequency_penalty, -100.0, 100.0)?;
        self.logit_bias.iter().try_for_each(|(_, b)| in_range("logit_bias", *b, -100.0, 100.0))?;
        if self.logit_bias.len() > LOGIT_BIAS_MAX {
            return Err(format!("{} logit biases, at most {LOGIT_BIAS_MAX}", self.logit_bias.len()));
        }
        if self.stop_token_ids.len() > STOP_IDS_MAX {
            return Err(format!("{} stop ids, at most {STOP_IDS_MAX}", self.stop_token_ids.len()));
        }
        if let Some(n) = self.logprobs.max(self.prompt_logprobs).filter(|n| *n > TOP_LOGPROBS_MAX) {
            return Err(format!("{n} logprobs a position, at most {TOP_LOGPROBS_MAX}"));
        }
        if let Some(bytes) = self.grammar.as_ref().map(Grammar::len).filter(|n| *n > GRAMMAR_BYTES_MAX) {
            return Err(format!("a grammar of {bytes} bytes, at most {GRAMMAR_BYTES_MAX}"));
        }
        Ok(())
    }
}

/// One answer to the prompt.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Choice {
    /// Its number among the request's; a part of the generator's counter, so that choices differ under one seed.
    pub index: u16,
    /// Output tokens that the client already has.
    pub resume: Vec<u32>,
}

impl Choice {
    /// The only choice of a fresh request.
    #[must_use]
    pub fn only() -> Self {
        Self { index: 0, resume: Vec::new() }
    }
}

/// Coordinator to rank 0.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub struct GenerateRequest {
    /// The client's request.
    pub request_id: RequestId,
    /// The replica that the gateway means; the frame's epoch must be its epoch.
    pub replica: ReplicaId,
    /// The prompt's tokens; never empty.
    pub prompt_ids: Vec<u32>,
    /// The pictures that stand in the prompt; the levels of each follow on the stream, in order.
    pub pictures: Vec<PicturePlace>,
    /// The answers that are still wanted, by ascending index; at least one.
    pub choices: Vec<Choice>,
    /// How to choose.
    pub sampling: SamplingParams,
    /// Who goes first.
    pub priority: Priority,
    /// Prompts share cached KV blocks only under equal salts. Empty is a salt like any other.
    pub cache_salt: String,
    /// How long the request may still take, ms.
    pub deadline_ms: u32,
}
message!(GenerateRequest, GenerateRequest, |r| {
    if r.prompt_ids.is_empty() {
        return Err("an empty prompt".to_owned());
    }
    let longest = r.choices.iter().map(|c| c.resume.len()).max().ok_or("no choice is wanted")?;
    let tokens = r.prompt_ids.len() + longest;
    if tokens > CONTEXT_TOKENS_MAX {
        return Err(format!("{tokens} tokens, at most {CONTEXT_TOKENS_MAX}"));
    }
    if r.choices.iter().any(|c| usize::from(c.index) >= CHOICES_MAX)
        || !r.choices.is_sorted_by(|a, b| a.index < b.index)
    {
        return Err(format!("choices are not ascending indexes below {CHOICES_MAX}"));
    }
    validate_places(r.pictures.iter().copied())?;
    if r.cache_salt.len() > CACHE_SALT_BYTES_MAX {
        return Err(format!("a cache salt of {} bytes, at most {CACHE_SALT_BYTES_MAX}", r.cache_salt.len()));
    }
    r.sampling.validate()
});

/// Coordinator to rank 0, after the request on its stream: this choice has ended, compute no more of it. No
/// [`GenerateEvent::Finished`] follows for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct EndChoice {
    /// Which.
    pub index: u16,
}
message!(EndChoice, EndChoice);

/// One token's logprobs.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub struct TokenLogprobs {
    /// Natural logarithm of the chosen token's probability.
    pub chosen: f32,
    /// The best ids and theirs, best first.
    pub top: Vec<(u32, f32)>,
}

/// One token of the output.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub struct TokenOutput {
    /// Its id.
    pub id: u32,
    /// Where asked for.
    pub logprobs: Option<TokenLogprobs>,
}

/// Why a sequence ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum FinishReason {
    /// A stop id was chosen; it was sent as the last token.
    Stop,
    /// `max_tokens`, or the context is full.
    Length,
}

/// Rank 0 to coordinator.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub enum GenerateEvent {
    /// The request has entered its first step.
    Started {
        /// Prompt tokens whose keys and values were in the prefix cache.
        cached_tokens: u32,
    },
    /// Logprobs of the next prompt positions, from the second on, in order.
    Prompt(Vec<TokenLogprobs>),
    /// The next tokens of one choice, in order; at least one.
    Tokens {
        /// Which choice.
        choice: u16,
        /// The tokens.
        tokens: Vec<TokenOutput>,
    },
    /// One choice ended; the last one's is the last event.
    Finished {
        /// Which choice.
        choice: u16,
        /// Why.
        reason: FinishReason,
    },
    /// The request cannot go on here; nothing follows.
    Failed {
        /// One line for the log.
        reason: String,
        /// Whether another replica, or this one formed anew, could go on with it.
        retryable: bool,
    },
}
message!(GenerateEvent, GenerateEvent);
