//! JSON bodies of the admin API (`https://…:8443/v1/*`), as the CLI reads them.
//!
//! Lists: `GET /v1/nodes`, `/v1/members`, `/v1/deployments`. One of them: `GET /v1/nodes/{name}`,
//! `/v1/deployments/{name}`. Writes: `POST /v1/nodes/{name}/cordon|uncordon`, `/v1/deployments/{name}/scale`. Errors are
//! [`ErrorBody`] with a stable `code`, which tells what is certain: that nothing was written, or that nobody knows.

use serde::{Deserialize, Serialize};

use crate::lease::{Inventory, WorkerPhase};
use crate::worker::EngineLoad;
use crate::{ByteBudget, CoordinatorId, Epoch, Generation, NodeId, PictureLimits, Rank, ReplicaId, Revision, Term};

/// Why an admin call failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Stable, for programs: `no_leader`, `no_quorum`, `outcome_unknown`, `unauthorized`, `precondition_failed`,
    /// `not_found`, `bad_request`, `change_in_progress`, `not_caught_up`. All but `outcome_unknown` say that nothing was written.
    pub code: String,
    /// One line, for people.
    pub message: String,
    /// With `precondition_failed`: the generation or revision that the state has in place of the expected one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<u64>,
    /// With `no_leader` and `no_quorum`: what the answering coordinator sees of the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reach: Option<Reach>,
}

/// What one coordinator sees of the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// Who says so.
    pub coordinator: CoordinatorId,
    /// The others that it is connected to.
    pub reached: Vec<CoordinatorId>,
    /// The others that it is not connected to.
    pub unreached: Vec<CoordinatorId>,
    /// The last leader that it knew, where it ever knew one.
    pub led_last: Option<CoordinatorId>,
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

/// One thing, and how fresh it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Single<T> {
    /// `linearizable` or `stale`.
    pub consistency: String,
    /// Index of the last applied log entry.
    pub applied_index: u64,
    /// The thing.
    pub item: T,
}

/// Body of `POST /v1/nodes/{name}/cordon` and `/uncordon`; none at all is the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CordonRequest {
    /// The revision that the node's cordon must have; any where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Revision>,
}

/// A node's cordon, as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CordonWritten {
    /// Which node.
    pub node: NodeId,
    /// Whether nothing new is placed there.
    pub cordoned: bool,
    /// The cordon's new revision.
    pub revision: Revision,
    /// The log entry that wrote it.
    pub log_index: u64,
}

/// Body of `POST /v1/deployments/{name}/scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScaleRequest {
    /// How many replicas there should be.
    pub replicas: u16,
    /// The generation that the deployment must have; any where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_generation: Option<Generation>,
}

/// A deployment's number of replicas, as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleWritten {
    /// Which deployment.
    pub deployment: String,
    /// How many replicas there should be.
    pub replicas: u16,
    /// The deployment's new generation.
    pub generation: Generation,
    /// The log entry that wrote it.
    pub log_index: u64,
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
    /// Whether an admin keeps new ranks off it.
    #[serde(default)]
    pub cordoned: bool,
    /// How often its cordon was written.
    #[serde(default)]
    pub revision: Revision,
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
    /// `leader`, `follower`, `learner`, `candidate`, `unreachable` or `unknown`, as the answering coordinator knows.
    pub role: String,
    /// Whether it votes; one that does not is being added.
    pub votes: bool,
    /// The term it is known in.
    pub term: Term,
    /// Its internal QUIC address.
    pub internal_addr: String,
    /// Its admin address.
    pub admin_addr: String,
    /// Its public address.
    pub public_addr: String,
}

/// A coordinator to be added: `POST /v1/members`. `DELETE /v1/members/{id}` removes one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddMember {
    /// Its id; never one that was used before.
    pub id: CoordinatorId,
    /// Its internal QUIC address, `ip:port` as the others reach it.
    pub internal_addr: String,
    /// Its admin address.
    pub admin_addr: String,
    /// Its public address.
    pub public_addr: String,
}
