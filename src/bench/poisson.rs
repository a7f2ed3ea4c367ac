//! When requests are due in an open loop: a Poisson process, whatever the answers do.

use std::time::Duration;

use super::draw::{Draw, Purpose};

/// The arrivals' times from the start of the run, ascending, without end.
#[derive(Debug, Clone)]
pub(super) struct Poisson {
    seed: u64,
    mean_gap_s: f64,
    index: u64,
    at_s: f64,
}

impl Poisson {
    /// `rate` arrivals a second on average.
    pub(super) fn new(seed: u64, rate: f64) -> Self {
        Self { seed, mean_gap_s: 1.0 / rate, index: 0, at_s: 0.0 }
    }
}

impl Iterator for Poisson {
    type Item = Duration;
    fn next(&mut self) -> Option<Duration> {
        self.at_s += Draw::of(self.seed, Purpose::Arrival, self.index).exponential(self.mean_gap_s);
        self.index += 1;
        Some(Duration::from_secs_f64(self.at_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_exponential_with_the_rate_and_follow_from_the_seed() {
        let num = 20_000;
        let at: Vec<f64> = Poisson::new(3, 50.0).take(num).map(|d| d.as_secs_f64()).collect();
        let gaps: Vec<f64> = std::iter::once(at[0]).chain(at.windows(2).map(|w| w[1] - w[0])).collect();
        let mean = gaps.iter().sum::<f64>() / num as f64;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / num as f64;
        assert!((mean * 50.0 - 1.0).abs() < 0.03, "mean gap {mean} s");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "an exponential's deviation is its mean");
        // P(gap > mean) = 1/e.
        let above = gaps.iter().filter(|g| **g > 0.02).count() as f64 / num as f64;
        assert!((above - (-1.0f64).exp()).abs() < 0.015, "{above}");
        assert_eq!(Poisson::new(3, 50.0).nth(99), Poisson::new(3, 50.0).nth(99));
        assert_ne!(Poisson::new(4, 50.0).nth(99), Poisson::new(3, 50.0).nth(99));
    }
}
