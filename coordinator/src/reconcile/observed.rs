//! What the leader has seen in its term: the nodes' reports, their leases, and how far each group's ranks came.
//!
//! Not here: what follows from it. Nothing of this is replicated; a new leader starts with none of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::lease::{NodeReport, WorkerPhase, WorkerStatus};
use protocol::plan::RankAddr;
use protocol::{Epoch, NodeId, Rank, ReplicaId};
use serde::{Deserialize, Serialize};

use crate::state::{ClusterState, Standing};

/// Which group: a replica and its epoch.
pub(super) type GroupId = (ReplicaId, Epoch);

/// What was seen, and when.
#[derive(Debug, Clone, Default)]
pub(super) struct Observed {
    pub(super) nodes: BTreeMap<NodeId, Sighting>,
    pub(super) groups: BTreeMap<GroupId, Group>,
    /// When a node was last heard for the first time in this term.
    pub(super) fleet_grew: Option<Instant>,
    quarrels: Vec<Quarrel>,
    /// How long a node is waited for that this leader knows from the state alone.
    grace: Duration,
}

/// Nodes that were all up, and whose ranks still did not become a group: a link between them may be cut.
#[derive(Debug, Clone)]
struct Quarrel {
    nodes: BTreeSet<NodeId>,
    /// When they may be tried again although others would do.
    until: Instant,
}

/// How long such nodes are kept apart, where others would do.
const QUARREL: Duration = Duration::from_secs(60);
/// Most of them that are remembered; the oldest is forgotten.
const QUARRELS_MAX: usize = 64;

/// A node as last seen.
#[derive(Debug, Clone)]
pub(super) struct Sighting {
    /// When its lease runs out.
    pub(super) lease_until: Instant,
    /// Its last report; `None` where it is known from the state only.
    pub(super) report: Option<NodeReport>,
    /// What that report says of its workers, and when it came.
    last: Option<LastReport>,
}

/// A replica's present group as last seen.
#[derive(Debug, Clone)]
pub(super) struct Group {
    /// The replica's phase, by name.
    pub(super) phase: &'static str,
    /// Since when this leader has seen it in that phase.
    pub(super) since: Instant,
    /// When one of its ranks last came further.
    pub(super) progress: Instant,
    pub(super) ranks: BTreeMap<Rank, RankSeen>,
    /// Where its plan has put it; kept when the plan is gone.
    nodes: BTreeSet<NodeId>,
}

/// A rank as last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RankSeen {
    pub(super) node: NodeId,
    pub(super) phase: WorkerPhase,
    /// Where it listens; remembered from when it was Loaded.
    pub(super) addr: Option<RankAddr>,
    /// It was in an earlier report of its node, and is not in the last.
    pub(super) vanished: bool,
}

impl Observed {
    /// At the start of a term: every node that the state has alive gets `grace` to be heard.
    pub(super) fn new(state: &ClusterState, now: Instant, grace: Duration) -> Self {
        let mut observed = Self { grace, ..Self::default() };
        observed.follow(state, now);
        observed
    }

    /// Takes a report in: the node's lease runs for `lease` from now.
    pub(super) fn report(&mut self, report: NodeReport, now: Instant, lease: Duration) {
        if self.nodes.get(&report.node).is_none_or(|s| s.report.is_none()) {
            self.fleet_grew = Some(now);
        }
        for (id, group) in &mut self.groups {
            group.report(*id, &report, now);
        }
        let last = Some(LastReport { workers: Arc::new(report.workers.clone()), at: now });
        let sighting = Sighting { lease_until: now + lease, report: Some(report.clone()), last };
        self.nodes.insert(report.node, sighting);
    }

    /// Follows the state: groups that are no more are forgotten, and changes of phase get their time. A node that it has alive and
    /// that was never seen gets its time too: what an earlier leader proposed may be applied in the term of the next.
    pub(super) fn follow(&mut self, state: &ClusterState, now: Instant) {
        for (node, _) in state.nodes.iter().filter(|(_, r)| r.is_alive()) {
            if !self.nodes.contains_key(node) {
                let sighting = Sighting { lease_until: now + self.grace, report: None, last: None };
                self.nodes.insert(node.clone(), sighting);
            }
        }
        self.groups.retain(|(id, epoch), _| state.replicas.get(id).is_some_and(|r| r.epoch == *epoch));
        for (id, replica) in &state.replicas {
            let phase = replica.phase.name();
            let (ranks, nodes) = (BTreeMap::new(), BTreeSet::new());
            let fresh = Group { phase, since: now, progress: now, ranks, nodes };
            let group = self.groups.entry((*id, replica.epoch)).or_insert(fresh);
            if let Some(plan) = replica.plan() {
                group.nodes = plan.ranks.iter().map(|r| r.node.clone()).collect();
            }
            if group.phase == phase {
                continue;
            }
            let before = std::mem::replace(&mut group.phase, phase);
            (group.since, group.progress) = (now, now);
            let all_up = group.nodes.iter().all(|n| state.nodes.get(n).is_some_and(|r| r.standing == Standing::Up));
            if (before, phase) == ("forming", "waiting") && all_up && group.nodes.len() > 1 {
                self.quarrels.push(Quarrel { nodes: group.nodes.clone(), until: now + QUARREL });
            }
        }
        self.quarrels.retain(|q| q.until > now);
        let old = self.quarrels.len().saturating_sub(QUARRELS_MAX);
        self.quarrels.drain(..old);
    }

    /// Nodes out of `nodes` that lately did not become a group together although they were up.
    pub(super) fn quarrel(&self, nodes: &BTreeSet<NodeId>, now: Instant) -> Option<&BTreeSet<NodeId>> {
        self.quarrels.iter().filter(|q| q.until > now).map(|q| &q.nodes).find(|q| q.is_subset(nodes))
    }

    /// Nodes whose last word is that a rank of that group, which waits for the next, lives there, and when each of them is late:
    /// after two fifths of its lease without a report, two heartbeats by default, and no later than so long after the group was
    /// lost, since a process that cannot be killed is reported for ever.
    pub(super) fn unaware(&self, group: GroupId) -> BTreeMap<NodeId, Instant> {
        let Some(group) = self.groups.get(&group) else { return BTreeMap::new() };
        let living =
            group.ranks.values().filter(|seen| !seen.vanished && !matches!(seen.phase, WorkerPhase::Failed { .. }));
        let late = |node: &NodeId| Some(self.nodes.get(node)?.last.as_ref()?.at.min(group.since) + self.grace / 5);
        living.filter_map(|seen| Some((seen.node.clone(), late(&seen.node)?))).collect()
    }

    /// What every node last said of its workers.
    pub(super) fn heard(&self) -> Heard {
        Heard { nodes: self.nodes.iter().filter_map(|(node, s)| Some((node.clone(), s.last.clone()?))).collect() }
    }

    /// The rank as seen on the node that the plan puts it on.
    pub(super) fn rank(&self, group: GroupId, rank: Rank, node: &NodeId) -> Option<&RankSeen> {
        self.groups.get(&group)?.ranks.get(&rank).filter(|seen| seen.node == *node)
    }
}

impl Group {
    fn report(&mut self, (replica, epoch): GroupId, report: &NodeReport, now: Instant) {
        for seen in self.ranks.values_mut().filter(|seen| seen.node == report.node) {
            seen.vanished = true;
        }
        for worker in report.workers.iter().filter(|w| w.replica == replica && w.epoch == epoch) {
            let addr = match &worker.phase {
                WorkerPhase::Loaded { addr, .. } => Some(addr.clone()),
                _ => self.ranks.get(&worker.rank).and_then(|r| r.addr.clone()),
            };
            let (node, phase) = (report.node.clone(), worker.phase.clone());
            let seen = RankSeen { node, phase, addr, vanished: false };
            let before = self.ranks.insert(worker.rank, seen);
            if before.is_none_or(|b| b.phase != worker.phase) {
                self.progress = now;
            }
        }
    }
}

/// What a leader has heard of workers, for the listings and metrics of every coordinator.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard {
    /// By node.
    pub nodes: BTreeMap<NodeId, LastReport>,
}

/// What a node last said of its workers.
#[derive(Debug, Clone)]
pub(crate) struct LastReport {
    /// Them.
    pub workers: Arc<Vec<WorkerStatus>>,
    /// When.
    pub at: Instant,
}

/// [`Heard`] on its way to another coordinator, whose clock is another: each report with its age, ms.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HeardTold(BTreeMap<NodeId, (u64, Arc<Vec<WorkerStatus>>)>);

impl Heard {
    /// What its nodes said of their workers.
    pub(crate) fn workers(&self, node: &NodeId) -> &[WorkerStatus] {
        self.nodes.get(node).map_or(&[], |last| &last.workers)
    }

    /// For another coordinator.
    pub(crate) fn told(&self, now: Instant) -> HeardTold {
        let age_ms = |at| now.saturating_duration_since(at).as_millis() as u64;
        let told = |(node, last): (&NodeId, &LastReport)| (node.clone(), (age_ms(last.at), Arc::clone(&last.workers)));
        HeardTold(self.nodes.iter().map(told).collect())
    }
}

impl HeardTold {
    /// As it came in at `now`. An age beyond what the clock can say counts as none.
    pub(crate) fn heard(self, now: Instant) -> Heard {
        let last = |(node, (age_ms, workers))| {
            let at = now.checked_sub(Duration::from_millis(age_ms)).unwrap_or(now);
            (node, LastReport { workers, at })
        };
        Heard { nodes: self.0.into_iter().map(last).collect() }
    }
}
