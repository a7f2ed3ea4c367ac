//! One request to rank 0 of a replica, and the events that come back on the same stream.
//!
//! The caller resets the stream to cancel. `resume` holds tokens that an earlier, lost attempt has already sent:
//! they count as output (penalties, seed position, limits) and are not sent again.
#![expect(missing_docs, reason = "rkyv's derive repeats the fields of enum variants without their docs")]

use rkyv::{Archive, Deserialize, Serialize};

use crate::frame::message;
use crate::{ReplicaId, RequestId};

/// Most logprobs a position.
pub const TOP_LOGPROBS_MAX: u8 = 20;
/// Most ids that stop a sequence.
pub const STOP_IDS_MAX: usize = 64;
/// Most tokens in one prompt and its answer.
pub const CONTEXT_TOKENS_MAX: usize = 1 << 20;
/// Most entries of a logit bias.
pub const LOGIT_BIAS_MAX: usize = 1024;

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
        if self.logprobs.is_some_and(|n| n > TOP_LOGPROBS_MAX) {
            return Err(format!("{:?} logprobs, at most {TOP_LOGPROBS_MAX}", self.logprobs));
        }
        Ok(())
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
    /// Output tokens that the client already has.
    pub resume: Vec<u32>,
    /// How to choose.
    pub sampling: SamplingParams,
    /// How long the request may still take, ms.
    pub deadline_ms: u32,
}
message!(GenerateRequest, GenerateRequest, |r| {
    if r.prompt_ids.is_empty() {
        return Err("an empty prompt".to_owned());
    }
    let tokens = r.prompt_ids.len() + r.resume.len();
    if tokens > CONTEXT_TOKENS_MAX {
        return Err(format!("{tokens} tokens, at most {CONTEXT_TOKENS_MAX}"));
    }
    r.sampling.validate()
});

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
    /// The next tokens, in order; at least one.
    Tokens(Vec<TokenOutput>),
    /// The sequence ended; nothing follows.
    Finished(FinishReason),
    /// The sequence cannot go on here; nothing follows.
    Failed {
        /// One line for the log.
        reason: String,
        /// Whether another replica, or this one formed anew, could go on with it.
        retryable: bool,
    },
}
message!(GenerateEvent, GenerateEvent);
