//! A step between its planning and its completion.
//!
//! ```text
//!  Draft ── schedule: the gone leave it, tokens that were not known are filled in ─▶ Step ── complete
//! ```
//! A draft is planned while the step before it computes: the token that a sequence will get there is a hole in it. Not
//! here: who plans (the scheduler).

use std::ops::Range;

use protocol::SeqId;
use protocol::step::{BlockCopy, StepPlan, StepSeq};

use super::order::Order;

/// A part of a step that is not launched yet.
#[derive(Debug)]
pub(super) struct Entry {
    /// Whose it is.
    pub(super) order: Order,
    pub(super) part: StepSeq,
    /// Made before the part's tokens are written.
    pub(super) copy: Option<BlockCopy>,
    /// Position of the first token whose row of logits is still wanted, where the whole prompt's are.
    pub(super) prompt_rows_from: Option<usize>,
}

/// What is planned of a step so far. Empty is a draft like any other.
#[derive(Debug, Default)]
pub struct Draft {
    pub(super) entries: Vec<Entry>,
}

impl Draft {
    /// Whether nothing is planned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// A choice that samples from a row of the step's logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Place of its sequence in the plan.
    pub entry: usize,
    /// Row of the step's logits; choices of one prompt share their first one.
    pub row: usize,
    /// The choice.
    pub seq: SeqId,
}

/// Rows of a prompt's own logits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptRows {
    /// A choice of the request.
    pub seq: SeqId,
    /// Rows of the step's logits.
    pub rows: Range<usize>,
    /// Position in the prompt of the token whose logits the first row holds; they speak of the token after it.
    pub from: usize,
}

/// A sequence that enters its first step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// A choice of the request.
    pub seq: SeqId,
    /// Prompt tokens that were in the prefix cache.
    pub cached_tokens: u32,
}

/// A step that is to be computed now.
#[derive(Debug)]
pub struct Step {
    /// What every rank does. `LogitsWanted::Last` stands where a row is sampled from; whoever samples may ask for less.
    pub plan: StepPlan,
    /// Who samples, in order of rows.
    pub samples: Vec<Sample>,
    /// Rows that are not sampled from.
    pub prompts: Vec<PromptRows>,
    /// Who enters a step for the first time.
    pub started: Vec<Started>,
}

impl Step {
    /// Rows of logits that it gives.
    #[must_use]
    pub fn num_rows(&self) -> usize {
        self.plan.seqs.iter().map(|s| s.logits.rows(s.tokens.len())).sum()
    }
}
