//! The bounds of one engine, checked once.
//!
//! Invariant: a single sequence of the longest context fits the blocks, and one step has room for a token of every
//! running sequence; without either the scheduler could not promise progress.

use kernels::BLOCK_TOKENS;
use protocol::step::{STEP_SEQS_MAX, STEP_TOKENS_MAX};

/// Why limits cannot be worked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// No step could carry a token.
    #[error("step_tokens is {found}, expected 1..={STEP_TOKENS_MAX}")]
    StepTokens {
        /// The number found.
        found: u32,
    },
    /// No sequence could run.
    #[error("max_seqs is {found}, expected 1..={STEP_SEQS_MAX}")]
    MaxSeqs {
        /// The number found.
        found: u16,
    },
    /// Not even a prompt of one token and its answer would fit.
    #[error("a context of {context_tokens} tokens over {kv_tokens} tokens of KV cache has no room for 2 tokens")]
    NoContext {
        /// The context asked for, tokens.
        context_tokens: u32,
        /// The cache there is, tokens.
        kv_tokens: u32,
    },
}

/// Bounds of one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineLimits {
    step_tokens: u32,
    max_seqs: u16,
    waiting_max: u32,
    context_tokens: u32,
    kv_blocks: u32,
    prompt_rows: u32,
    waiting_tokens_max: u64,
}

/// How much may wait, as multiples of what the KV cache holds: beyond it, a newcomer would wait for the whole cache to
/// turn over as many times.
const WAITING_CACHES_MAX: u64 = 4;

impl EngineLimits {
    /// Limits from a deployment's figures. What cannot hold together is narrowed: the context to the KV cache, and the
    /// running sequences to the tokens of a step.
    ///
    /// # Errors
    /// [`LimitsError`] where nothing could ever run.
    pub fn new(
        step_tokens: u32,
        max_seqs: u16,
        waiting_max: u32,
        context_tokens: u32,
        kv_tokens: u32,
    ) -> Result<Self, LimitsError> {
        if step_tokens == 0 || step_tokens as usize > STEP_TOKENS_MAX {
            return Err(LimitsError::StepTokens { found: step_tokens });
        }
        if max_seqs == 0 || usize::from(max_seqs) > STEP_SEQS_MAX {
            return Err(LimitsError::MaxSeqs { found: max_seqs });
        }
        let kv_blocks = kv_tokens / block_tokens();
        let context = context_tokens.min(kv_blocks * block_tokens());
        if context < 2 {
            return Err(LimitsError::NoContext { context_tokens, kv_tokens });
        }
        let max_seqs = u16::try_from(step_tokens).unwrap_or(u16::MAX).min(max_seqs);
        Ok(Self {
            step_tokens,
            max_seqs,
            waiting_max,
            context_tokens: context,
            kv_blocks,
            prompt_rows: step_tokens,
            waiting_tokens_max: WAITING_CACHES_MAX * u64::from(kv_tokens),
        })
    }

    /// At most `tokens` tokens, of prompts and expected answers, that waiting sequences may need.
    #[must_use]
    pub fn with_waiting_tokens(self, tokens: u64) -> Self {
        Self { waiting_tokens_max: tokens, ..self }
    }

    /// At most `rows` rows of prompts' own logits in one step, besides one for each sequence; at least one.
    #[must_use]
    pub fn with_prompt_rows(self, rows: u32) -> Self {
        Self { prompt_rows: rows.max(1), ..self }
    }

    /// Most tokens in one step.
    #[must_use]
    pub fn step_tokens(&self) -> u32 {
        self.step_tokens
    }

    /// Most sequences that run together.
    #[must_use]
    pub fn max_seqs(&self) -> u16 {
        self.max_seqs
    }

    /// Most sequences that wait.
    #[must_use]
    pub fn waiting_max(&self) -> u32 {
        self.waiting_max
    }

    /// Most tokens, of prompts and expected answers, that waiting sequences may need.
    #[must_use]
    pub fn waiting_tokens_max(&self) -> u64 {
        self.waiting_tokens_max
    }

    /// Most rows of prompts' own logits in one step.
    #[must_use]
    pub fn prompt_rows(&self) -> u32 {
        self.prompt_rows
    }

    /// Longest context, prompt and answer, tokens.
    #[must_use]
    pub fn context_tokens(&self) -> u32 {
        self.context_tokens
    }

    /// KV blocks of the replica.
    #[must_use]
    pub fn kv_blocks(&self) -> u32 {
        self.kv_blocks
    }
}

/// Blocks that hold `tokens` positions.
pub(super) fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}

fn block_tokens() -> u32 {
    u32::try_from(BLOCK_TOKENS).expect("a block is a few tokens")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_narrowed_to_what_holds_together() {
        let limits = EngineLimits::new(8, 64, 4, 1000, 40).expect("workable");
        assert_eq!((limits.max_seqs(), limits.context_tokens(), limits.kv_blocks()), (8, 32, 2));
    }

    #[test]
    fn what_could_never_run_is_refused_with_its_number() {
        assert_eq!(EngineLimits::new(0, 1, 1, 64, 64), Err(LimitsError::StepTokens { found: 0 }));
        assert_eq!(EngineLimits::new(8, 0, 1, 64, 64), Err(LimitsError::MaxSeqs { found: 0 }));
        let none = LimitsError::NoContext { context_tokens: 64, kv_tokens: 15 };
        assert_eq!(EngineLimits::new(8, 1, 1, 64, 15), Err(none));
    }
}
