//! The step that rank 0 takes when it has none to take: a real one, of one token through all layers, all collectives and all
//! ranks, whose KV block belongs to nobody.
//!
//! Not here: what comes of it (the step loop). Invariant: it touches nothing that a later step reads.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use protocol::SeqId;
use protocol::step::{LogitsWanted, StepPlan, StepSeq};

/// Since the last proof, before the next canary.
pub(super) const PAUSE: Duration = Duration::from_secs(2);
/// Canaries take at most one part in so many of an idle group's time, as far as [`PAUSE_MAX`] allows.
const PAUSES_PER_STEP: u32 = 4;
/// The longest pause: an idle group is proved that often, whatever it costs.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(10);
/// It stands in no table: sequences count from 1.
const SEQ: SeqId = SeqId(u64::MAX);

/// When the next one is due, and where it computes.
#[derive(Debug, Clone)]
pub(super) struct Canary {
    /// The KV block that no sequence is ever given.
    block: u32,
    pause: Duration,
    pauses: RangeInclusive<Duration>,
    due: Instant,
}

impl Canary {
    /// The first is due at once: it proves the group, and measures it.
    pub(super) fn new(block: u32, now: Instant) -> Self {
        Self { block, pause: PAUSE, pauses: PAUSE..=PAUSE_MAX, due: now }
    }

    /// One that is due before every step.
    #[cfg(test)]
    pub(super) fn restless(block: u32) -> Self {
        Self { pauses: Duration::ZERO..=Duration::ZERO, ..Self::new(block, Instant::now()) }
    }

    /// When the next is due, unless another step comes first.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// All ranks have answered.
    pub(super) fn proved(&mut self, now: Instant) {
        self.due = now + self.pause;
    }

    /// As [`Self::proved`], by a canary that took so long.
    pub(super) fn sang(&mut self, took: Duration, now: Instant) {
        self.pause = (took * PAUSES_PER_STEP).clamp(*self.pauses.start(), *self.pauses.end());
        self.proved(now);
    }

    /// The plan of step `step`.
    pub(super) fn plan(&self, step: u64) -> StepPlan {
        let seq = StepSeq {
            seq: SEQ,
            start: 0,
            tokens: vec![0],
            blocks: vec![self.block],
            pictures: Vec::new(),
            // Every rank gives its best: one that did not would be missed.
            logits: LogitsWanted::Best { k: 1 },
        };
        StepPlan { seqs: vec![seq], ..StepPlan::last(step) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_at_once_then_two_seconds_after_any_proof_and_more_rarely_where_it_costs_much() {
        let start = Instant::now();
        let mut canary = Canary::new(7, start);
        assert_eq!(canary.due(), start);
        let later = start + Duration::from_secs(9);
        for (took_ms, pause) in
            [(3, PAUSE), (500, PAUSE), (1500, Duration::from_secs(6)), (9000, PAUSE_MAX), (1, PAUSE)]
        {
            canary.sang(Duration::from_millis(took_ms), later);
            assert_eq!(canary.due(), later + pause, "after {took_ms} ms");
        }
        canary.proved(start);
        assert_eq!(canary.due(), start + PAUSE);
        assert!(!canary.plan(3).is_last());
    }
}
