//! A request as it is handed to the scheduler, and what becomes of it there.
//!
//! Not here: how tokens are chosen.

use std::sync::Arc;

use protocol::SeqId;
use protocol::generate::{FinishReason, Priority};

use super::picture::PromptPicture;

/// Tokens that an answer is taken to have, where more are allowed, to tell how much work waits.
pub(super) const ANSWER_TOKENS_EXPECTED: usize = 256;

/// A request for one or several answers to a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRequest {
    /// The prompt's tokens; at least one.
    pub prompt: Vec<u32>,
    /// The pictures that stand in it, in order. The ranks have them by the first step that the request is in.
    pub pictures: Arc<[PromptPicture]>,
    /// One entry a choice: output tokens that an earlier attempt produced. They count as output.
    pub choices: Vec<Vec<u32>>,
    /// Most output tokens of a choice, resumed ones included.
    pub max_tokens: u32,
    /// Stop ids count only from this many output tokens on.
    pub min_tokens: u32,
    /// Ids that end a choice.
    pub stop_ids: Vec<u32>,
    /// Who goes first.
    pub priority: Priority,
    /// Only requests of equal salts share cached blocks.
    pub cache_salt: String,
    /// Whether the logits after each prompt token are wanted, once.
    pub prompt_logits: bool,
}

impl NewRequest {
    /// One fresh choice of class normal, without stop ids.
    #[must_use]
    pub fn new(prompt: Vec<u32>, max_tokens: u32) -> Self {
        Self {
            prompt,
            pictures: Arc::default(),
            choices: vec![Vec::new()],
            max_tokens,
            min_tokens: 0,
            stop_ids: Vec::new(),
            priority: Priority::default(),
            cache_salt: String::new(),
            prompt_logits: false,
        }
    }

    /// Tokens of the longest choice that has something left to produce.
    pub(super) fn unfinished_len(&self) -> usize {
        let unfinished = self.choices.iter().filter(|output| self.ended(output).is_none());
        self.prompt.len() + unfinished.map(Vec::len).max().unwrap_or(0)
    }

    /// Why a choice that resumes `output` has nothing left to produce, where that is so: the lost attempt had ended but
    /// could not say it, or nothing was asked for but the prompt's own logits.
    pub(super) fn ended(&self, output: &[u32]) -> Option<FinishReason> {
        let stopped = output.last().is_some_and(|id| self.stop_ids.contains(id));
        if stopped && output.len() > self.min_tokens as usize {
            return Some(FinishReason::Stop);
        }
        let full = output.len() >= self.max_tokens as usize;
        (full && !self.wants_prompt_only()).then_some(FinishReason::Length)
    }

    /// What its choices that have not ended bring to the queue of an engine of this context.
    #[must_use]
    pub fn demand(&self, context_tokens: u32) -> Demand {
        let most = self.prompt.len().saturating_add(self.max_tokens as usize).min(context_tokens as usize);
        let mut demand = Demand::default();
        // Fresh choices are one sequence until their prompt is computed.
        let mut fresh = 0;
        for output in self.choices.iter().filter(|output| self.ended(output).is_none()) {
            let tokens = self.prompt.len() + output.len();
            let answer = ANSWER_TOKENS_EXPECTED.min(most.saturating_sub(tokens));
            let own = if fresh > 0 && output.is_empty() { 0 } else { tokens };
            fresh += usize::from(output.is_empty());
            demand.sequences += usize::from(own > 0);
            demand.tokens += (own + answer) as u64;
        }
        demand
    }

    /// Whether there is nothing to compute but logits of the prompt. A prompt of one token has none.
    pub(super) fn wants_prompt_only(&self) -> bool {
        self.max_tokens == 0 && self.prompt_logits && self.prompt.len() > 1
    }
}

/// What somebody brings to a queue, or what waits in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Demand {
    /// Sequences.
    pub sequences: usize,
    /// Tokens to compute, answers of usual length supposed.
    pub tokens: u64,
}

impl std::iter::Sum for Demand {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| Self { sequences: a.sequences + b.sequences, tokens: a.tokens + b.tokens })
    }
}

/// What became of a choice that was handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It waits for its turn.
    Queued(SeqId),
    /// The output that it resumes from was already complete.
    Finished(FinishReason),
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    /// Try elsewhere or later.
    #[error("{waiting} sequences wait already, at most {max}")]
    QueueFull {
        /// How many wait.
        waiting: usize,
        /// The bound.
        max: u32,
    },
    /// Try elsewhere or later.
    #[error("sequences of {waiting} tokens wait already, and {more} more would exceed {max}")]
    QueueTokens {
        /// Tokens that those who wait will need.
        waiting: u64,
        /// Tokens that this one will need.
        more: u64,
        /// The bound.
        max: u64,
    },
    /// It can never run here.
    #[error("{tokens} tokens and one to produce exceed the context of {context_tokens} tokens")]
    TooLong {
        /// Prompt and resumed output.
        tokens: usize,
        /// Longest context, tokens.
        context_tokens: u32,
    },
    /// There is nothing to run.
    #[error("an empty prompt")]
    Empty,
}

/// A choice that got a token, or ended without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Which.
    pub seq: SeqId,
    /// Why it ended, where it did; it is gone from the scheduler then.
    pub finished: Option<FinishReason>,
}
