//! What every layer of one forward pass shares.
//!
//! Not here: weights. Invariant: rows stand in the order of the step plan's sequences, on every rank alike.

use candle_core::Tensor;
use kernels::{AttnSeq, Pool};
use protocol::step::{LogitsWanted, StepPlan};

use super::{Group, Observer, Point};

/// One forward pass: its rows, their angles, and the ways out of the rank.
pub struct Step<'a> {
    /// Compute threads.
    pub pool: &'a Pool,
    /// Rows, positions and KV blocks of each sequence.
    pub seqs: &'a [AttnSeq<'a>],
    /// `[tokens, rotary dim / 2]`.
    pub cos: &'a Tensor,
    /// `[tokens, rotary dim / 2]`.
    pub sin: &'a Tensor,
    /// The other ranks.
    pub group: &'a mut dyn Group,
    /// Who looks.
    pub observer: &'a mut dyn Observer,
}

impl Step<'_> {
    /// Shows a value.
    pub(super) fn see(&mut self, point: Point, value: &Tensor) {
        self.observer.see(point, value);
    }
}

/// The rows of each sequence, one after the other.
pub(super) fn attn_seqs(plan: &StepPlan) -> Vec<AttnSeq<'_>> {
    let mut row = 0;
    let mut seqs = Vec::with_capacity(plan.seqs.len());
    for seq in &plan.seqs {
        let rows = row..row + seq.tokens.len();
        row = rows.end;
        seqs.push(AttnSeq { rows, start: seq.start as usize, blocks: &seq.blocks });
    }
    seqs
}

/// The rows that want logits: the last ones of each sequence.
#[derive(Debug, Default)]
pub(super) struct WantedRows {
    /// Their numbers in the step.
    pub(super) rows: Vec<u32>,
    /// What is wanted of each.
    pub(super) wanted: Vec<LogitsWanted>,
}

impl WantedRows {
    pub(super) fn of(plan: &StepPlan) -> Self {
        let row = |n: usize| u32::try_from(n).expect("a step plan's tokens are bounded by STEP_TOKENS_MAX");
        let mut end = 0;
        let mut all = Self::default();
        for seq in &plan.seqs {
            end += seq.tokens.len();
            let count = seq.logits.rows(seq.tokens.len());
            all.rows.extend(row(end - count)..row(end));
            all.wanted.extend(std::iter::repeat_n(seq.logits, count));
        }
        all
    }
}
