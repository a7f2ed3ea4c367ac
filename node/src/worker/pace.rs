//! How fast the engine gets through its tokens, and so how long a queue is in time.
//!
//! Not here: the queue. A pure fold over (tokens, duration of a step): recent steps count for more.

use std::time::Duration;

/// What a step still counts for after the next one: half after about 35 steps.
const KEPT: f64 = 0.98;

/// Tokens and seconds of past steps, older ones faded.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    tokens: f64,
    seconds: f64,
}

impl Pace {
    /// Counts a step.
    #[expect(clippy::cast_precision_loss, reason = "a step has far fewer than 2^52 tokens")]
    pub(super) fn record(&mut self, tokens: usize, took: Duration) {
        self.tokens = self.tokens * KEPT + tokens as f64;
        self.seconds = self.seconds * KEPT + took.as_secs_f64();
    }

    /// How long `tokens` tokens will take, ms, rounded up; 0 where no step has been counted yet.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate; a float's cast to an integer stops at the bounds"
    )]
    pub(super) fn ms_for(&self, tokens: u64) -> u32 {
        if self.tokens == 0.0 { 0 } else { (tokens as f64 * self.seconds / self.tokens * 1e3).ceil() as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_takes_as_long_as_its_tokens_at_the_recent_pace() {
        let mut pace = Pace::default();
        assert_eq!(pace.ms_for(1000), 0);
        pace.record(100, Duration::from_millis(50));
        assert_eq!((pace.ms_for(1000), pace.ms_for(1)), (500, 1));
        for _ in 0..400 {
            pace.record(100, Duration::from_millis(100));
        }
        assert!((999..=1000).contains(&pace.ms_for(1000)), "{}", pace.ms_for(1000));
        assert_eq!(pace.ms_for(u64::MAX), u32::MAX);
    }
}
