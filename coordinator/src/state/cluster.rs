//! The whole replicated state: what a snapshot holds.

use std::collections::{BTreeMap, BTreeSet};

use protocol::{CoordinatorId, NodeId, ReplicaId};
use serde::{Deserialize, Serialize};

use super::{Deployment, NodeRecord, Replica};

/// Everything that the coordinators agree on, but for Raft's own membership.
///
/// Ordered maps only: iteration order is part of determinism.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// Every node that ever registered.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// Desired state, by deployment name.
    pub deployments: BTreeMap<String, Deployment>,
    /// Every replica.
    pub replicas: BTreeMap<ReplicaId, Replica>,
    /// Configured deployments whose model could not be read, with the reason.
    pub unreadable: BTreeMap<String, String>,
    /// The id that the next replica gets; never goes back.
    pub(super) next_replica: ReplicaId,
    /// Ids of coordinators that were given a vote after the cluster was formed, or taken out: never given again. Whoever
    /// comes back under an id with an empty disk has forgotten whom it voted for.
    pub used_members: BTreeSet<CoordinatorId>,
}

impl ClusterState {
    /// The replicas of one deployment, in the order of their ids.
    pub fn replicas_of<'a>(&'a self, deployment: &'a str) -> impl Iterator<Item = (ReplicaId, &'a Replica)> {
        self.replicas.iter().filter(move |(_, r)| r.spec.name == deployment).map(|(id, r)| (*id, r))
    }
}
