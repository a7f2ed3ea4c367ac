//! When a rank that died while nobody leads is started again, at its epoch and its address. Pure.
//!
//! ```text
//!            started              serves
//!  (due) ─────────────▶ running ─────────▶ serving ── for SETTLED ─▶ as if it had never died
//!    ▲                     │                  │
//!    │ the pause is over   │ died             │ died
//!    └──── waiting ◀───────┴──────────────────┘
//!              └── ATTEMPTS_MAX without settling ─▶ given up until a leader speaks
//! ```
//! Not here: whether the node may at all (`standing`), processes.
//!
//! A group whose rank died forms again among processes of which none has taken a step: a rank that loses its group ends, and
//! only a fresh process connects. So nothing of an earlier attempt can be added to a sum of this one, and a hello needs no
//! number of the attempt: a rank that is on its way out may at worst be linked with, and the link ends with it, before or in
//! the barrier that ends the forming.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::RankKey;

/// Pause before the first attempt: peers of a dead rank need a moment to end too.
pub const PAUSE_MIN: Duration = Duration::from_millis(250);
/// Longest pause between two attempts.
pub const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Attempts without one that served for [`SETTLED`].
pub const ATTEMPTS_MAX: u32 = 100;
/// A rank that has served for so long died of something new.
pub const SETTLED: Duration = Duration::from_secs(60);

/// When a rank may be started; a later one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// Now.
    Now,
    /// Not before then.
    At(Instant),
    /// It was tried often enough.
    Never,
}

/// The attempts of one node.
#[derive(Debug, Default)]
pub struct Revivals {
    attempts: BTreeMap<RankKey, Attempts>,
}

#[derive(Debug, Default)]
struct Attempts {
    made: u32,
    not_before: Option<Instant>,
    serving_since: Option<Instant>,
}

impl Revivals {
    /// When `key` may be started again.
    #[must_use]
    pub fn due(&self, key: &RankKey, now: Instant) -> Due {
        match self.attempts.get(key) {
            Some(a) if a.made >= ATTEMPTS_MAX => Due::Never,
            Some(Attempts { not_before: Some(at), .. }) if *at > now => Due::At(*at),
            _ => Due::Now,
        }
    }

    /// It is started again.
    pub fn started(&mut self, key: RankKey) {
        let attempts = self.attempts.entry(key).or_default();
        attempts.made += 1;
        (attempts.not_before, attempts.serving_since) = (None, None);
    }

    /// It serves.
    pub fn serves(&mut self, key: RankKey, now: Instant) {
        self.attempts.entry(key).or_default().serving_since.get_or_insert(now);
    }

    /// Its process ended.
    pub fn died(&mut self, key: RankKey, now: Instant) {
        let attempts = self.attempts.entry(key).or_default();
        if attempts.serving_since.take().is_some_and(|since| now.saturating_duration_since(since) >= SETTLED) {
            attempts.made = 0;
        }
        let pause = PAUSE_MIN.saturating_mul(1 << attempts.made.min(16)).min(PAUSE_MAX);
        attempts.not_before = Some(now + pause);
    }

    /// Forgets every rank that is not `wanted` any more.
    pub fn retain(&mut self, wanted: impl Fn(&RankKey) -> bool) {
        self.attempts.retain(|key, _| wanted(key));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::{Epoch, Rank, ReplicaId};

    use super::*;

    const KEY: RankKey = RankKey { replica: ReplicaId(1), epoch: Epoch(2), rank: Rank(0) };

    #[test]
    fn pauses_grow_while_a_rank_dies_and_are_short_again_once_it_has_settled() {
        let mut now = Instant::now();
        let mut revivals = Revivals::default();
        assert_eq!(revivals.due(&KEY, now), Due::Now, "an agent that was started anew has nothing to wait for");
        let mut pauses = Vec::new();
        for _ in 0..9 {
            revivals.died(KEY, now);
            let Due::At(at) = revivals.due(&KEY, now) else { panic!("{:?}", revivals.due(&KEY, now)) };
            pauses.push((at - now).as_millis());
            now = at;
            assert_eq!(revivals.due(&KEY, now), Due::Now);
            revivals.started(KEY);
        }
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        revivals.serves(KEY, now);
        revivals.died(KEY, now + SETTLED - Duration::from_millis(1));
        assert_eq!(revivals.due(&KEY, now), Due::At(now + SETTLED - Duration::from_millis(1) + PAUSE_MAX));
        revivals.started(KEY);
        revivals.serves(KEY, now);
        revivals.died(KEY, now + SETTLED);
        assert_eq!(revivals.due(&KEY, now), Due::At(now + SETTLED + PAUSE_MIN));
    }

    #[test]
    fn what_never_settles_is_given_up_until_it_is_no_longer_wanted() {
        let now = Instant::now();
        let mut revivals = Revivals::default();
        for _ in 0..ATTEMPTS_MAX {
            assert_ne!(revivals.due(&KEY, now + PAUSE_MAX), Due::Never);
            revivals.started(KEY);
            revivals.died(KEY, now);
        }
        assert_eq!(revivals.due(&KEY, now + PAUSE_MAX * 1000), Due::Never);
        revivals.retain(|_| false);
        assert_eq!(revivals.due(&KEY, now), Due::Now);
    }

    proptest! {
        /// However a rank lives and dies, it is not started sooner than the shortest pause after its last death.
        #[test]
        fn no_attempt_follows_a_death_at_once(steps in prop::collection::vec((0_u64..100_000, any::<bool>()), 1..80)) {
            let mut now = Instant::now();
            let mut revivals = Revivals::default();
            for (ms, serves) in steps {
                if serves {
                    revivals.serves(KEY, now);
                }
                now += Duration::from_millis(ms);
                revivals.died(KEY, now);
                match revivals.due(&KEY, now) {
                    Due::At(at) => prop_assert!(at >= now + PAUSE_MIN && at <= now + PAUSE_MAX),
                    other => prop_assert!(other == Due::Never, "{other:?}"),
                }
                revivals.started(KEY);
            }
        }
    }
}
