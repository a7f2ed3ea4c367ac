//! Whose silence counts: how long a worker has said nothing, and whether the agent was there to hear it.
//!
//! Not here: pipes and processes; what becomes of a silent worker (the supervisor). Pure: no clock.
//! Invariants: nobody is asked about before a whole bound of silence that the agent was awake for; nobody is given up
//! without having been looked at after that.
//!
//! ```text
//!             nothing for the bound               pipe empty
//!  Listening ───────────────────────▶ LookedAt ─────────────▶ (given up)
//!      ▲  └── heard, or the agent was away: from now on anew     │
//!      └─────────────────────────────────┴──────────────────────┘ heard
//! ```

use std::time::{Duration, Instant};

use protocol::worker::FromWorker;

/// The bound before a worker's first sign of life, where the configured one is shorter: a program that is read from a
/// slow disk, or starts beside many others, says nothing yet.
pub(super) const START_SILENCE_MIN: Duration = Duration::from_secs(10);

/// What is known of one worker's voice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hearing {
    /// Since when it has said nothing.
    since: Instant,
    /// Whether it has shown that it is alive at all.
    up: bool,
    /// Whether its pipe is being looked at.
    looked_at: bool,
}

impl Hearing {
    /// Of a worker that is being started.
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, up: false, looked_at: false }
    }

    /// It spoke.
    pub(super) fn heard(&mut self, message: &FromWorker, now: Instant) {
        self.up |= matches!(message, FromWorker::Alive { .. });
        self.afresh(now);
    }

    /// From now on anew.
    pub(super) fn afresh(&mut self, now: Instant) {
        (self.since, self.looked_at) = (now, false);
    }

    /// How long it has said nothing, where it was looked at because of that and has not spoken since.
    pub(super) fn silent(&self, now: Instant) -> Option<Duration> {
        self.looked_at.then(|| now.saturating_duration_since(self.since))
    }
}

/// The agent as a listener: what silence it bears, and when it last listened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ear {
    bound: Duration,
    listened: Option<Instant>,
}

impl Ear {
    /// One that bears `bound` of silence.
    pub(super) fn new(bound: Duration) -> Self {
        Self { bound, listened: None }
    }

    /// Whether nobody listened for longer than half the bound, so that what was not heard proves nothing. Called with each
    /// event.
    pub(super) fn was_away(&mut self, now: Instant) -> bool {
        let before = self.listened.replace(now);
        before.is_some_and(|at| now.saturating_duration_since(at) > self.bound / 2)
    }

    /// When to listen again: at the first end of somebody's patience, and often enough to notice an absence of one's own.
    pub(super) fn next_deadline<'a>(&self, workers: impl Iterator<Item = &'a Hearing>) -> Option<Instant> {
        let due = |h: &Hearing| if h.looked_at { None } else { Some(self.due(h)) };
        let awake = self.listened.map(|at| at + self.bound / 4);
        let mut workers = workers.peekable();
        workers.peek()?;
        workers.filter_map(due).chain(awake).min()
    }

    /// Whether to look at a worker now: once in a silence.
    pub(super) fn asks(&self, hearing: &mut Hearing, now: Instant) -> bool {
        let asks = !hearing.looked_at && now >= self.due(hearing);
        hearing.looked_at |= asks;
        asks
    }

    fn due(&self, hearing: &Hearing) -> Instant {
        hearing.since + if hearing.up { self.bound } else { self.bound.max(START_SILENCE_MIN) }
    }
}
