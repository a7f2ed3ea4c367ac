//! Which faults come when: an endless sequence that follows from its seed. Pure.
//!
//! Invariant: at any time at most one coordinator and at most one node are struck, so that a majority and a spare remain:
//! what is then lost, the cluster has lost.

use std::time::Duration;

use crate::fault::{Fault, Place, Who};

/// Shortest and longest calm before the next faults.
const CALM_MS: (u64, u64) = (200, 2_000);
/// How long faults last, at most and at least; some are gone before anybody has noticed, others outlast each lease.
const LASTS_MS: (u64, u64) = (100, 8_000);
/// Of so many steps, one strikes on both sides at once.
const DOUBLE_EVERY: u64 = 4;

/// What a cluster can suffer beyond kills, freezes and networks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Means {
    /// Hosts have disks of their own.
    pub disks: bool,
    /// Hosts have clocks of their own.
    pub clocks: bool,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The cluster serves for so long first.
    pub calm: Duration,
    /// Then these happen together.
    pub faults: Vec<Fault>,
    /// And are healed after so long.
    pub lasts: Duration,
}

/// The sequence.
#[derive(Debug, Clone)]
pub struct Schedule {
    draws: fastrand::Rng,
    control: Vec<Fault>,
    compute: Vec<Fault>,
}

impl Schedule {
    /// For replicas of `tp` ranks.
    #[must_use]
    pub fn new(seed: u64, tp: u16, means: Means) -> Self {
        let mut control = both(Who::Leader);
        control.extend(both(Who::Follower));
        for place in [Place::Leader, Place::Follower] {
            control.extend([Fault::Unplug(place), Fault::Mute(place), Fault::Deaf(place)]);
            control.extend(means.disks.then_some(Fault::FullDisk(place)));
            control.extend(means.clocks.then_some(Fault::ClockStep(place, 3_600)));
            control.extend(means.clocks.then_some(Fault::ClockStep(place, -3_600)));
        }
        control.extend([Fault::Cut(Place::Leader, Place::Follower), Fault::Loss(50), Fault::Delay(200)]);
        let mut compute = Vec::new();
        for rank in 0..tp {
            let place = Place::Rank(rank);
            compute.extend(both(Who::Rank(rank)));
            compute.extend(both(Who::Agent(rank)));
            compute.extend([Fault::Unplug(place), Fault::Mute(place), Fault::Deaf(place)]);
            compute.extend([Fault::Cut(Place::Leader, place), Fault::Cut(Place::Follower, place)]);
            compute.extend((rank > 0).then_some(Fault::Cut(Place::Rank(0), place)));
            compute.extend(means.disks.then_some(Fault::FullDisk(place)));
            compute.extend(means.clocks.then_some(Fault::ClockStep(place, 3_600)));
        }
        Self { draws: fastrand::Rng::with_seed(seed), control, compute }
    }

    fn between(&mut self, (least, most): (u64, u64)) -> Duration {
        Duration::from_millis(self.draws.u64(least..=most))
    }
}

fn both(who: Who) -> Vec<Fault> {
    vec![Fault::Kill(who), Fault::Freeze(who)]
}

impl Iterator for Schedule {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let calm = self.between(CALM_MS);
        let lasts = self.between(LASTS_MS);
        let control = self.control[self.draws.usize(..self.control.len())];
        let compute = self.compute[self.draws.usize(..self.compute.len())];
        let faults = match self.draws.u64(..2 * DOUBLE_EVERY) {
            0 | 1 => vec![control, compute],
            n if n % 2 == 0 => vec![control],
            _ => vec![compute],
        };
        Some(Step { calm, faults, lasts })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const ALL: Means = Means { disks: true, clocks: true };

    #[test]
    fn every_fault_of_the_menu_comes_and_none_that_the_cluster_has_no_means_for() {
        let drawn =
            |means| -> BTreeSet<Fault> { Schedule::new(1, 2, means).take(2_000).flat_map(|s| s.faults).collect() };
        let menu = Schedule::new(1, 2, ALL);
        assert_eq!(drawn(ALL), menu.control.iter().chain(&menu.compute).copied().collect());
        let poor = drawn(Means::default());
        assert!(!poor.iter().any(|f| matches!(f, Fault::FullDisk(_) | Fault::ClockStep(..))));
    }

    proptest! {
        #[test]
        fn a_seed_gives_one_schedule_and_a_majority_is_never_struck(seed: u64) {
            let steps: Vec<Step> = Schedule::new(seed, 2, ALL).take(100).collect();
            prop_assert_eq!(&steps, &Schedule::new(seed, 2, ALL).take(100).collect::<Vec<_>>());
            prop_assert_ne!(&steps, &Schedule::new(seed ^ 1, 2, ALL).take(100).collect::<Vec<_>>());
            let menu = Schedule::new(seed, 2, ALL);
            for step in &steps {
                prop_assert!(step.faults.iter().filter(|f| menu.control.contains(f)).count() <= 1);
                prop_assert!(step.faults.iter().filter(|f| menu.compute.contains(f)).count() <= 1);
            }
        }
    }
}
