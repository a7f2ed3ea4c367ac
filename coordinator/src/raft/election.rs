//! When this coordinator stands for election, and whom it lets stand: nobody, while a leader is heard.
//!
//! ```text
//!  silence ≥ patience ──▶ ask every other voter: would you let me stand? ──▶ a majority would: stand (term + 1)
//!        ▲                                                               └─▶ not: ask again after a pause
//!        └── a leader calls, a vote is asked for
//! ```
//! openraft's own timer stays off: it stands without asking, and a coordinator that was cut off for a while then deposes
//! the leader that everybody else hears, by the high term in its answer to the first heartbeat.
//! Not here: counting votes (openraft). Invariant: asking changes nothing at anybody; safety is openraft's alone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use openraft::{RaftMetrics, ServerState};
use protocol::raft::{RaftCall, RaftRequest};
use protocol::{ClusterId, CoordinatorId};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::codec;
use super::hearing::Hearing;
use super::type_config::{LogId, Member, NodeId, Raft};
use super::wires::Wires;
use crate::config::RaftTimings;

/// What the one who would stand says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asked {
    /// Its last log entry.
    pub(super) last_log: Option<LogId>,
}

/// What the one who is asked knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    /// Its last log entry.
    pub(super) last_log: Option<LogId>,
    /// Whether it leads with a majority behind it.
    pub(super) leads: bool,
    /// Since when no leader has called.
    pub(super) unled: Duration,
    /// Since when nobody has asked it for its vote, itself neither.
    pub(super) unasked: Duration,
}

/// Whether the one who asks may stand. Pure.
pub(super) fn may_stand(asked: Asked, known: Known, timings: RaftTimings) -> bool {
    let lease = lease(timings);
    !known.leads && known.unled > lease && known.unasked > lease && asked.last_log >= known.last_log
}

/// How long openraft refuses every vote after a leader's call.
pub(super) fn lease(timings: RaftTimings) -> Duration {
    ms(timings.election_min_ms)
}

fn ms(ms: u32) -> Duration {
    Duration::from_millis(u64::from(ms))
}

/// A number of `from..=to` that differs by coordinator and attempt; the same in every run.
fn spread(from: Duration, to: Duration, id: CoordinatorId, attempt: u64) -> Duration {
    // splitmix64
    let mut z = (id.0 << 32).wrapping_add(attempt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let share = (z >> 40) as f64 / (1u64 << 24) as f64;
    from + to.saturating_sub(from).mul_f64(share)
}

/// Whether `granted` is a majority of each of `configs`.
fn is_majority(configs: &[BTreeSet<NodeId>], granted: &BTreeSet<NodeId>) -> bool {
    configs.iter().all(|voters| voters.intersection(granted).count() * 2 > voters.len())
}

/// The task that stands.
pub(super) struct Election {
    pub(super) raft: Raft,
    pub(super) id: CoordinatorId,
    pub(super) cluster: ClusterId,
    pub(super) wires: Arc<dyn Wires>,
    pub(super) hearing: Arc<Hearing>,
    pub(super) timings: RaftTimings,
}

impl Election {
    /// Runs until `cancel`, or Raft has ended.
    pub(super) async fn run(self, cancel: CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.stand_when_needed() => {}
        }
    }

    async fn stand_when_needed(&self) {
        let metrics = self.raft.metrics();
        let pause = ms(self.timings.heartbeat_ms) / 2;
        let (min, max) = (lease(self.timings), ms(self.timings.election_max_ms));
        let mut round = 0;
        let mut quiet_since = Instant::now();
        let mut patience = spread(min, max, self.id, round);
        let mut stood = false;
        loop {
            round += 1;
            let now = metrics.borrow().clone();
            if now.running_state.is_err() {
                return;
            }
            let stir = self.hearing.last_stir().filter(|at| *at > quiet_since);
            let restart = if could_stand(&now) { stir } else { Some(Instant::now()) };
            if let Some(at) = restart {
                (quiet_since, patience, stood) = (at, spread(min, max, self.id, round), false);
            }
            let alone = voters(&now).iter().all(|config| config.len() == 1);
            let is_due = quiet_since.elapsed() >= patience || (alone && !stood);
            // Whoever asked for a vote while the others were being asked is ahead.
            let has_stirred = || self.hearing.last_stir().is_some_and(|at| at > quiet_since);
            if could_stand(&now) && is_due && self.may(&now).await && !has_stirred() {
                tracing::info!(term = now.current_term + 1, "standing for election");
                self.hearing.vote_asked();
                if self.raft.trigger().elect().await.is_err() {
                    return;
                }
                // Where nobody wins, the next attempt is near: nobody is heard any more.
                (quiet_since, patience, stood) = (Instant::now(), spread(min / 2, max / 2, self.id, round), true);
            }
            tokio::time::sleep(spread(pause / 2, pause, self.id, round)).await;
        }
    }

    /// Whether a majority would let this coordinator stand.
    async fn may(&self, now: &RaftMetrics<NodeId, Member>) -> bool {
        let configs = voters(now);
        let mut granted = BTreeSet::from([self.id.0]);
        let asked = Asked { last_log: self.raft.data_metrics().borrow().last_log };
        let body = codec::encode(&asked);
        let others: BTreeSet<NodeId> = configs.iter().flatten().copied().filter(|id| *id != self.id.0).collect();
        let ask = |id: NodeId| {
            let request = RaftRequest { cluster: self.cluster, call: RaftCall::MayStand, body: body.clone() };
            async move {
                let answer = self.wires.call(CoordinatorId(id), request, lease(self.timings) / 2).await;
                answer.is_ok_and(|a| codec::decode::<bool>(&a.body) == Ok(true)).then_some(id)
            }
        };
        let mut answers: FuturesUnordered<_> = others.into_iter().map(ask).collect();
        while !is_majority(&configs, &granted) {
            match answers.next().await {
                None => return false,
                Some(answer) => granted.extend(answer),
            }
        }
        true
    }
}

fn voters(now: &RaftMetrics<NodeId, Member>) -> Vec<BTreeSet<NodeId>> {
    now.membership_config.membership().get_joint_config().clone()
}

/// Whether standing is this coordinator's to do: a voter that does not lead.
fn could_stand(now: &RaftMetrics<NodeId, Member>) -> bool {
    now.state != ServerState::Leader && voters(now).iter().any(|config| config.contains(&now.id))
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;
    use proptest::prelude::*;

    use super::*;

    const TIMINGS: RaftTimings = RaftTimings { heartbeat_ms: 100, election_min_ms: 500, election_max_ms: 1000 };

    fn log(term: u64, index: u64) -> Option<LogId> {
        Some(LogId::new(CommittedLeaderId::new(term, 1), index))
    }

    fn idle(last_log: Option<LogId>) -> Known {
        Known { last_log, leads: false, unled: ms(5_000), unasked: ms(5_000) }
    }

    #[test]
    fn whoever_hears_a_leader_or_has_a_longer_log_lets_nobody_stand() {
        let asked = Asked { last_log: log(3, 10) };
        let may = |known| may_stand(asked, known, TIMINGS);
        assert!(may(idle(log(3, 10))));
        assert!(may(idle(log(2, 99))), "a later term outweighs a longer log");
        assert!(may(idle(None)));
        assert!(!may(idle(log(3, 11))));
        assert!(!may(idle(log(4, 1))));
        assert!(!may(Known { unled: ms(500), ..idle(None) }));
        assert!(may(Known { unled: ms(501), ..idle(None) }));
        assert!(!may(Known { leads: true, ..idle(None) }));
        assert!(!may(Known { unasked: ms(500), ..idle(None) }), "another one's election runs");
    }

    #[test]
    fn a_majority_is_one_of_each_configuration() {
        let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<_>>();
        assert!(is_majority(&[set(&[1, 2, 3])], &set(&[1, 3])));
        assert!(!is_majority(&[set(&[1, 2, 3])], &set(&[1, 4, 5])));
        assert!(!is_majority(&[set(&[1, 2])], &set(&[1])));
        assert!(!is_majority(&[set(&[1, 2, 3]), set(&[3, 4, 5])], &set(&[1, 2, 3])));
        assert!(is_majority(&[set(&[1, 2, 3]), set(&[3, 4, 5])], &set(&[2, 3, 4])));
    }

    proptest! {
        #[test]
        fn patience_stays_in_its_range(id in 1u64..=65_535, attempt in any::<u64>()) {
            let patience = spread(ms(500), ms(1000), CoordinatorId(id), attempt);
            prop_assert!((ms(500)..=ms(1000)).contains(&patience));
        }

        #[test]
        fn two_coordinators_do_not_keep_the_same_patience(id in 1u64..=1000, other in 1u64..=1000) {
            prop_assume!(id != other);
            let apart = |attempt| {
                let (a, b) = (spread(ms(500), ms(1000), CoordinatorId(id), attempt),
                              spread(ms(500), ms(1000), CoordinatorId(other), attempt));
                a.abs_diff(b) >= ms(20)
            };
            prop_assert!((0..20).any(apart));
        }
    }
}
