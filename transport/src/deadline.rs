//! A point in time by which a wait must end. Not a timer: whoever waits, waits itself.

use std::time::{Duration, Instant};

/// When a wait ends at the latest. Made from a [`Duration`] (from now on) wherever a deadline is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// Longest wait, so that adding it to a clock never overflows.
const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

impl Deadline {
    /// `wait` from now; waits above a year count as a year.
    #[must_use]
    pub fn after(wait: Duration) -> Self {
        Self(Instant::now() + wait.min(WAIT_MAX))
    }

    /// At that instant.
    #[must_use]
    pub fn at(instant: Instant) -> Self {
        Self(instant)
    }

    /// The instant.
    #[must_use]
    pub fn instant(self) -> Instant {
        self.0
    }

    /// Time left; zero once it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed at `now`.
    #[must_use]
    pub fn passed(self, now: Instant) -> bool {
        now >= self.0
    }

    /// Waits for `future` at most until then; `None` when it did not come.
    pub(crate) async fn bound<F: Future>(self, future: F) -> Option<F::Output> {
        tokio::time::timeout_at(self.0.into(), future).await.ok()
    }
}

impl From<Duration> for Deadline {
    fn from(wait: Duration) -> Self {
        Self::after(wait)
    }
}

impl From<Instant> for Deadline {
    fn from(instant: Instant) -> Self {
        Self(instant)
    }
}
