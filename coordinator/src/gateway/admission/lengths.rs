//! How long answers are, in tokens: as they have been of late.

use super::average::Average;

/// Length before any was seen.
const GUESS: f64 = 256.0;
/// Share of the newest answer.
const SHARE: f64 = 0.1;
/// By how many average deviations a long answer is longer than the average: few are longer.
const LONG: f64 = 2.0;

/// The answers of one deployment.
#[derive(Debug)]
pub(super) struct Lengths {
    mean: Average,
    deviation: Average,
}

impl Lengths {
    pub(super) fn new() -> Self {
        Self { mean: Average::from(GUESS, SHARE), deviation: Average::from(0.0, SHARE) }
    }

    /// An answer has ended by itself.
    pub(super) fn ended(&mut self, tokens: u32) {
        let tokens = f64::from(tokens);
        self.deviation.record((tokens - self.mean()).abs());
        self.mean.record(tokens);
    }

    /// An answer was cut off: it would have been at least so long. Not to count those would take answers for short because the
    /// long ones miss their deadlines.
    pub(super) fn cut_off(&mut self, tokens: u32) {
        if f64::from(tokens) > self.mean() {
            self.ended(tokens);
        }
    }

    /// How long one is that may be as long as `max`: what it will take up, on the average.
    pub(super) fn typical(&self, max: u32) -> u32 {
        bounded(self.mean(), max)
    }

    /// How long one may well be: what its deadline should have room for.
    pub(super) fn long(&self, max: u32) -> u32 {
        bounded(self.mean() + LONG * self.deviation.get().unwrap_or(0.0), max)
    }

    fn mean(&self) -> f64 {
        self.mean.get().unwrap_or(GUESS)
    }
}

fn bounded(tokens: f64, max: u32) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and is never negative")]
    let tokens = tokens.ceil() as u32;
    tokens.clamp(1, max.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_follow_what_ends_and_what_was_cut_off_beyond_it() {
        let mut lengths = Lengths::new();
        assert_eq!((lengths.typical(1000), lengths.typical(64), lengths.long(1000)), (256, 64, 256));
        (0..200).for_each(|i| lengths.ended(if i % 2 == 0 { 20 } else { 60 }));
        assert!((38..=43).contains(&lengths.typical(1000)), "{lengths:?}");
        assert!((76..=85).contains(&lengths.long(1000)), "{lengths:?}");
        assert_eq!(lengths.long(64), 64);
        let before = lengths.typical(1000);
        lengths.cut_off(10);
        assert_eq!(lengths.typical(1000), before, "it says nothing about how long it would have been");
        lengths.cut_off(1000);
        assert!(lengths.typical(1000) > before);
    }
}
