//! When this coordinator last heard of a leader, and was last asked for its vote.
//!
//! Not here: who that is (Raft knows), and what follows from silence (`leadership`, `election`). Invariant: a leader of
//! a term that is over is not heard.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// What is heard; kept by whoever answers Raft's calls.
#[derive(Debug)]
pub(super) struct Hearing {
    started: Instant,
    leader: watch::Sender<Option<Instant>>,
    vote: watch::Sender<Option<Instant>>,
}

impl Hearing {
    /// Nothing is heard yet.
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), leader: watch::Sender::default(), vote: watch::Sender::default() }
    }

    /// A leader of the term that this coordinator knows, or of a later one, has called.
    pub(super) fn leader_called(&self) {
        self.leader.send_replace(Some(Instant::now()));
    }

    /// Somebody stands for election, perhaps this coordinator.
    pub(super) fn vote_asked(&self) {
        self.vote.send_replace(Some(Instant::now()));
    }

    /// When a leader last called; `None` before the first time.
    pub(super) fn last_leader(&self) -> Option<Instant> {
        *self.leader.borrow()
    }

    /// When a leader last called or a vote was asked for; `None` before the first time.
    pub(super) fn last_stir(&self) -> Option<Instant> {
        self.last_leader().max(*self.vote.borrow())
    }

    /// How long no leader has called; a start counts as a call, since openraft takes it for one.
    pub(super) fn unled(&self) -> Duration {
        self.last_leader().unwrap_or(self.started).elapsed()
    }

    /// How long no vote was asked for; for ever before the first.
    pub(super) fn unasked(&self) -> Duration {
        self.vote.borrow().map_or(Duration::MAX, |at| at.elapsed())
    }

    /// To be woken by each leader's call.
    pub(super) fn subscribe(&self) -> watch::Receiver<Option<Instant>> {
        self.leader.subscribe()
    }
}
