//! How long a step may take before the group counts as stuck: by what such a step should take, as measured.
//!
//! Not here: what a step costs (`step_cost`), who waits (the collectives; `progress`). A pure fold over (work, duration):
//! more work is never given less time, and before anything was measured everything is given plenty, so that neither a long
//! prefill nor a slow machine nor a picture is taken for death.

use std::time::Duration;

use super::step_cost::StepWork;

/// The least that any step is given: scheduling, page faults, a neighbour that takes the processors for a while.
const FLOOR: Duration = Duration::from_secs(4);
/// How many times as long as measured a step may take.
const FACTOR: f64 = 10.0;
/// The speed at which unmeasured work is expected, operations a second: any machine reaches it.
const UNMEASURED_FLOPS: f64 = 1e9;
/// What the first step is given besides: its memory is touched for the first time.
const FIRST: Duration = Duration::from_secs(10);
/// The slowest network that a group is formed over, bytes a second: its share of a step grows with the tokens, and steps of
/// few tokens say little about it.
const WIRE_BYTES: f64 = 12.5e6;
/// The speed of a tower, operations a second. Its steps are not measured here: they do too different things.
const TOWER_FLOPS: f64 = 1e10;
/// How much of a slower measurement is believed at once, and how much of a faster one.
const SLOWER: f64 = 0.3;
const FASTER: f64 = 0.05;
/// The longest allowance, whatever the work.
const MOST: Duration = Duration::from_secs(3600);

/// What steps have shown so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Allowance {
    /// `None` before the first measurement.
    seconds_per_flop: Option<f64>,
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
impl Allowance {
    /// How long a step of this work may take.
    pub(super) fn of(&self, work: StepWork) -> Duration {
        let flops = work.flops as f64;
        let text = match self.seconds_per_flop {
            None => FIRST.as_secs_f64() + flops / UNMEASURED_FLOPS,
            Some(pace) => (FACTOR * pace * flops).max(FLOOR.as_secs_f64()),
        };
        let seconds = text + work.wire_bytes as f64 / WIRE_BYTES + work.tower_flops as f64 / TOWER_FLOPS;
        Duration::try_from_secs_f64(seconds).map_or(MOST, |allowed| allowed.min(MOST))
    }

    /// Counts a step.
    pub(super) fn record(&mut self, work: StepWork, took: Duration) {
        if work.tower_flops > 0 || work.flops == 0 {
            return;
        }
        let measured = took.as_secs_f64() / work.flops as f64;
        let pace = self.seconds_per_flop.get_or_insert(measured);
        *pace += (measured - *pace) * if measured > *pace { SLOWER } else { FASTER };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn work(flops: u64) -> StepWork {
        StepWork { flops, ..StepWork::default() }
    }

    #[test]
    fn an_unmeasured_step_is_given_plenty_and_a_measured_one_ten_times_its_time() {
        let mut allowance = Allowance::default();
        assert_eq!(allowance.of(work(5_000_000_000)), FIRST + Duration::from_secs(5));
        allowance.record(work(1000), Duration::from_secs(2));
        assert_eq!(allowance.of(work(1000)), Duration::from_secs(20));
        assert_eq!(allowance.of(work(4000)), Duration::from_secs(80));
        assert_eq!(allowance.of(work(10)), FLOOR);
        assert_eq!(allowance.of(work(u64::MAX)), MOST);
    }

    #[test]
    fn what_the_network_and_a_tower_may_take_comes_on_top() {
        let mut allowance = Allowance::default();
        allowance.record(work(1), Duration::from_millis(1));
        let wire = StepWork { wire_bytes: 25_000_000, ..work(1) };
        assert_eq!(allowance.of(wire), FLOOR + Duration::from_secs(2));
        let tower = StepWork { tower_flops: 2_000_000_000_000, ..work(1) };
        assert_eq!(allowance.of(tower), FLOOR + Duration::from_secs(200));
        allowance.record(tower, Duration::from_secs(100));
        assert_eq!(allowance.of(work(1)), FLOOR, "a picture's time says nothing of text");
    }

    #[test]
    fn one_late_step_makes_no_hang_long_unseen() {
        let mut allowance = Allowance::default();
        let decode = work(1_000_000);
        (0..50).for_each(|_| allowance.record(decode, Duration::from_millis(20)));
        allowance.record(decode, Duration::from_millis(3900));
        assert!(allowance.of(decode) < Duration::from_secs(15), "{:?}", allowance.of(decode));
        (0..100).for_each(|_| allowance.record(decode, Duration::from_millis(20)));
        assert_eq!(allowance.of(decode), FLOOR);
    }

    proptest! {
        /// A machine that reaches one GFLOP/s when it is at its worst, whose steps of any size differ in efficiency by up to
        /// five times and by up to as much again from moment to moment, never has a step taken for dead.
        #[test]
        fn no_step_of_a_machine_that_works_is_taken_for_dead(
            worst in 1e9..1e13f64,
            steps in prop::collection::vec((1_000_000u64..10_000_000_000_000, 1.0..5.0f64, 1.0..1.9f64), 1..200),
        ) {
            let mut allowance = Allowance::default();
            for (flops, efficiency, luck) in steps {
                let took = Duration::from_secs_f64(flops as f64 / (worst * efficiency * luck));
                let allowed = allowance.of(work(flops));
                prop_assert!(took <= allowed || allowed == MOST, "{flops} flops took {took:?} of {allowed:?}");
                allowance.record(work(flops), took);
            }
        }

        #[test]
        fn more_work_is_never_given_less_time(
            measured in prop::option::of((1u64..1 << 50, 0u64..1 << 30)),
            flops in 0u64..1 << 60,
            more in 0u64..1 << 60,
        ) {
            let mut allowance = Allowance::default();
            if let Some((flops, micros)) = measured {
                allowance.record(work(flops), Duration::from_micros(micros));
            }
            prop_assert!(allowance.of(work(flops + more)) >= allowance.of(work(flops)));
        }
    }
}
