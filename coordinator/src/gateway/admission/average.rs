//! A moving average: each sample counts a fixed share, older ones fade.

/// An average of samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Average {
    value: Option<f64>,
    /// Share of the newest sample, in (0, 1].
    share: f64,
}

impl Average {
    /// Unknown until the first sample, which then stands for itself.
    pub(super) fn new(share: f64) -> Self {
        Self { value: None, share }
    }

    /// Begins from a guess.
    pub(super) fn from(guess: f64, share: f64) -> Self {
        Self { value: Some(guess), share }
    }

    pub(super) fn record(&mut self, sample: f64) {
        self.value = Some(self.value.map_or(sample, |v| v + self.share * (sample - v)));
    }

    /// Takes a sample that is only a lower bound of what is measured.
    pub(super) fn record_at_least(&mut self, sample: f64) {
        self.value = Some(self.value.map_or(sample, |v| v.max(sample)));
    }

    pub(super) fn get(&self) -> Option<f64> {
        self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_fade_and_lower_bounds_only_raise() {
        let mut average = Average::new(0.5);
        assert_eq!(average.get(), None);
        average.record(8.0);
        average.record(4.0);
        assert_eq!(average.get(), Some(6.0));
        average.record_at_least(5.0);
        assert_eq!(average.get(), Some(6.0));
        average.record_at_least(7.0);
        assert_eq!(average.get(), Some(7.0));
        assert_eq!(Average::from(3.0, 0.5).get(), Some(3.0));
    }
}
