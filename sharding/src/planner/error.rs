//! Why there is no plan. Every message is one line with the number that does not fit.

use protocol::{NodeId, Rank};

use super::request::KV_TOKENS_DEFAULT_MAX;

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Nowhere to go.
    #[error("no node to place {ranks} ranks on")]
    NoNodes {
        /// How many ranks there are.
        ranks: usize,
    },
    /// A size that must be at least 1.
    #[error("{what}: expected at least 1, found 0")]
    Zero {
        /// Which.
        what: &'static str,
    },
    /// A context that the model was not made for.
    #[error("context_tokens: expected at most the model's {max}, found {context_tokens}")]
    ContextTooLong {
        /// What was asked for.
        context_tokens: u32,
        /// The model's own.
        max: u32,
    },
    /// A KV cache that does not hold one context.
    #[error("kv_tokens: expected at least context_tokens {context_tokens}, found {kv_tokens}")]
    KvBelowContext {
        /// What was asked for.
        kv_tokens: u32,
        /// One context.
        context_tokens: u32,
    },
    /// Memory is short: the roomiest node cannot take this rank.
    #[error(
        "rank {rank} does not fit on node {node}: needs {needed} bytes there with a KV cache of {kv_bytes} bytes, \
         found {available} bytes free; use more nodes, a higher tp, fewer kv_tokens (default up to \
         {KV_TOKENS_DEFAULT_MAX}) or a shorter context"
    )]
    DoesNotFit {
        /// The first rank without a place.
        rank: Rank,
        /// The node with most room left.
        node: NodeId,
        /// What that node's ranks would take with this one, bytes.
        needed: u64,
        /// KV cache of this rank within that, bytes.
        kv_bytes: u64,
        /// What the node has, bytes.
        available: u64,
    },
}
