//! Which rank holds which slice of the model on which node, and how many bytes that is.
//!
//! Not here: how a plan is made (`sharding::planner`) or what the slices of one tensor are (`sharding::partition`).

use std::net::SocketAddr;

use rkyv::{Archive, Deserialize, Serialize};

use crate::{AtomRun, NodeId, Rank, WorldSize};

/// A half-open range `start..end` of heads, columns or rows.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Default,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Span {
    /// First.
    pub start: u32,
    /// One past the last.
    pub end: u32,
}

impl Span {
    /// How many.
    #[must_use]
    pub fn len(self) -> u32 {
        self.end.saturating_sub(self.start)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// As a range of indices.
    #[must_use]
    pub fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

impl From<std::ops::Range<u32>> for Span {
    fn from(r: std::ops::Range<u32>) -> Self {
        Self { start: r.start, end: r.end }
    }
}

/// What one rank owns of every layer. All spans count from the whole model's start.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
pub struct RankCut {
    /// Atoms of the attention output product (units: query heads).
    pub head_atoms: AtomRun,
    /// Query heads.
    pub heads: Span,
    /// KV heads that those query heads read; shared with other ranks where `tp > num_kv_heads`.
    pub kv_heads: Span,
    /// Atoms of the MLP's down product (units: 32-column blocks).
    pub mlp_atoms: AtomRun,
    /// Columns of the MLP (rows of gate and of up, columns of down).
    pub mlp_cols: Span,
    /// Rows of the embedding and of the LM head.
    pub vocab_rows: Span,
}

/// Bytes that one rank will hold.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize,
)]
pub struct ByteBudget {
    /// Weights, bytes.
    pub weights: u64,
    /// KV cache, bytes.
    pub kv_cache: u64,
    /// Activations of the largest step and runtime overhead, bytes.
    pub activations: u64,
}

impl ByteBudget {
    /// All of it, bytes.
    #[must_use]
    pub fn total(self) -> u64 {
        self.weights.saturating_add(self.kv_cache).saturating_add(self.activations)
    }
}

/// One rank of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
pub struct RankPlan {
    /// Its rank.
    pub rank: Rank,
    /// The node that runs it.
    pub node: NodeId,
    /// What it owns.
    pub cut: RankCut,
    /// What it will hold.
    pub budget: ByteBudget,
}

/// The plan of one replica, in rank order.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
pub struct Plan {
    /// Size of the tensor-parallel group.
    pub world_size: WorldSize,
    /// Tokens of KV cache that every rank has room for.
    pub kv_tokens: u32,
    /// Longest context that is admitted, tokens.
    pub context_tokens: u32,
    /// One entry a rank, in rank order.
    pub ranks: Vec<RankPlan>,
}

impl Plan {
    /// Bounds that an archive's check cannot know.
    ///
    /// # Errors
    /// What is wrong.
    pub fn validate(&self) -> Result<(), String> {
        WorldSize::new(self.world_size.get()).map_err(|e| e.to_string())?;
        if self.ranks.len() != usize::from(self.world_size.get()) {
            return Err(format!("{} ranks in a plan of world size {}", self.ranks.len(), self.world_size));
        }
        for (i, r) in self.ranks.iter().enumerate() {
            if r.rank.index() != i {
                return Err(format!("rank {} stands at place {i}", r.rank));
            }
            r.node.validate().map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// Each rank's run of a tree, for [`crate::ReductionTree::new`].
    #[must_use]
    pub fn head_runs(&self) -> Vec<AtomRun> {
        self.ranks.iter().map(|r| r.cut.head_atoms).collect()
    }

    /// As [`Self::head_runs`], of the MLP.
    #[must_use]
    pub fn mlp_runs(&self) -> Vec<AtomRun> {
        self.ranks.iter().map(|r| r.cut.mlp_atoms).collect()
    }
}

/// Where a rank's worker listens.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
pub struct RankAddr {
    /// The rank.
    pub rank: Rank,
    /// The node that runs it; the name in its certificate.
    pub node: NodeId,
    /// As text: an address is not an rkyv type.
    group: String,
    serve: String,
}

impl RankAddr {
    /// A rank's two QUIC listeners: `group` for the other ranks, `serve` for gateways.
    #[must_use]
    pub fn new(rank: Rank, node: NodeId, group: SocketAddr, serve: SocketAddr) -> Self {
        Self { rank, node, group: group.to_string(), serve: serve.to_string() }
    }

    /// Where the other ranks reach it.
    ///
    /// # Errors
    /// The text that is not an address.
    pub fn group(&self) -> Result<SocketAddr, String> {
        parse_addr(&self.group)
    }

    /// Where gateways reach it.
    ///
    /// # Errors
    /// The text that is not an address.
    pub fn serve(&self) -> Result<SocketAddr, String> {
        parse_addr(&self.serve)
    }
}

fn parse_addr(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{}` is not an ip:port", text.chars().take(80).collect::<String>()))
}
