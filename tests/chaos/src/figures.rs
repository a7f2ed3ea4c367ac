//! Durations of many rounds, as the tables tell them: median and worst. Pure.

use std::fmt;
use std::time::Duration;

/// Some durations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durations(Vec<Duration>);

impl Durations {
    /// One more.
    pub fn add(&mut self, duration: Option<Duration>) {
        self.0.extend(duration);
        self.0.sort();
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The smallest that at least `percent` of them do not exceed.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        let at = (self.0.len() * percent).div_ceil(100).max(1) - 1;
        self.0.get(at).copied()
    }

    /// The longest.
    #[must_use]
    pub fn worst(&self) -> Option<Duration> {
        self.0.last().copied()
    }
}

impl fmt::Display for Durations {
    /// Median and worst in seconds, `–` where there is nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.percentile(50), self.worst()) {
            (Some(median), Some(worst)) => write!(f, "{:.2} / {:.2}", median.as_secs_f64(), worst.as_secs_f64()),
            _ => f.write_str("–"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_worst_are_of_those_that_were_measured() {
        let mut durations = Durations::default();
        assert_eq!(durations.to_string(), "–");
        for seconds in [Some(3), None, Some(1), Some(2), Some(40)] {
            durations.add(seconds.map(Duration::from_secs));
        }
        assert_eq!((durations.len(), durations.to_string().as_str()), (4, "2.00 / 40.00"));
        assert_eq!(durations.percentile(99), Some(Duration::from_secs(40)));
    }
}
