//! Why a command was not applied. The caller can act: look at the state again and decide anew.

use protocol::{CoordinatorId, Epoch, Generation, NodeId, Rank, ReplicaId, Revision, WorldSize};
use serde::{Deserialize, Serialize};

/// A precondition that did not hold. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refused {
    /// No such node.
    #[error("node {node} is not registered")]
    UnknownNode {
        /// The name.
        node: NodeId,
    },
    /// The node's agent was started anew since.
    #[error("node {node} is of incarnation {found}, the command was about {expected}")]
    Incarnation {
        /// The node.
        node: NodeId,
        /// What the command said.
        expected: u64,
        /// What the state has.
        found: u64,
    },
    /// The node does not stand as it must.
    #[error("node {node} is {found}")]
    Standing {
        /// The node.
        node: NodeId,
        /// How it stands.
        found: String,
    },
    /// No such deployment.
    #[error("deployment `{name}` does not exist")]
    UnknownDeployment {
        /// The name.
        name: String,
    },
    /// The deployment was changed since.
    #[error("deployment `{name}` is at generation {found:?}, the change was planned against {expected:?}")]
    Generation {
        /// The deployment.
        name: String,
        /// What the command said.
        expected: Option<Generation>,
        /// What the state has.
        found: Option<Generation>,
    },
    /// A specification that cannot be meant.
    #[error("deployment `{name}`: {what} is {found}, expected {expected}")]
    Spec {
        /// The deployment.
        name: String,
        /// Which field.
        what: String,
        /// Its value.
        found: String,
        /// What is accepted.
        expected: String,
    },
    /// The deployment has all its replicas.
    #[error("deployment `{name}` wants {wanted} replicas and has them")]
    EnoughReplicas {
        /// The deployment.
        name: String,
        /// How many.
        wanted: u16,
    },
    /// No such replica.
    #[error("replica {replica} does not exist")]
    UnknownReplica {
        /// The id.
        replica: ReplicaId,
    },
    /// The replica's group is another by now.
    #[error("replica {replica} is at epoch {found}, the command needs {expected}")]
    Epoch {
        /// The replica.
        replica: ReplicaId,
        /// What the command needs the state to have.
        expected: Epoch,
        /// What the state has.
        found: Epoch,
    },
    /// The replica is not as far as it must be.
    #[error("replica {replica} is {found}")]
    Phase {
        /// The replica.
        replica: ReplicaId,
        /// How far it is.
        found: String,
    },
    /// A plan for another group size.
    #[error("replica {replica} has tp {expected}, the plan {found}")]
    PlanSize {
        /// The replica.
        replica: ReplicaId,
        /// The deployment's.
        expected: WorldSize,
        /// The plan's.
        found: WorldSize,
    },
    /// A plan that contradicts itself.
    #[error("the plan of replica {replica} is malformed: {reason}")]
    PlanMalformed {
        /// The replica.
        replica: ReplicaId,
        /// What the check says.
        reason: String,
    },
    /// Addresses that are not the plan's ranks'.
    #[error("replica {replica}: the address of rank {rank} is missing, malformed or of another node than planned")]
    Address {
        /// The replica.
        replica: ReplicaId,
        /// The first rank that is wrong.
        rank: Rank,
    },
    /// The node's cordon was written since.
    #[error("node {node} is at revision {found}, the change was planned against {expected}")]
    Revision {
        /// The node.
        node: NodeId,
        /// What the command said.
        expected: Revision,
        /// What the state has.
        found: Revision,
    },
    /// Nothing new is placed on the node.
    #[error("node {node} is cordoned")]
    Cordoned {
        /// The node.
        node: NodeId,
    },
    /// A coordinator's id that was one's before.
    #[error("coordinator id {id} was used before: ids are never given twice, take another one")]
    MemberIdUsed {
        /// The id.
        id: CoordinatorId,
    },
}
