//! What an agent and the worker processes it starts say to each other, over the worker's stdin and stdout.
//!
//! A worker whose stdin ends stops by itself: it never outlives its agent. Frames as on QUIC.
#![expect(missing_docs, reason = "rkyv's derive repeats the fields of enum variants without their docs")]

use rkyv::{Archive, Deserialize, Serialize};

use crate::frame::message;
use crate::lease::WorkerPhase;
use crate::plan::RankAddr;
use crate::stats::EngineStats;
use crate::{DeploymentSpec, Epoch, NodeId, Plan, Rank, ReplicaId};

/// Everything that a worker needs to load its shard and listen; the first message it gets.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct WorkerSpec {
    /// The node it runs on; the name it speaks under.
    pub node: NodeId,
    /// Its replica.
    pub replica: ReplicaId,
    /// Its replica's epoch.
    pub epoch: Epoch,
    /// Its rank.
    pub rank: Rank,
    /// Model, precision, threads, limits.
    pub deployment: DeploymentSpec,
    /// The whole group's plan.
    pub plan: Plan,
    /// IP address on which it listens; the port is the system's choice, unless `addr` says it.
    pub listen_ip: String,
    /// Where this rank of this epoch listened before: the others and the gateways know no other address, so it listens
    /// there again or fails. `None` for the first process of an epoch.
    pub addr: Option<RankAddr>,
    /// Directory with the node's certificate, key and the cluster CA.
    pub identity_dir: String,
}

/// Agent to worker.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum ToWorker {
    /// Load the shard and listen.
    Start(Box<WorkerSpec>),
    /// Connect to every other rank and prove it.
    Connect {
        /// Every rank of the group, in rank order.
        peers: Vec<RankAddr>,
    },
    /// The epoch is committed: take steps.
    Serve,
    /// Finish what runs, admit nothing, then exit.
    Drain {
        /// How long that may take, ms.
        deadline_ms: u32,
    },
}
message!(ToWorker, ToWorker);

/// Load of a rank-0 worker, for status and routing.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize,
)]
pub struct EngineLoad {
    /// Sequences in the running batch.
    pub running: u32,
    /// Sequences that wait.
    pub waiting: u32,
    /// KV blocks in use.
    pub kv_blocks_used: u32,
    /// KV blocks in all.
    pub kv_blocks_total: u32,
    /// Steps taken.
    pub steps: u64,
}

/// That all ranks of a group have answered in a step: a user's, or a canary of rank 0's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
pub struct Proof {
    /// How long ago, ms, when this was sent.
    pub age_ms: u32,
    /// Up to which age it is good, ms.
    pub good_ms: u32,
}

impl Proof {
    /// As it is `later_ms` after it was sent.
    #[must_use]
    pub fn aged(self, later_ms: u32) -> Self {
        Self { age_ms: self.age_ms.saturating_add(later_ms), ..self }
    }

    /// Whether it is still good.
    #[must_use]
    pub fn is_good(self) -> bool {
        self.age_ms <= self.good_ms
    }
}

/// Worker to agent.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum FromWorker {
    /// Its phase changed, or its loading went on.
    Phase(WorkerPhase),
    /// It is alive; sent several times a second by a thread that sees the step loop's progress.
    Alive {
        /// Its engine's load.
        load: EngineLoad,
        /// What its engine has done since it started; rank 0 only.
        stats: Option<Box<EngineStats>>,
        /// When all ranks of its group last answered; rank 0 only, and only once they have.
        proof: Option<Proof>,
    },
}
message!(FromWorker, FromWorker);
