//! JSON bodies of the admin API (`https://…:8443/v1/*`), as the CLI reads them.
//!
//! `GET /v1/nodes`, `/v1/members`, `/v1/deployments`; errors are [`ErrorBody`] with a stable `code`.

use serde::{Deserialize, Serialize};

use crate::lease::{Inventory, WorkerPhase};
use crate::worker::EngineLoad;
use crate::{ByteBudget, CoordinatorId, Epoch, Generation, NodeId, PictureLimits, Rank, ReplicaId, Term};

/// Why an admin call failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Stable, for programs: `not_leader`, `no_quorum`, `unauthorized`, `precondition_failed`, `not_found`, `bad_request`.
    pub code: String,
    /// One line, for people.
    pub message: String,
}

/// A list, and how fresh it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Listing<T> {
    /// `linearizable` or `stale`.
    pub consistency: String,
    /// Index of the last applied log entry.
    pub applied_index: u64,
    /// The entries.
    pub items: Vec<T>,
}

/// A node's standing with the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeHealth {
    /// Its lease runs.
    Up,
    /// Its lease ran out.
    Down,
}

/// One node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name.
    pub node: NodeId,
    /// Its standing.
    pub health: NodeHealth,
    /// What it has.
    pub inventory: Inventory,
    /// Ranks it is planned to run.
    pub ranks: Vec<RankInfo>,
}

/// One rank of a replica.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RankInfo {
    /// Its replica.
    pub replica: ReplicaId,
    /// The epoch of its group.
    pub epoch: Epoch,
    /// Its rank.
    pub rank: Rank,
    /// The node that it is planned on.
    pub node: NodeId,
    /// What it will hold, bytes.
    pub budget: ByteBudget,
    /// Bytes read from the checkpoint, once loaded.
    pub bytes_read: Option<u64>,
    /// How far it is, where the leader has heard.
    pub phase: Option<WorkerPhase>,
}

/// A replica's life, as the state machine has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaPhase {
    /// Its group is being formed.
    Forming,
    /// Its epoch is committed: it may be routed to.
    Ready,
    /// It is being taken away.
    Draining,
    /// It cannot be formed; see the reason.
    Failed,
}

/// One replica.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReplicaInfo {
    /// Its id.
    pub replica: ReplicaId,
    /// Its group's epoch.
    pub epoch: Epoch,
    /// How far it is.
    pub phase: ReplicaPhase,
    /// Why it is not ready, where that is known.
    pub reason: Option<String>,
    /// Its ranks.
    pub ranks: Vec<RankInfo>,
    /// Rank 0's load, where the leader has heard.
    pub load: Option<EngineLoad>,
}

/// One deployment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeploymentInfo {
    /// Its name.
    pub name: String,
    /// Version of its desired state.
    pub generation: Generation,
    /// `model@version`, the version being the manifest's digest cut to 12 digits.
    pub model: String,
    /// Names that clients may use.
    pub served_names: Vec<String>,
    /// Degree of tensor parallelism.
    pub tp: u16,
    /// Replicas wanted.
    pub replicas_wanted: u16,
    /// Precision of the weights.
    pub dtype: String,
    /// Longest context admitted, tokens; known once planned.
    pub context_tokens: Option<u32>,
    /// Tokens of KV cache a replica; known once planned.
    pub kv_tokens: Option<u32>,
    /// What pictures are taken; absent where the model reads text alone.
    #[serde(default)]
    pub pictures: Option<PictureLimits>,
    /// Why nothing could be planned, where that is so.
    pub blocked: Option<String>,
    /// Its replicas.
    pub replicas: Vec<ReplicaInfo>,
}

/// One coordinator.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Its id.
    pub id: CoordinatorId,
    /// `leader`, `follower`, `candidate`, `unreachable` or `unknown`, as the answering coordinator knows.
    pub role: String,
    /// The term it is known in.
    pub term: Term,
    /// Its internal QUIC address.
    pub internal_addr: String,
    /// Its admin address.
    pub admin_addr: String,
    /// Its public address.
    pub public_addr: String,
}
