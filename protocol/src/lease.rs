//! What a node and the leading coordinator say to each other on the lease stream.
//!
//! ```text
//!  node                                   leader
//!   │ ── NodeReport (at once) ────────────▶ │   registers it, or renews its lease
//!   │ ◀── NodeOrders ────────────────────── │   the whole desired state of this node, level-triggered
//!   │ ── NodeReport (on any change,         │
//!   │     and every heartbeat) ───────────▶ │   each is answered by NodeOrders: that is the lease
//!   │ ◀── NodeOrders (on any change) ────── │
//! ```
//! A follower answers the first report with `Refusal { NotLeader }`, whose detail is a [`LeaderNamed`] where it knows who leads. Orders are idempotent by `(replica, epoch)`; a
//! node refuses a lower term, and stops a rank whose replica is absent or has a higher epoch in the orders.
#![expect(missing_docs, reason = "rkyv's derive repeats the fields of enum variants without their docs")]

use std::fmt;
use std::net::SocketAddr;

use rkyv::{Archive, Deserialize, Serialize};

use crate::frame::message;
use crate::plan::RankAddr;
use crate::stats::EngineStats;
use crate::worker::{EngineLoad, Proof};
use crate::{DeploymentSpec, Epoch, NodeId, Plan, Rank, ReplicaId, Term};

/// Most ranks that one node runs.
pub const RANKS_PER_NODE_MAX: usize = 64;
/// Most coordinators that a node is told of.
pub const COORDINATORS_MAX: usize = 16;

/// What a node has.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
pub struct Inventory {
    /// Logical processors.
    pub cores: u16,
    /// Memory that ranks may use in all, bytes.
    pub memory_bytes: u64,
    /// Version of the binary.
    pub version: String,
}

/// How far a worker is.
///
/// ```text
///  Starting ─▶ Loading ─▶ Loaded ─▶ Connected ─▶ Serving ─▶ Draining
///      └──────────┴──────────┴──────────┴───────────┴──▶ Failed
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
pub enum WorkerPhase {
    /// The process is coming up.
    Starting,
    /// It reads its shard.
    Loading {
        /// Bytes read so far.
        bytes_read: u64,
        /// Bytes that it will read.
        bytes_total: u64,
    },
    /// It holds its shard and listens.
    Loaded {
        /// Where.
        addr: RankAddr,
        /// Bytes read from the checkpoint.
        bytes_read: u64,
    },
    /// It has proved that it reaches every other rank of its group.
    Connected,
    /// It takes steps.
    Serving,
    /// It finishes what runs.
    Draining,
    /// It ended, or cannot go on.
    Failed {
        /// One line: what failed, on what, with which values.
        reason: String,
        /// Whether another attempt could go otherwise. A bad checkpoint stays bad.
        retryable: bool,
    },
}

/// One worker, as its agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
pub struct WorkerStatus {
    /// Its replica.
    pub replica: ReplicaId,
    /// Its replica's epoch.
    pub epoch: Epoch,
    /// Its rank.
    pub rank: Rank,
    /// Its process id.
    pub pid: u32,
    /// How far it is.
    pub phase: WorkerPhase,
    /// Bytes it has read from the checkpoint.
    pub bytes_read: u64,
    /// Rank 0's engine, once it serves.
    pub load: Option<EngineLoad>,
    /// What that engine has done since it started.
    pub stats: Option<Box<EngineStats>>,
    /// When all ranks of its group last answered; of rank 0, once they have.
    pub proof: Option<Proof>,
}

/// A node's whole observed state.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct NodeReport {
    /// Who reports; must be the name in its certificate.
    pub node: NodeId,
    /// Set anew at each start of the agent: tells a restart from a reconnection.
    pub incarnation: u64,
    /// What it has.
    pub inventory: Inventory,
    /// Its workers.
    pub workers: Vec<WorkerStatus>,
    /// Whether it asks to be drained (it is shutting down).
    pub leaving: bool,
}
message!(NodeReport, NodeReport, |r| {
    if r.workers.len() > RANKS_PER_NODE_MAX {
        return Err(format!("{} workers on one node, at most {RANKS_PER_NODE_MAX}", r.workers.len()));
    }
    r.node.validate().map_err(|e| e.to_string())
});

/// How far a rank should be.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum RankGoal {
    /// Load the shard and listen.
    Load,
    /// Prove that every peer is reachable.
    Connect {
        /// Every rank of the group, in rank order.
        peers: Vec<RankAddr>,
    },
    /// Take steps: the epoch is committed.
    Serve,
    /// Finish what runs and admit nothing.
    Drain,
}

/// One rank that a node should run.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct RankOrder {
    /// Its replica.
    pub replica: ReplicaId,
    /// The epoch of the replica's group.
    pub epoch: Epoch,
    /// Its rank.
    pub rank: Rank,
    /// Model, precision, threads, limits.
    pub deployment: DeploymentSpec,
    /// The whole group's plan.
    pub plan: Plan,
    /// How far it should be.
    pub goal: RankGoal,
}

/// A node's whole desired state. What is not in it is to be stopped.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct NodeOrders {
    /// Term of the leader that speaks.
    pub term: Term,
    /// How long the node may act on these orders without hearing again, ms.
    pub lease_ms: u32,
    /// How often the node should report when nothing changes, ms.
    pub heartbeat_ms: u32,
    /// The ranks it should run.
    pub ranks: Vec<RankOrder>,
    /// Where the coordinators are now, `ip:port`: the node keeps them, and finds the cluster when every one that it was
    /// configured with is gone.
    pub coordinators: Vec<String>,
}
message!(NodeOrders, NodeOrders, |o| {
    if o.coordinators.len() > COORDINATORS_MAX {
        return Err(format!("{} coordinators, at most {COORDINATORS_MAX}", o.coordinators.len()));
    }
    if let Some(wrong) = o.coordinators.iter().find(|addr| addr.parse::<SocketAddr>().is_err()) {
        let wrong: String = wrong.chars().take(80).collect();
        return Err(format!("a coordinator at `{wrong}`, expected ip:port"));
    }
    if o.ranks.len() > RANKS_PER_NODE_MAX {
        return Err(format!("{} ranks ordered of one node, at most {RANKS_PER_NODE_MAX}", o.ranks.len()));
    }
    o.ranks.iter().try_for_each(|r| r.plan.validate())
});

/// Whom a coordinator that does not lead names instead. It stands as words in the refusal's detail, so that versions which know
/// less of it, or more, read the same frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderNamed {
    /// Where the leader listens for nodes and coordinators.
    pub addr: SocketAddr,
    /// In which term it leads; an earlier version does not say.
    pub term: Option<Term>,
}

impl fmt::Display for LeaderNamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.addr)?;
        self.term.map_or(Ok(()), |term| write!(f, ", term {}", term.0))
    }
}

impl LeaderNamed {
    /// The leader that `detail` names: the first address in it, and the number that follows the word `term`.
    #[must_use]
    pub fn find(detail: &str) -> Option<Self> {
        let words = || detail.split([' ', ',', '=', '`', '(', ')']).filter(|word| !word.is_empty());
        let addr = words().find_map(|word| word.parse().ok())?;
        let term = words().skip_while(|word| *word != "term").nth(1).and_then(|n| n.parse().ok()).map(Term);
        Some(Self { addr, term })
    }
}

/// Most replicas whose fences a node remembers.
pub const FENCES_MAX: usize = 4096;

/// Where the ranks of one group listen, as they were told to connect.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct GroupAddrs {
    /// The replica.
    pub replica: ReplicaId,
    /// The epoch of its group.
    pub epoch: Epoch,
    /// Every rank of it, in rank order.
    pub ranks: Vec<RankAddr>,
}

/// What a node keeps on its disk of its last orders, so that it can go on with them while nobody leads.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct StoredOrders {
    /// Whose they are.
    pub node: NodeId,
    /// Them.
    pub orders: NodeOrders,
    /// Where the groups listen that have connected.
    pub groups: Vec<GroupAddrs>,
    /// The highest epoch that was ordered of each replica.
    pub fences: Vec<(ReplicaId, Epoch)>,
}
message!(StoredOrders, StoredOrders, |s| {
    if s.groups.len() > RANKS_PER_NODE_MAX || s.fences.len() > FENCES_MAX {
        return Err(format!("{} groups and {} fences on one node", s.groups.len(), s.fences.len()));
    }
    s.node.validate().map_err(|e| e.to_string())?;
    crate::frame::Message::validate(&s.orders)
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_named_in_words_that_every_version_reads() {
        let addr = ([127, 0, 0, 1], 9).into();
        let named = |term| Some(LeaderNamed { addr, term });
        let golden = "127.0.0.1:9, term 4";
        assert_eq!(LeaderNamed { addr, term: Some(Term(4)) }.to_string(), golden);
        assert_eq!(LeaderNamed::find(golden), named(Some(Term(4))));
        assert_eq!(LeaderNamed::find("127.0.0.1:9"), named(None), "an earlier version");
        assert_eq!(LeaderNamed::find("the leader is at 127.0.0.1:9, term 4, and more"), named(Some(Term(4))));
        assert_eq!(LeaderNamed::find("leader_addr=127.0.0.1:9, term none"), named(None));
        assert_eq!(LeaderNamed::find("no leader is known in term 4"), None);
    }
}
