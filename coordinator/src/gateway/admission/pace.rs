//! How long an answer takes once it has been given to a replica, as running ones show it now.
//!
//! What was seen under load says nothing once nobody is left: [`Pace::idle`] forgets it, or an idle replica could refuse
//! everybody for being slow.

use std::time::{Duration, Instant};

use super::average::Average;

/// How long tokens are gathered for one sample.
const WINDOW: Duration = Duration::from_millis(500);
/// Share of the newest sample.
const TOKEN_SHARE: f64 = 0.5;
/// Share of the newest first token.
const FIRST_SHARE: f64 = 0.1;
/// By how much an estimate is stretched: half of the answers take longer than the average.
const MARGIN: f64 = 1.25;

/// The answers of one deployment.
#[derive(Debug)]
pub(super) struct Pace {
    /// From being placed to the first token, seconds.
    first: Average,
    /// Between two tokens of one answer, seconds.
    token: Average,
    window: Option<Window>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    since: Instant,
    took: Duration,
    tokens: u32,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { first: Average::new(FIRST_SHARE), token: Average::new(TOKEN_SHARE), window: None }
    }

    /// A first token has come after so long.
    pub(super) fn first(&mut self, took: Duration) {
        self.first.record(took.as_secs_f64());
    }

    /// One answer took so long for so many further tokens.
    pub(super) fn tokens(&mut self, took: Duration, tokens: u32, now: Instant) {
        let window = self.window.get_or_insert(Window { since: now, took: Duration::ZERO, tokens: 0 });
        window.took += took;
        window.tokens = window.tokens.saturating_add(tokens);
        if now.saturating_duration_since(window.since) >= WINDOW && window.tokens > 0 {
            self.token.record(window.took.as_secs_f64() / f64::from(window.tokens));
            self.window = None;
        }
    }

    /// Nothing runs any more.
    pub(super) fn idle(&mut self) {
        *self = Self::new();
    }

    /// How long an answer of so many tokens takes, with a margin; zero while unknown.
    pub(super) fn answering(&self, tokens: u32) -> Duration {
        let further = f64::from(tokens.saturating_sub(1));
        let seconds = self.first.get().unwrap_or(0.0) + self.token.get().unwrap_or(0.0) * further;
        Duration::try_from_secs_f64(seconds * MARGIN).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_takes_its_first_token_and_the_others() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        let mut pace = Pace::new();
        assert_eq!(pace.answering(100), Duration::ZERO);
        pace.first(ms(400));
        pace.tokens(ms(30), 3, start);
        assert_eq!(pace.answering(11), ms(500), "one window is not over yet");
        pace.tokens(ms(10), 1, start + ms(500));
        assert_eq!(pace.answering(11), ms(625), "(400 + 10 × 10) and a quarter");
        pace.idle();
        assert_eq!(pace.answering(11), Duration::ZERO);
    }
}
