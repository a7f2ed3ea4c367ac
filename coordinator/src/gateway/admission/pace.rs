//! How long an answer takes once it has been given to a replica, as running ones show it now.
//!
//! Times are kept as shares of one answer among those that run side by side, and stretched again by how many there will be: a
//! replica that computes thrice as many takes about thrice as long for each, and those that were let in just now do not show yet.
//! Where it takes less, the next window shows it. What was seen under load says nothing once nobody is left: [`Pace::idle`]
//! forgets it, or an idle replica could refuse everybody for being slow.

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
    /// From being placed to the first token, seconds over answers side by side.
    first: Average,
    /// Between two tokens of one answer, seconds over answers side by side.
    token: Average,
    window: Option<Window>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    since: Instant,
    shares: f64,
    tokens: u32,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { first: Average::new(FIRST_SHARE), token: Average::new(TOKEN_SHARE), window: None }
    }

    /// A first token has come after so long, with so many answers side by side.
    pub(super) fn first(&mut self, took: Duration, side_by_side: f64) {
        self.first.record(took.as_secs_f64() / side_by_side);
    }

    /// One answer took so long for so many further tokens, with so many side by side.
    pub(super) fn tokens(&mut self, took: Duration, tokens: u32, side_by_side: f64, now: Instant) {
        let window = self.window.get_or_insert(Window { since: now, shares: 0.0, tokens: 0 });
        window.shares += took.as_secs_f64() / side_by_side;
        window.tokens = window.tokens.saturating_add(tokens);
        if now.saturating_duration_since(window.since) >= WINDOW && window.tokens > 0 {
            self.token.record(window.shares / f64::from(window.tokens));
            self.window = None;
        }
    }

    /// Nothing runs any more.
    pub(super) fn idle(&mut self) {
        *self = Self::new();
    }

    /// How long an answer of so many tokens takes with so many side by side, with a margin; zero while unknown.
    pub(super) fn answering(&self, tokens: u32, side_by_side: f64) -> Duration {
        let further = f64::from(tokens.saturating_sub(1));
        let share = self.first.get().unwrap_or(0.0) + self.token.get().unwrap_or(0.0) * further;
        Duration::try_from_secs_f64(share * side_by_side * MARGIN).unwrap_or(Duration::MAX)
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
        assert_eq!(pace.answering(100, 1.0), Duration::ZERO);
        pace.first(ms(400), 4.0);
        pace.tokens(ms(30), 3, 2.0, start);
        assert_eq!(pace.answering(11, 4.0), ms(500), "one window is not over yet");
        pace.tokens(ms(10), 1, 2.0, start + ms(500));
        assert_eq!(pace.answering(11, 4.0), ms(750), "(400 + 10 × 20) and a quarter");
        assert_eq!(pace.answering(11, 8.0), ms(1500));
        pace.idle();
        assert_eq!(pace.answering(11, 8.0), Duration::ZERO);
    }
}
