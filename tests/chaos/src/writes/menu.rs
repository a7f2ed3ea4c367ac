//! Which coordinator is struck how, and for how long: an endless sequence that follows from its seed. Pure.
//!
//! Invariant: one coordinator or one link at a time, so that a majority is always there: whatever is not acknowledged soon after
//! is the cluster's doing.

use std::time::Duration;

use crate::fault::{Fault, Place, Who};

/// Shortest and longest time until a fault is healed, ms: some are over before anybody has noticed, others outlast elections
/// and leases.
const LASTS_MS: (u64, u64) = (100, 2_500);
/// Shortest and longest calm after a write was acknowledged again, ms.
const CALM_MS: (u64, u64) = (50, 400);
/// What is done, and how often beside the others.
const MENU: &[(Fault, u64)] = &[
    (Fault::Kill(Who::Leader), 6),
    (Fault::Kill(Who::Follower), 3),
    (Fault::Freeze(Who::Leader), 3),
    (Fault::Freeze(Who::Follower), 1),
    (Fault::Unplug(Place::Leader), 2),
    (Fault::Unplug(Place::Follower), 1),
    (Fault::Mute(Place::Leader), 2),
    (Fault::Deaf(Place::Leader), 2),
    (Fault::Mute(Place::Follower), 1),
    (Fault::Deaf(Place::Follower), 1),
    (Fault::Cut(Place::Leader, Place::Follower), 2),
];

/// One strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Strike {
    pub(super) fault: Fault,
    pub(super) lasts: Duration,
    pub(super) calm: Duration,
}

/// The sequence.
#[derive(Debug, Clone)]
pub(super) struct Strikes {
    draws: fastrand::Rng,
}

impl Strikes {
    pub(super) fn new(seed: u64) -> Self {
        Self { draws: fastrand::Rng::with_seed(seed) }
    }

    fn between(&mut self, (from, to): (u64, u64)) -> Duration {
        Duration::from_millis(self.draws.u64(from..=to))
    }
}

impl Iterator for Strikes {
    type Item = Strike;

    fn next(&mut self) -> Option<Strike> {
        let all: u64 = MENU.iter().map(|(_, weight)| weight).sum();
        let mut draw = self.draws.u64(..all);
        let mut chosen = MENU.iter().copied();
        let fault = chosen.find(|(_, weight)| {
            let here = draw < *weight;
            draw = draw.saturating_sub(*weight);
            here
        });
        let (fault, _) = fault?;
        Some(Strike { fault, lasts: self.between(LASTS_MS), calm: self.between(CALM_MS) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_sequence_in_which_everything_comes_as_often_as_it_weighs() {
        let drawn: Vec<Strike> = Strikes::new(7).take(4_800).collect();
        assert_eq!(drawn, Strikes::new(7).take(4_800).collect::<Vec<_>>());
        assert_ne!(drawn, Strikes::new(8).take(4_800).collect::<Vec<_>>());
        let all: u64 = MENU.iter().map(|(_, weight)| weight).sum();
        for (fault, weight) in MENU {
            let count = drawn.iter().filter(|s| s.fault == *fault).count() as u64;
            let mean = 4_800 * weight / all;
            assert!(count > mean / 2 && count < mean * 2, "{fault}: {count}, about {mean} expected");
        }
    }
}
