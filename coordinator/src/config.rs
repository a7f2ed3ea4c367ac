//! What a coordinator is told at start: already checked values, no file format.
//!
//! Not here: reading `cluster.toml` (the binary).

use std::net::SocketAddr;
use std::path::PathBuf;

use protocol::join::JoinToken;
use protocol::{CoordinatorId, Dtype, WorldSize};

/// Everything that one coordinator needs to start.
#[derive(Debug, Clone)]
pub struct CoordinatorConfig {
    /// Its id; one of `members`.
    pub id: CoordinatorId,
    /// Where log, vote and snapshots are kept; made when it is missing.
    pub state_dir: PathBuf,
    /// `ca.pem`, `cert.pem`, `key.pem`, and `ca.key.pem` for signing joins.
    pub identity_dir: PathBuf,
    /// Where coordinators and nodes reach it, QUIC.
    pub internal_listen: SocketAddr,
    /// Where admins and joining hosts reach it, HTTPS.
    pub admin_listen: SocketAddr,
    /// Where clients reach it, HTTP.
    pub public_listen: SocketAddr,
    /// Every coordinator of the cluster, this one among them.
    pub members: Vec<MemberAddrs>,
    /// The deployment that the leader brings the replicated state to; `None` leaves it as it is.
    pub deployment: Option<DeploymentSeed>,
    /// What a host must show to join; `None` refuses every join.
    pub join_token: Option<JoinToken>,
    /// Raft's clock.
    pub raft: RaftTimings,
    /// The leases' clock.
    pub lease: LeaseTimings,
    /// Bounds of the gateway.
    pub gateway: GatewayLimits,
    /// Hosts that the gateway fetches pictures from; none: not any.
    pub picture_hosts: Vec<String>,
    /// Whether the public listener serves `/metrics`.
    pub serve_metrics: bool,
}

/// Where one coordinator is reached by the others, by admins and by clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberAddrs {
    /// Whose addresses these are.
    pub id: CoordinatorId,
    /// QUIC, for coordinators and nodes.
    pub internal: SocketAddr,
    /// HTTPS, for admins.
    pub admin: SocketAddr,
    /// HTTP, for clients.
    pub public: SocketAddr,
}

/// A deployment as configured; the leader completes it with what it reads of the model and proposes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentSeed {
    /// Its name.
    pub name: String,
    /// The checkpoint's directory, the same path on every host.
    pub model_dir: PathBuf,
    /// Names that clients may use; the first is its own.
    pub served_names: Vec<String>,
    /// Degree of tensor parallelism.
    pub tp: WorldSize,
    /// How many replicas.
    pub replicas: u16,
    /// Precision of the weights.
    pub dtype: Dtype,
    /// Compute threads of each worker.
    pub threads_per_worker: u16,
    /// KV cache of each replica, tokens; `None`: the planner's default.
    pub kv_tokens: Option<u32>,
    /// Longest context, tokens; `None`: the model's own.
    pub context_tokens: Option<u32>,
    /// Most sequences that decode together.
    pub max_seqs: u16,
    /// Most tokens in one step.
    pub step_tokens: u32,
    /// Most pictures of one prompt, where the model sees.
    pub pictures_max: u16,
    /// Most pixels of one picture, counted over the frames of a patch; `None`: the model's own limit, at most the phone
    /// agent's.
    pub picture_pixels_max: Option<u32>,
}

/// Raft's clock, ms. A heartbeat must be well under the shortest election timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftTimings {
    /// How often the leader shows that it lives.
    pub heartbeat_ms: u32,
    /// Shortest silence after which a follower stands for election.
    pub election_min_ms: u32,
    /// Longest such silence.
    pub election_max_ms: u32,
}

impl Default for RaftTimings {
    fn default() -> Self {
        Self { heartbeat_ms: 150, election_min_ms: 500, election_max_ms: 1000 }
    }
}

/// The leases' clock, ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTimings {
    /// How often a node reports when nothing changes.
    pub heartbeat_ms: u32,
    /// Silence after which a node counts as down, and after which it stops acting on old orders.
    pub lease_ms: u32,
}

impl Default for LeaseTimings {
    fn default() -> Self {
        Self { heartbeat_ms: 500, lease_ms: 2500 }
    }
}

/// Bounds on what one gateway takes from clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatewayLimits {
    /// Largest request body, bytes.
    pub body_bytes_max: usize,
    /// Most requests from their first byte to their last; one more is refused with 429.
    pub requests_max: usize,
    /// Most KV tokens (prompts, and answers as long as they are expected to be) that wait for a replica; more are refused
    /// with 429.
    pub queue_tokens_max: u64,
    /// Most memory that requests hold which wait for a replica, bytes; more are refused with 429.
    pub queue_bytes_max: u64,
    /// Most memory that the pictures of all requests hold, bytes; more are refused with 429.
    pub picture_bytes_max: u64,
    /// Longest that a request waits while no replica stands and one is being formed, ms; 0: it is refused at once with 503.
    pub replica_wait_ms: u32,
    /// Longest that one generation may take from admission to its last token, ms.
    pub request_timeout_ms: u32,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            body_bytes_max: 32 << 20,
            requests_max: 512,
            queue_tokens_max: 1 << 18,
            queue_bytes_max: 256 << 20,
            picture_bytes_max: 1 << 30,
            replica_wait_ms: 10_000,
            request_timeout_ms: 600_000,
        }
    }
}
