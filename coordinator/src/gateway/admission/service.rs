//! How fast a replica serves, as this gateway sees it: KV tokens that its streams took up, a second.
//!
//! A prompt counts whole when its first token comes, an answer token by token: in the long run as many tokens are given back
//! a second as are served. A replica that was not full shows what it did, not what it can, so such a window only raises the
//! estimate; one during which it was full corrects it both ways.

use std::time::{Duration, Instant};

use super::average::Average;

/// Length of a window that makes a sample.
const WINDOW: Duration = Duration::from_secs(1);
/// Share of the newest sample: a change shows within a few seconds.
const SHARE: f64 = 0.3;

/// One replica's service rate.
#[derive(Debug, Clone)]
pub(super) struct Service {
    /// Tokens a second.
    rate: Average,
    window: Option<Window>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    since: Instant,
    tokens: u64,
    /// Whether the replica was full at every look.
    full: bool,
}

impl Service {
    pub(super) fn new() -> Self {
        Self { rate: Average::new(SHARE), window: None }
    }

    /// Counts tokens served until `now`; `full`: whether the replica has no room for more.
    pub(super) fn served(&mut self, tokens: u64, full: bool, now: Instant) {
        self.look(full, now);
        if let Some(window) = &mut self.window {
            window.tokens += tokens;
        }
    }

    /// Notes the time, and that the replica has something of ours to do.
    pub(super) fn look(&mut self, full: bool, now: Instant) {
        let window = self.window.get_or_insert(Window { since: now, tokens: 0, full });
        let elapsed = now.saturating_duration_since(window.since);
        if elapsed < WINDOW {
            window.full &= full;
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 tokens a window")]
        let sample = window.tokens as f64 / elapsed.as_secs_f64();
        if window.full && full {
            self.rate.record(sample)
        } else {
            self.rate.record_at_least(sample)
        }
        self.window = Some(Window { since: now, tokens: 0, full });
    }

    /// The replica has nothing of ours any more: the time until it has again is nobody's.
    pub(super) fn idle(&mut self) {
        self.window = None;
    }

    /// Tokens a second; `None` until there was a whole window.
    pub(super) fn rate(&self) -> Option<f64> {
        self.rate.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn only_a_full_replica_lowers_the_estimate() {
        let start = Instant::now();
        let mut service = Service::new();
        service.look(false, start);
        service.served(500, false, at(start, 400));
        assert_eq!(service.rate(), None);
        service.served(0, false, at(start, 1000));
        assert_eq!(service.rate(), Some(500.0));
        service.served(100, false, at(start, 1500));
        service.look(false, at(start, 2000));
        assert_eq!(service.rate(), Some(500.0), "it had little to do");
        service.look(true, at(start, 2500));
        service.look(true, at(start, 3000));
        assert_eq!(service.rate(), Some(500.0), "it was not full all the time");
        service.served(100, true, at(start, 3500));
        service.look(true, at(start, 4000));
        assert_eq!(service.rate(), Some(500.0 - 0.3 * 400.0));
    }

    #[test]
    fn idle_time_is_nobodys() {
        let start = Instant::now();
        let mut service = Service::new();
        service.look(true, start);
        service.idle();
        service.look(true, at(start, 60_000));
        service.served(300, true, at(start, 60_500));
        service.look(true, at(start, 61_000));
        assert_eq!(service.rate(), Some(300.0));
    }
}
