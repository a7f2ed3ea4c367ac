//! Who leads, as far as this coordinator can know: what openraft says, as long as somebody was heard.
//!
//! Not here: who may stand (`election`). Invariant: nobody is called leader for longer than the longest election timeout after the
//! last sign of it.

use std::sync::Arc;
use std::time::Duration;

use openraft::{RaftMetrics, ServerState};
use protocol::{CoordinatorId, Term};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::hearing::Hearing;
use super::type_config::{Member, NodeId, Raft};
use crate::config::RaftTimings;

/// Who leads, as this coordinator knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The term.
    pub term: Term,
    /// The leader that this coordinator heard of within the longest election timeout; its own claim counts as long as a
    /// majority has confirmed it within that time.
    pub leader: Option<CoordinatorId>,
    /// Whether it is this coordinator.
    pub here: bool,
    /// The last leader that was known, where there ever was one.
    pub led_last: Option<CoordinatorId>,
}

/// How long a leader may be silent, or a majority silent towards it, before it counts as none.
pub(super) fn silence(timings: RaftTimings) -> Duration {
    Duration::from_millis(u64::from(timings.election_max_ms))
}

/// Turns openraft's metrics and what is heard into [`Leadership`]. openraft goes on naming a leader that it has not heard
/// of for hours, where nobody can be elected in its place.
pub(super) struct Following {
    pub(super) raft: Raft,
    pub(super) hearing: Arc<Hearing>,
    pub(super) silence: Duration,
}

impl Following {
    /// Until `cancel`, or Raft has ended.
    pub(super) async fn run(self, leadership: watch::Sender<Leadership>, cancel: CancellationToken) {
        let mut metrics = self.raft.metrics();
        let mut heard = self.hearing.subscribe();
        let tick = (self.silence / 8).max(Duration::from_millis(1));
        let mut led_last = None;
        loop {
            let now = self.leadership(&metrics.borrow_and_update(), led_last);
            led_last = now.led_last;
            leadership.send_if_modified(|l| std::mem::replace(l, now) != now);
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = metrics.changed() => if changed.is_err() { return },
                _ = heard.changed() => {}
                () = tokio::time::sleep(tick) => {}
            }
        }
    }

    fn leadership(&self, m: &RaftMetrics<NodeId, Member>, led_last: Option<CoordinatorId>) -> Leadership {
        let leads = m.state == ServerState::Leader && m.current_leader == Some(m.id);
        let is_fresh = if leads {
            m.millis_since_quorum_ack.is_some_and(|ms| u128::from(ms) <= self.silence.as_millis())
        } else {
            self.hearing.last_leader().is_some_and(|at| at.elapsed() <= self.silence)
        };
        let leader = m.current_leader.filter(|_| is_fresh).map(CoordinatorId);
        Leadership { term: Term(m.current_term), leader, here: leads && is_fresh, led_last: leader.or(led_last) }
    }
}
