//! Durations of one kind, and their percentiles: exact, by nearest rank, over at most [`SAMPLES_MAX`] of them.

use std::time::Duration;

use serde::Serialize;

/// Most samples of one kind that are kept, 4 bytes each; later ones are counted and left out.
pub(super) const SAMPLES_MAX: usize = 8 << 20;

/// Durations of one kind.
#[derive(Debug, Clone, Default)]
pub(super) struct Durations {
    us: Vec<u32>,
    left_out: u64,
}

impl Durations {
    pub(super) fn push(&mut self, duration: Duration) {
        self.push_us(micros(duration));
    }

    pub(super) fn push_us(&mut self, us: u32) {
        if self.us.len() < SAMPLES_MAX {
            self.us.push(us);
        } else {
            self.left_out += 1;
        }
    }

    /// `None` where there are none.
    pub(super) fn summary(&self) -> Option<Summary> {
        let mut sorted = self.us.clone();
        sorted.sort_unstable();
        let ms = |us: u32| f64::from(us) / 1e3;
        let at = |percent| ms(nearest_rank(&sorted, percent));
        let last = *sorted.last()?;
        let mean = sorted.iter().map(|us| f64::from(*us)).sum::<f64>() / sorted.len() as f64 / 1e3;
        Some(Summary {
            count: sorted.len() as u64,
            left_out: self.left_out,
            mean,
            p50: at(50),
            p90: at(90),
            p95: at(95),
            p99: at(99),
            max: ms(last),
        })
    }
}

/// Microseconds, cut at 71 minutes.
pub(super) fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

/// The smallest sample that at least `percent` (1 to 100) of all do not exceed; `sorted` is not empty.
fn nearest_rank(sorted: &[u32], percent: usize) -> u32 {
    sorted[(percent * sorted.len()).div_ceil(100) - 1]
}

/// Percentiles, ms.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// How many durations.
    pub(crate) count: u64,
    /// How many more there were.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) left_out: u64,
    /// Their mean.
    pub(crate) mean: f64,
    /// Half of them do not exceed it.
    pub(crate) p50: f64,
    /// 90 % do not.
    pub(crate) p90: f64,
    /// 95 % do not.
    pub(crate) p95: f64,
    /// 99 % do not.
    pub(crate) p99: f64,
    /// The longest.
    pub(crate) max: f64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn summary(ms: impl IntoIterator<Item = u64>) -> Option<Summary> {
        let mut durations = Durations::default();
        ms.into_iter().for_each(|ms| durations.push(Duration::from_millis(ms)));
        durations.summary()
    }

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let s = summary((1..=200).rev()).expect("samples");
        assert_eq!((s.count, s.p50, s.p90, s.p95, s.p99, s.max), (200, 100.0, 180.0, 190.0, 198.0, 200.0));
        assert!((s.mean - 100.5).abs() < 1e-9);
        let one = summary([7]).expect("a sample");
        assert_eq!((one.p50, one.p99, one.max), (7.0, 7.0, 7.0));
        assert_eq!(summary([]), None);
    }

    proptest! {
        #[test]
        fn a_percentile_is_the_smallest_sample_that_its_share_does_not_exceed(
            mut all in prop::collection::vec(any::<u32>(), 1..300), percent in 1usize..=100,
        ) {
            all.sort_unstable();
            let found = nearest_rank(&all, percent);
            let not_above = |x: u32| all.iter().filter(|s| **s <= x).count() * 100;
            prop_assert!(not_above(found) >= percent * all.len());
            if let Some(smaller) = all.iter().rev().find(|s| **s < found) {
                prop_assert!(not_above(*smaller) < percent * all.len());
            }
        }
    }
}
