//! The one value through which the control plane tells the data plane what to do: the last applied state, as far as
//! serving needs it. A gateway reads it from a `watch` channel and never asks Raft while it serves a request.
//!
//! Not here: anything that is routed by and not committed. What is observed (the leader, the other coordinators) is for people.

use std::sync::Arc;
use std::time::Instant;

use protocol::plan::RankAddr;
use protocol::{CoordinatorId, DeploymentSpec, Epoch, ReplicaId};

/// One incarnation of a replica.
pub type Group = (ReplicaId, Epoch);

/// What is being served, as of one log index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// Index of the last applied log entry.
    pub applied_index: u64,
    /// The leader, where one is known.
    pub leader: Option<CoordinatorId>,
    /// Every deployment.
    pub deployments: Vec<Arc<ServedDeployment>>,
    /// Groups that finish what they have and are not routed to any more.
    pub draining: Vec<Group>,
    /// Replicas that are not routed to, and why not.
    pub unready: Vec<UnreadyReplica>,
    /// How the control plane does, as seen from here.
    pub control: Control,
}

/// A replica that is not routed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadyReplica {
    /// Its deployment.
    pub deployment: String,
    /// Which incarnation it is.
    pub group: Group,
    /// Its phase by name.
    pub phase: &'static str,
    /// Why it is in that phase, where that is on record.
    pub reason: Option<String>,
}

/// What this coordinator sees of the others and of itself. Nothing of it is needed to serve.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Control {
    /// Since when no leader has been known; `None` while one is.
    pub leaderless_since: Option<Instant>,
    /// Other coordinators that there are.
    pub others: usize,
    /// Those of them that are not connected.
    pub unreached: Vec<CoordinatorId>,
    /// Why this coordinator cannot go on.
    pub fatal: Option<String>,
}

impl ClusterView {
    /// Whether the group of this epoch is still there, so that a stream from it may go on.
    #[must_use]
    pub fn has_group(&self, replica: ReplicaId, epoch: Epoch) -> bool {
        let ready = self.deployments.iter().flat_map(|d| &d.replicas).map(|r| (r.replica, r.epoch));
        ready.chain(self.draining.iter().copied()).any(|group| group == (replica, epoch))
    }

    /// Whether what is served under the deployment's name still gives the answers of `spec`: the same model version by
    /// weights of the same precision. How it is cut, and into how many replicas, changes no token.
    #[must_use]
    pub fn answers_as(&self, spec: &DeploymentSpec) -> bool {
        let same = |d: &&Arc<ServedDeployment>| d.spec.name == spec.name;
        let now = self.deployments.iter().find(same).map(|d| &d.spec);
        now.is_some_and(|now| now.model.digest == spec.model.digest && now.dtype == spec.dtype)
    }

    /// What is to be hoped for where these groups of a deployment were tried in vain.
    #[must_use]
    pub fn outlook(&self, spec: &DeploymentSpec, tried: &[Group]) -> Outlook {
        if tried.iter().any(|(replica, epoch)| self.has_group(*replica, *epoch)) {
            return Outlook::Unknown;
        }
        let coming = self.deployments.iter().find(|d| d.spec.name == spec.name).map_or(Coming::No, |d| d.coming);
        if coming == Coming::No { Outlook::Nothing } else { Outlook::Coming }
    }
}

/// What is to be hoped for where groups were tried in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// One of them still counts as there.
    Unknown,
    /// Another one is to come.
    Coming,
    /// None is.
    Nothing,
}

/// One deployment and where it can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedDeployment {
    /// What it is.
    pub spec: DeploymentSpec,
    /// Its replicas that are committed Ready.
    pub replicas: Vec<ReadyReplica>,
    /// Whether others are to come.
    pub coming: Coming,
}

/// Whether a deployment will have a replica, beside those that it has, without anybody doing anything for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Coming {
    /// None: no more are wanted, there is no place for one, or trying again would not help.
    #[default]
    No,
    /// A group for it is to be planned.
    Soon,
    /// A group is being formed.
    Forming {
        /// Longest context that it will take, tokens.
        context_tokens: u32,
    },
}

impl ServedDeployment {
    /// The longest context that any ready replica takes, tokens.
    #[must_use]
    pub fn context_tokens(&self) -> Option<u32> {
        self.replicas.iter().map(|r| r.context_tokens).max()
    }
}

/// A replica that may be routed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyReplica {
    /// Its id.
    pub replica: ReplicaId,
    /// Its group's epoch; goes into every frame to it.
    pub epoch: Epoch,
    /// Longest context it takes, tokens.
    pub context_tokens: u32,
    /// Tokens of KV cache that it has.
    pub kv_tokens: u32,
    /// Rank 0.
    pub leader: RankAddr,
}

impl ReadyReplica {
    /// Which incarnation it is.
    #[must_use]
    pub fn group(&self) -> Group {
        (self.replica, self.epoch)
    }
}
