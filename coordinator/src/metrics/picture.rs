//! What one coordinator knows of the cluster at one moment, for metrics.
//!
//! Not here: how it comes to know (`follow`). Invariant: what an earlier leader said of a node stays until a later report
//! of that node is heard, or the node is removed from the cluster; its age says how old it is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use protocol::lease::WorkerStatus;
use protocol::{Epoch, NodeId, Rank, ReplicaId};

use crate::raft::{AppliedState, Leadership};
use crate::reconcile::{Heard, LastReport};

/// The cluster as one coordinator knows it.
#[derive(Debug, Clone)]
pub struct Picture {
    pub(super) applied: AppliedState,
    pub(super) leadership: Leadership,
    /// Each node's last report.
    pub(super) reports: BTreeMap<NodeId, LastReport>,
    /// When a leader was last heard; before that, the start.
    pub(super) heard_at: Instant,
}

impl Picture {
    /// What is known at the start.
    #[must_use]
    pub fn unknown(now: Instant) -> Self {
        Self {
            applied: AppliedState::default(),
            leadership: Leadership::unknown(now),
            reports: BTreeMap::new(),
            heard_at: now,
        }
    }

    /// Takes in what the leader has heard. A leader that has just won has heard little: the rest stays as it was.
    pub(crate) fn hear(&mut self, heard: &Heard, now: Instant) {
        self.heard_at = now;
        for (node, last) in &heard.nodes {
            if self.reports.get(node).is_none_or(|known| known.at <= last.at) {
                self.reports.insert(node.clone(), last.clone());
            }
        }
    }

    /// Takes in applied state and who leads.
    pub(crate) fn follow(&mut self, applied: AppliedState, leadership: Leadership) {
        (self.applied, self.leadership) = (applied, leadership);
        let Self { applied, reports, .. } = self;
        reports.retain(|node, _| applied.state.nodes.contains_key(node));
    }

    /// The ranks of that group with their nodes, of reports that are at most `age_max` old at `now`.
    pub(crate) fn workers_of(
        &self,
        group: (ReplicaId, Epoch),
        now: Instant,
        age_max: Duration,
    ) -> Vec<(&NodeId, &WorkerStatus)> {
        let fresh = self.reports.iter().filter(|(_, last)| now.saturating_duration_since(last.at) <= age_max);
        let all = fresh.flat_map(|(node, last)| last.workers.iter().map(move |worker| (node, worker)));
        all.filter(|(_, w)| (w.replica, w.epoch) == group).collect()
    }

    /// Rank 0 of that group, as last reported.
    pub(super) fn leader_of(&self, replica: ReplicaId, epoch: Epoch) -> Option<&WorkerStatus> {
        let all = self.reports.values().flat_map(|last| last.workers.iter());
        all.into_iter().find(|w| (w.replica, w.epoch, w.rank) == (replica, epoch, Rank(0)))
    }
}
