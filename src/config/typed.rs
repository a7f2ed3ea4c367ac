//! The settled configuration, typed. Built by [`super::RawConfig::settle`] only; written back as TOML for `up`'s
//! children and for `check`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use protocol::join::JoinToken;
use protocol::{CoordinatorId, Dtype, NodeId, WorldSize};
use serde::{Deserialize, Serialize};

/// Environment variable that stands in for the join token's file.
const JOIN_TOKEN_ENV: &str = "SHARDGLM_JOIN_TOKEN";

/// Everything that `cluster.toml` says, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Config {
    /// The cluster.
    pub(crate) cluster: ClusterConfig,
    /// Its Raft members.
    pub(crate) coordinators: Vec<CoordinatorConfig>,
    /// Raft's timings.
    pub(crate) raft: RaftConfig,
    /// Node leases.
    pub(crate) lease: LeaseConfig,
    /// Limits of the public endpoint.
    pub(crate) gateway: GatewayConfig,
    /// What holds for each node.
    pub(crate) node: NodeConfig,
    /// What should run.
    pub(crate) deployment: DeploymentConfig,
    /// Where things are kept.
    pub(crate) paths: PathsConfig,
}

/// `[cluster]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClusterConfig {
    /// Its name, for people.
    pub(crate) name: String,
}

/// `[[coordinators]]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CoordinatorConfig {
    /// Its Raft id.
    pub(crate) id: CoordinatorId,
    /// QUIC, mutual TLS.
    pub(crate) internal: SocketAddr,
    /// HTTPS, client certificates.
    pub(crate) admin: SocketAddr,
    /// HTTP.
    pub(crate) public: SocketAddr,
}

/// `[raft]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RaftConfig {
    /// Leader's heartbeat, ms.
    pub(crate) heartbeat_ms: u32,
    /// Shortest election timeout, ms.
    pub(crate) election_min_ms: u32,
    /// Longest election timeout, ms.
    pub(crate) election_max_ms: u32,
}

/// `[lease]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaseConfig {
    /// Report interval, ms.
    pub(crate) heartbeat_ms: u32,
    /// Lease, ms.
    pub(crate) lease_ms: u32,
}

/// `[gateway]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GatewayConfig {
    /// Largest body, bytes.
    pub(crate) body_bytes_max: u32,
    /// Most requests in flight.
    pub(crate) requests_max: u32,
    /// KV tokens that may wait for a replica.
    pub(crate) queue_tokens_max: u64,
    /// Memory that waiting requests may hold, bytes.
    pub(crate) queue_bytes_max: u64,
    /// Memory that pictures may hold, bytes.
    pub(crate) picture_bytes_max: u64,
    /// Hosts that pictures are fetched from.
    pub(crate) picture_hosts: Vec<String>,
    /// Longest wait for a replica to be formed, ms.
    pub(crate) replica_wait_ms: u32,
    /// Longest life of a request, ms.
    pub(crate) request_timeout_ms: u32,
    /// What SIGTERM leaves to running requests, ms.
    pub(crate) drain_ms: u32,
    /// Whether `/metrics` is served.
    pub(crate) metrics: Switch,
}

/// `on` or `off`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Switch {
    /// Yes.
    On,
    /// No.
    Off,
}

/// `[node]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeConfig {
    /// Memory for ranks, bytes; 0: by what the host has free.
    pub(crate) memory_bytes: u64,
    /// Where workers listen.
    pub(crate) listen_ip: IpAddr,
    /// Silence after which a worker is taken for dead, ms.
    pub(crate) worker_silence_ms: u64,
    /// How long ranks run on while no coordinator is reached, ms.
    pub(crate) orphan_ms: u32,
}

/// `[deployment]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeploymentConfig {
    /// Its name.
    pub(crate) name: NodeId,
    /// The checkpoint's directory.
    pub(crate) model: PathBuf,
    /// Names for clients; none: the directory's.
    pub(crate) served_names: Vec<String>,
    /// Degree of tensor parallelism.
    pub(crate) tp: WorldSize,
    /// Copies.
    pub(crate) replicas: u16,
    /// Precision of the weights.
    pub(crate) dtype: Dtype,
    /// Compute threads a rank.
    pub(crate) threads_per_worker: u16,
    /// KV cache, tokens; 0: by the model's context.
    kv_tokens: u32,
    /// Longest context, tokens; 0: the model's own.
    context_tokens: u32,
    /// Most sequences that decode together.
    pub(crate) max_seqs: u16,
    /// Most tokens in a step.
    pub(crate) step_tokens: u32,
    /// Most pictures of a prompt.
    pub(crate) pictures_max: u16,
    /// Most pixels of a picture; 0: the model's own.
    picture_pixels_max: u32,
}

/// `[paths]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PathsConfig {
    /// Raft log and snapshots; a node's state.
    pub(crate) state_dir: PathBuf,
    /// Certificate, key and CA.
    pub(crate) identity_dir: PathBuf,
    /// The join token.
    pub(crate) join_token_file: PathBuf,
}

impl DeploymentConfig {
    /// KV cache of a replica, tokens; `None`: by the model's context.
    pub(crate) fn kv_tokens(&self) -> Option<u32> {
        (self.kv_tokens != 0).then_some(self.kv_tokens)
    }

    /// Longest context, tokens; `None`: the model's own.
    pub(crate) fn context_tokens(&self) -> Option<u32> {
        (self.context_tokens != 0).then_some(self.context_tokens)
    }

    /// Most pixels of a picture, over the frames of a patch; `None`: the model's own, within the phone agent's.
    pub(crate) fn picture_pixels_max(&self) -> Option<u32> {
        (self.picture_pixels_max != 0).then_some(self.picture_pixels_max)
    }

    /// Names for clients: as configured, else the checkpoint directory's name.
    pub(crate) fn names(&self) -> Vec<String> {
        if !self.served_names.is_empty() {
            return self.served_names.clone();
        }
        let name = self.model.file_name().map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned());
        vec![name]
    }
}

impl GatewayConfig {
    /// What SIGTERM leaves to running requests.
    pub(crate) fn drain(&self) -> Duration {
        Duration::from_millis(u64::from(self.drain_ms))
    }
}

impl Config {
    /// The member with this id.
    pub(crate) fn coordinator(&self, id: CoordinatorId) -> Option<&CoordinatorConfig> {
        self.coordinators.iter().find(|c| c.id == id)
    }

    /// The join token: from the environment, else from its file; `None` where there is neither.
    ///
    /// # Errors
    /// One line when there is a token that is not one, or a file that cannot be read.
    pub(crate) fn join_token(&self) -> anyhow::Result<Option<JoinToken>> {
        let path = &self.paths.join_token_file;
        let (origin, text) = match std::env::var(JOIN_TOKEN_ENV) {
            Ok(text) => (JOIN_TOKEN_ENV.to_owned(), text),
            Err(_) => match std::fs::read_to_string(path) {
                Ok(text) => (path.display().to_string(), text),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(anyhow::anyhow!("cannot read the join token {}: {e}", path.display())),
            },
        };
        let token = JoinToken::parse(text.trim()).map_err(|e| anyhow::anyhow!("{origin}: {e}"))?;
        Ok(Some(token))
    }

    /// The whole configuration as a file.
    pub(crate) fn to_toml(&self) -> String {
        toml::to_string(self).expect("every field is a TOML value")
    }
}
