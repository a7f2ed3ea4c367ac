//! What the compute thread is in, as its control thread sees it: the step that runs, and the last one that proved that all
//! ranks answer.
//!
//! ```text
//!  Between ── begin ─▶ In a step ── end ─▶ Between
//!                         └── longer than allowed, and the margin: stuck
//! ```
//! Rank 0 never stays between steps for long: where nothing is to be done it sends a canary.
//! Not here: how long a step may take (`allowance`). Invariant: a step is proof only once it is over and every rank had to
//! take part in it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::worker::Proof;

/// What a step may take beyond its allowance before its own process gives it up: by then the waits for other ranks have
/// ended, and what is left (sampling, the last layer) hangs here.
const MARGIN: Duration = Duration::from_secs(2);
/// The oldest proof that is good, where no step runs that may take longer; also how soon rank 0 begins the next step. Beyond
/// the longest pause between canaries ([`super::canary::PAUSE_MAX`]).
pub(super) const PROOF_GOOD: Duration = Duration::from_secs(15);

/// A compute thread that does not come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stuck {
    /// From a step.
    #[error("step {step} runs for {:.1} s, {:.1} s were allowed", ran.as_secs_f64(), allowed.as_secs_f64())]
    Step {
        /// Which.
        step: u64,
        /// How long it runs.
        ran: Duration,
        /// What it was given.
        allowed: Duration,
    },
    /// From between two steps.
    #[error("no step has begun for {:.1} s", since.as_secs_f64())]
    Between {
        /// Since the last one ended.
        since: Duration,
    },
}

/// Shared by the compute thread (writes) and the control thread (reads).
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    running: Option<Running>,
    proved: Option<Instant>,
    /// When the last step ended, where the next one is due by itself.
    between: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Running {
    step: u64,
    began: Instant,
    allowed: Duration,
}

impl Progress {
    fn locked(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A step begins that may take `allowed`.
    pub(super) fn begin(&self, step: u64, allowed: Duration, now: Instant) {
        let mut state = self.locked();
        (state.running, state.between) = (Some(Running { step, began: now, allowed }), None);
    }

    /// Every rank has answered in the step that runs.
    pub(super) fn prove(&self, now: Instant) {
        self.locked().proved = Some(now);
    }

    /// The step is over, and the next one comes when rank 0 plans it.
    pub(super) fn end(&self) {
        self.locked().running = None;
    }

    /// The step is over, and the next one is this rank's to begin.
    pub(super) fn end_leading(&self, now: Instant) {
        let mut state = self.locked();
        (state.running, state.between) = (None, Some(now));
    }

    /// Why the compute thread must be taken for lost, if it must.
    pub(super) fn stuck(&self, now: Instant) -> Option<Stuck> {
        let state = self.locked();
        if let Some(Running { step, began, allowed }) = state.running {
            let ran = now.saturating_duration_since(began);
            return (ran > allowed.saturating_add(MARGIN)).then_some(Stuck::Step { step, ran, allowed });
        }
        let since = now.saturating_duration_since(state.between?);
        (since > PROOF_GOOD).then_some(Stuck::Between { since })
    }

    /// The last proof, as of `now`; `None` before the first.
    pub(super) fn proof(&self, now: Instant) -> Option<Proof> {
        let state = self.locked();
        let age = now.saturating_duration_since(state.proved?);
        // A step that may take long is no reason for doubt until it has.
        let longer = state.running.map_or(Duration::ZERO, |r| r.allowed.saturating_add(MARGIN));
        let ms = |d: Duration| u32::try_from(d.as_millis()).unwrap_or(u32::MAX);
        Some(Proof { age_ms: ms(age), good_ms: ms(PROOF_GOOD.saturating_add(longer)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: Duration = Duration::from_secs(5);

    #[test]
    fn a_step_is_stuck_when_it_is_past_its_allowance_and_the_margin() {
        let (progress, began) = (Progress::default(), Instant::now());
        assert_eq!(progress.stuck(began), None, "nothing runs");
        progress.begin(7, ALLOWED, began);
        assert_eq!(progress.stuck(began + ALLOWED + MARGIN), None);
        let ran = ALLOWED + MARGIN + Duration::from_millis(1);
        assert_eq!(progress.stuck(began + ran), Some(Stuck::Step { step: 7, ran, allowed: ALLOWED }));
        progress.end();
        assert_eq!(progress.stuck(began + 10 * ran), None, "a rank that follows waits for as long as rank 0 wants");
    }

    #[test]
    fn a_rank_that_leads_is_stuck_when_it_begins_no_step() {
        let (progress, ended) = (Progress::default(), Instant::now());
        progress.begin(7, ALLOWED, ended);
        progress.end_leading(ended);
        assert_eq!(progress.stuck(ended + PROOF_GOOD), None);
        let since = PROOF_GOOD + Duration::from_millis(1);
        assert_eq!(progress.stuck(ended + since), Some(Stuck::Between { since }));
        progress.begin(8, ALLOWED, ended + since);
        assert_eq!(progress.stuck(ended + since), None);
    }

    #[test]
    fn a_proof_ages_and_is_good_for_longer_while_a_long_step_runs() {
        let (progress, then) = (Progress::default(), Instant::now());
        progress.begin(1, ALLOWED, then);
        assert_eq!(progress.proof(then), None, "a step that began proves nothing");
        progress.prove(then);
        progress.end();
        let good_ms = u32::try_from(PROOF_GOOD.as_millis()).expect("short");
        let later = then + Duration::from_millis(1500);
        assert_eq!(progress.proof(later), Some(Proof { age_ms: 1500, good_ms }));
        progress.begin(2, ALLOWED, later);
        assert_eq!(progress.proof(later), Some(Proof { age_ms: 1500, good_ms: good_ms + 7000 }));
    }
}
