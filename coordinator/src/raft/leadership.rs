//! Who leads, as far as this coordinator can know: what openraft says, as long as somebody was heard.
//!
//! Not here: who may stand (`election`). Invariant: nobody is called leader for longer than the longest election timeout after the
//! last sign of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::{RaftMetrics, ServerState};
use protocol::{CoordinatorId, Term};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::hearing::Hearing;
use super::type_config::{Member, NodeId, Raft};
use crate::config::RaftTimings;
use crate::runtime;

/// Who leads, as this coordinator knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Since when no leader has been known; `None` while one is.
    pub leaderless_since: Option<Instant>,
}

impl Leadership {
    /// Nobody is known to lead, from `now` on.
    #[must_use]
    pub fn unknown(now: Instant) -> Self {
        Self { term: Term(0), leader: None, here: false, led_last: None, leaderless_since: Some(now) }
    }

    /// What comes of it when `leader` leads in `term` at `now`, or nobody.
    #[must_use]
    pub fn then(self, term: Term, leader: Option<CoordinatorId>, here: bool, now: Instant) -> Self {
        let leaderless_since = match leader {
            Some(_) => None,
            None => self.leaderless_since.or(Some(now)),
        };
        Self { term, leader, here, led_last: leader.or(self.led_last), leaderless_since }
    }
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
        loop {
            let last = *leadership.borrow();
            let now = self.leadership(&metrics.borrow_and_update(), last);
            leadership.send_if_modified(|l| std::mem::replace(l, now) != now);
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = metrics.changed() => if changed.is_err() { return },
                _ = heard.changed() => {}
                () = tokio::time::sleep(tick) => {}
            }
        }
    }

    fn leadership(&self, m: &RaftMetrics<NodeId, Member>, last: Leadership) -> Leadership {
        let leads = m.state == ServerState::Leader && m.current_leader == Some(m.id);
        let is_fresh = if leads {
            m.millis_since_quorum_ack.is_some_and(|ms| u128::from(ms) <= self.silence.as_millis())
        } else {
            self.hearing.last_leader().is_some_and(|at| at.elapsed() <= self.silence)
        };
        let leader = m.current_leader.filter(|_| is_fresh).map(CoordinatorId);
        last.then(Term(m.current_term), leader, leads && is_fresh, runtime::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_without_a_leader_runs_over_terms_and_ends_with_one() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let one = Some(CoordinatorId(1));
        let nobody = Leadership::unknown(start).then(Term(1), None, false, at(1));
        assert_eq!((nobody.leaderless_since, nobody.led_last), (Some(start), None));
        let led = nobody.then(Term(2), one, false, at(2));
        assert_eq!((led.leaderless_since, led.led_last), (None, one));
        let lost = led.then(Term(2), None, false, at(3)).then(Term(3), None, false, at(4));
        assert_eq!((lost.leaderless_since, lost.led_last, lost.term), (Some(at(3)), one, Term(3)));
    }
}
