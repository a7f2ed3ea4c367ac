//! What can be done to the replicated state. Each command states its precondition; where that fails it is refused.
//!
//! These types stand in the log on disk: variants are added at the end, none is changed or taken away.

use std::fmt;

use protocol::lease::Inventory;
use protocol::plan::RankAddr;
use protocol::{CoordinatorId, DeploymentSpec, Epoch, Generation, NodeId, Plan, ReplicaId, Revision};
use serde::{Deserialize, Serialize};

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// About a node.
    Node(NodeCommand),
    /// About a deployment.
    Deployment(DeploymentCommand),
    /// About a replica.
    Replica(ReplicaCommand),
    /// About a coordinator.
    Member(MemberCommand),
}

/// About a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeCommand {
    /// A node is there: new, started anew, changed or back. Always applies.
    Register {
        /// Which.
        node: NodeId,
        /// Which start of its agent.
        incarnation: u64,
        /// What it has.
        inventory: Inventory,
    },
    /// A node asks to be drained. It must be Up, and of this incarnation.
    Leaving {
        /// Which.
        node: NodeId,
        /// Which start of its agent.
        incarnation: u64,
    },
    /// A node's lease ran out. It must not be down yet, and be of this incarnation.
    Down {
        /// Which.
        node: NodeId,
        /// Which start of its agent.
        incarnation: u64,
        /// One line.
        reason: String,
    },
    /// An admin keeps new ranks off a node, or does so no more. It must be registered, and its cordon of the expected
    /// revision where one is given.
    SetCordon {
        /// Which.
        node: NodeId,
        /// Whether nothing new is placed there.
        is_set: bool,
        /// The revision that this change was planned against.
        expected: Option<Revision>,
    },
}

/// About a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeploymentCommand {
    /// Sets what should run. `expected` must be the present generation (`None`: it must not exist).
    Put {
        /// The generation that this change was planned against.
        expected: Option<Generation>,
        /// What should run; its generation is ignored, the next one is given.
        spec: Box<DeploymentSpec>,
    },
    /// Says why no plan can be made (`None`: one can again). The generation must be the present one.
    Block {
        /// Which deployment.
        name: String,
        /// The generation for which that is so.
        generation: Generation,
        /// One line with the number that does not fit.
        reason: Option<String>,
    },
    /// Says why a configured deployment's model cannot be read (`None`: it can again). Always applies.
    Unreadable {
        /// Which deployment.
        name: String,
        /// One line.
        reason: Option<String>,
    },
    /// Brings a deployment to what a configuration file says, but for what admins changed since that file said the same
    /// ([`super::Deployment::configured`]). `expected` as of `Put`.
    Configure {
        /// The generation that this change was planned against.
        expected: Option<Generation>,
        /// What the file says; its generation is ignored.
        spec: Box<DeploymentSpec>,
    },
    /// Sets the number of replicas. The deployment must exist, and be of the expected generation where one is given.
    Scale {
        /// Which deployment.
        name: String,
        /// How many there should be.
        replicas: u16,
        /// The generation that this change was planned against.
        expected: Option<Generation>,
    },
}

/// About a replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicaCommand {
    /// A new replica without a group. The generation must be the present one, with fewer replicas that run it than wanted.
    Create {
        /// Of which deployment.
        deployment: String,
        /// Of which generation.
        generation: Generation,
    },
    /// Starts the group of the next epoch. The replica must be Waiting, the epoch exactly the next, the plan of the
    /// right size and on nodes that are Up and not cordoned.
    Form {
        /// Which.
        replica: ReplicaId,
        /// The new group's.
        epoch: Epoch,
        /// Which rank holds what, where.
        plan: Plan,
    },
    /// The group is proved: it may be routed to. The replica must be Forming this epoch, the addresses those of its
    /// plan's ranks, in order.
    CommitReady {
        /// Which.
        replica: ReplicaId,
        /// Its group's.
        epoch: Epoch,
        /// Where each rank listens.
        addrs: Vec<RankAddr>,
    },
    /// The group is gone, another may be formed. The replica must be Forming, Ready or Draining in this epoch.
    Lose {
        /// Which.
        replica: ReplicaId,
        /// Its group's.
        epoch: Epoch,
        /// One line.
        reason: String,
    },
    /// The group cannot be, and no other could. The replica must be Forming or Ready in this epoch.
    Fail {
        /// Which.
        replica: ReplicaId,
        /// Its group's.
        epoch: Epoch,
        /// One line.
        reason: String,
    },
    /// No new work for the group. The replica must be Ready in this epoch.
    Drain {
        /// Which.
        replica: ReplicaId,
        /// Its group's.
        epoch: Epoch,
        /// One line.
        reason: String,
    },
    /// The replica is gone for good. Its epoch must be this one.
    Remove {
        /// Which.
        replica: ReplicaId,
        /// Its last group's.
        epoch: Epoch,
    },
}

/// About a coordinator. Who the members are is Raft's own; here is which ids they ever had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberCommand {
    /// The id is about to be given a vote. It must never have had one.
    Admit {
        /// Which.
        id: CoordinatorId,
    },
    /// The id is about to be taken out, or was there from the first. Always applies.
    Retire {
        /// Which.
        id: CoordinatorId,
    },
}

/// One line for a log: what, on which, in which epoch; never a whole plan or specification.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(c) => c.fmt(f),
            Self::Deployment(c) => c.fmt(f),
            Self::Replica(c) => c.fmt(f),
            Self::Member(c) => c.fmt(f),
        }
    }
}

impl fmt::Display for NodeCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register { node, incarnation, .. } => write!(f, "register node {node}, incarnation {incarnation}"),
            Self::Leaving { node, .. } => write!(f, "node {node} is leaving"),
            Self::Down { node, reason, .. } => write!(f, "node {node} is down: {reason}"),
            Self::SetCordon { node, is_set: true, .. } => write!(f, "cordon node {node}"),
            Self::SetCordon { node, is_set: false, .. } => write!(f, "uncordon node {node}"),
        }
    }
}

impl fmt::Display for DeploymentCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { spec, .. } => {
                write!(f, "put deployment {}: {} x tp {} of {}", spec.name, spec.replicas, spec.tp, spec.model.name)
            }
            Self::Block { name, reason: Some(reason), .. } => write!(f, "deployment {name} is blocked: {reason}"),
            Self::Block { name, reason: None, .. } => write!(f, "deployment {name} is no longer blocked"),
            Self::Unreadable { name, reason: Some(reason) } => write!(f, "deployment {name} is unreadable: {reason}"),
            Self::Unreadable { name, reason: None } => write!(f, "deployment {name} is readable again"),
            Self::Configure { spec, .. } => {
                write!(f, "configure deployment {}: {} x tp {}", spec.name, spec.replicas, spec.tp)
            }
            Self::Scale { name, replicas, .. } => write!(f, "scale deployment {name} to {replicas} replicas"),
        }
    }
}

impl fmt::Display for MemberCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admit { id } => write!(f, "admit coordinator {id}"),
            Self::Retire { id } => write!(f, "retire coordinator {id}"),
        }
    }
}

impl fmt::Display for ReplicaCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { deployment, generation } => {
                write!(f, "create a replica of {deployment}, generation {generation}")
            }
            Self::Form { replica, epoch, .. } => write!(f, "form replica {replica}, epoch {epoch}"),
            Self::CommitReady { replica, epoch, .. } => write!(f, "replica {replica} is ready, epoch {epoch}"),
            Self::Lose { replica, epoch, reason } => write!(f, "replica {replica}, epoch {epoch} is lost: {reason}"),
            Self::Fail { replica, epoch, reason } => write!(f, "replica {replica}, epoch {epoch} failed: {reason}"),
            Self::Drain { replica, epoch, reason } => write!(f, "drain replica {replica}, epoch {epoch}: {reason}"),
            Self::Remove { replica, epoch } => write!(f, "remove replica {replica}, epoch {epoch}"),
        }
    }
}

/// What an accepted command did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// All there is to say.
    Done,
    /// The deployment's new generation.
    Generation(Generation),
    /// The new replica.
    Replica(ReplicaId),
    /// The written register's new revision.
    Revision(Revision),
}
