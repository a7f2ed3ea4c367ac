//! What becomes of each group: committed when every rank has proved its peers, lost when a rank is gone, failed when
//! trying again would not help, drained when its node leaves.
//!
//! A committed group whose ranks were started again while nobody led (at its epoch and its addresses, by their agents alone) is
//! taken over as it is, once they serve; while they load they have [`REVIVAL_STALL`] to come further.

use std::time::Instant;

use protocol::lease::WorkerPhase;
use protocol::plan::RankAddr;
use protocol::{NodeId, Plan, RankPlan, ReplicaId};

use super::observed::{Observed, RankSeen};
use super::planner::{CONNECT_STALL, DRAIN_MAX, FORMING_STALL, REVIVAL_STALL};
use crate::state::{ClusterState, NodeRecord, Phase, Replica, ReplicaCommand, Standing};

pub(super) fn plan(state: &ClusterState, observed: &Observed, now: Instant) -> Vec<ReplicaCommand> {
    state.replicas.iter().filter_map(|(id, r)| Group { state, observed, id: *id, replica: r }.decide(now)).collect()
}

/// One replica with a group, and all that is known about it.
struct Group<'a> {
    state: &'a ClusterState,
    observed: &'a Observed,
    id: ReplicaId,
    replica: &'a Replica,
}

/// Why a group cannot go on.
enum End {
    /// Another may be formed.
    Lost(String),
    /// Another would fail as well.
    Hopeless(String),
}

impl Group<'_> {
    fn decide(&self, now: Instant) -> Option<ReplicaCommand> {
        let plan = self.replica.plan()?;
        let (replica, epoch) = (self.id, self.replica.epoch);
        match self.end(plan, now) {
            Some(End::Hopeless(reason)) if !matches!(self.replica.phase, Phase::Draining { .. }) => {
                return Some(ReplicaCommand::Fail { replica, epoch, reason });
            }
            Some(End::Lost(reason) | End::Hopeless(reason)) => {
                return Some(ReplicaCommand::Lose { replica, epoch, reason });
            }
            None => {}
        }
        match &self.replica.phase {
            Phase::Forming { .. } => {
                let addrs = plan.ranks.iter().map(|r| self.connected(r)).collect::<Option<Vec<_>>>()?;
                Some(ReplicaCommand::CommitReady { replica, epoch, addrs })
            }
            Phase::Ready { .. } => {
                let reason = self.leaving(plan)?;
                Some(ReplicaCommand::Drain { replica, epoch, reason })
            }
            _ => None,
        }
    }

    /// Why the group cannot go on; `None` while it can.
    fn end(&self, plan: &Plan, now: Instant) -> Option<End> {
        if let Some(end) = plan.ranks.iter().find_map(|r| self.rank_end(r, now)) {
            return Some(end);
        }
        let seen = self.observed.groups.get(&(self.id, self.replica.epoch))?;
        match &self.replica.phase {
            Phase::Forming { .. } if now >= seen.progress + FORMING_STALL => {
                let slowest = plan.ranks.iter().find(|r| self.connected(r).is_none());
                let rank = slowest.map_or_else(String::new, |r| format!("rank {} on {}: ", r.rank, r.node));
                Some(End::Lost(format!("{rank}no progress for {} s while forming", FORMING_STALL.as_secs())))
            }
            Phase::Forming { .. } if now >= seen.progress + CONNECT_STALL && self.waits_for_peers(plan) => {
                Some(End::Lost(format!("its ranks have not reached each other for {} s", CONNECT_STALL.as_secs())))
            }
            Phase::Forming { .. } => self.leaving(plan).map(End::Lost),
            Phase::Draining { reason, .. } if now >= seen.since + DRAIN_MAX => {
                Some(End::Lost(format!("{reason}; not drained within {} s", DRAIN_MAX.as_secs())))
            }
            _ => None,
        }
    }

    fn rank_end(&self, rank: &RankPlan, now: Instant) -> Option<End> {
        let lost = |what: String| Some(End::Lost(format!("rank {} on {}: {what}", rank.rank, rank.node)));
        let Some(record) = self.state.nodes.get(&rank.node) else { return lost("its node is unknown".into()) };
        if let Standing::Down { reason } = &record.standing {
            return lost(format!("its node is down: {reason}"));
        }
        let report = self.observed.nodes.get(&rank.node).and_then(|s| s.report.as_ref())?;
        let seen = self.seen(rank).filter(|seen| !seen.vanished);
        let committed = match &self.replica.phase {
            Phase::Ready { addrs, .. } => addrs.get(rank.rank.index()),
            _ => None,
        };
        // An agent that was started anew may have revived the rank: then it reports it.
        if report.incarnation != record.incarnation && (committed.is_none() || seen.is_none()) {
            return lost("its node's agent was started anew".into());
        }
        let Some(seen) = seen else {
            let never = self.seen(rank).is_none() && matches!(self.replica.phase, Phase::Forming { .. });
            return if never { None } else { lost("it is gone".into()) };
        };
        match (&seen.phase, &self.replica.phase) {
            (WorkerPhase::Failed { reason, retryable: true }, _) => lost(reason.clone()),
            (WorkerPhase::Failed { reason, retryable: false }, _) => {
                Some(End::Hopeless(format!("rank {} on {}: {reason}", rank.rank, rank.node)))
            }
            (WorkerPhase::Connected | WorkerPhase::Serving, Phase::Forming { .. }) if seen.addr.is_none() => {
                lost("formed under an earlier leader, so that its address is not known".into())
            }
            (WorkerPhase::Loaded { addr, .. }, _) if !is_own(addr, rank) => {
                lost(format!("it reports a malformed or foreign address ({addr:?})"))
            }
            (_, Phase::Ready { .. }) if seen.addr.as_ref().is_some_and(|addr| Some(addr) != committed) => {
                lost("it listens elsewhere than where it is routed to".into())
            }
            (WorkerPhase::Connected | WorkerPhase::Serving, _) => None,
            (WorkerPhase::Starting | WorkerPhase::Loading { .. } | WorkerPhase::Loaded { .. }, Phase::Ready { .. })
                if self.comes_back(now) =>
            {
                None
            }
            (other, Phase::Ready { .. }) => lost(format!("it is {} in a committed group", name(other))),
            _ => None,
        }
    }

    /// Whether one of the group's ranks has lately come further.
    fn comes_back(&self, now: Instant) -> bool {
        let seen = self.observed.groups.get(&(self.id, self.replica.epoch));
        seen.is_some_and(|group| now < group.progress + REVIVAL_STALL)
    }

    /// The rank's address, once it has proved its peers.
    fn connected(&self, rank: &RankPlan) -> Option<RankAddr> {
        let seen = self.seen(rank).filter(|seen| !seen.vanished)?;
        let proved = matches!(seen.phase, WorkerPhase::Connected | WorkerPhase::Serving);
        seen.addr.clone().filter(|_| proved)
    }

    fn seen(&self, rank: &RankPlan) -> Option<&RankSeen> {
        self.observed.rank((self.id, self.replica.epoch), rank.rank, &rank.node)
    }

    /// Whether all ranks are loaded, so that nothing is left but to connect, and another node could take the place of one.
    fn waits_for_peers(&self, plan: &Plan) -> bool {
        let loaded = |r: &RankPlan| {
            let phase = self.seen(r).filter(|seen| !seen.vanished).map(|seen| &seen.phase);
            matches!(phase, Some(WorkerPhase::Loaded { .. } | WorkerPhase::Connected))
        };
        let spare = |(node, record): (&NodeId, &NodeRecord)| {
            record.takes_ranks() && !self.replica.is_on(node) && self.observed.nodes.contains_key(node)
        };
        plan.ranks.iter().all(loaded) && self.state.nodes.iter().any(spare)
    }

    fn leaving(&self, plan: &Plan) -> Option<String> {
        let is_leaving = |r: &&RankPlan| self.state.nodes.get(&r.node).is_some_and(|n| n.standing == Standing::Leaving);
        plan.ranks.iter().find(is_leaving).map(|r| format!("node {} is leaving", r.node))
    }
}

/// Whether an address is one of that rank's, and of use.
pub(super) fn is_own(addr: &RankAddr, rank: &RankPlan) -> bool {
    addr.rank == rank.rank && addr.node == rank.node && addr.group().is_ok() && addr.serve().is_ok()
}

fn name(phase: &WorkerPhase) -> &'static str {
    match phase {
        WorkerPhase::Starting => "starting",
        WorkerPhase::Loading { .. } => "loading",
        WorkerPhase::Loaded { .. } => "loaded",
        WorkerPhase::Connected => "connected",
        WorkerPhase::Serving => "serving",
        WorkerPhase::Draining => "draining",
        WorkerPhase::Failed { .. } => "failed",
    }
}
