//! What is asked of the planner, and what it assumes where nothing is said.
//!
//! Not here: bytes. Invariant: sizes that come out hold one full context and whole KV blocks.

use protocol::{Dtype, NodeId, WorldSize};

use super::PlanError;
use crate::spec::ModelSpec;

/// Token slots of one KV block.
pub const BLOCK_TOKENS: u32 = 16;
/// The default longest context is the model's own, at most this many tokens: longer ones are asked for.
pub const CONTEXT_TOKENS_DEFAULT_MAX: u32 = 32_768;
/// As [`CONTEXT_TOKENS_DEFAULT_MAX`], for a model that sees: what the phone agent's own servers are started with.
pub const CONTEXT_TOKENS_SEEING_MAX: u32 = 25_480;
/// The default KV cache holds four contexts, at most this many tokens (but one context always).
pub const KV_TOKENS_DEFAULT_MAX: u32 = 65_536;
/// Patches of the largest picture that a plan leaves memory for: 5,000,000 pixels over two frames, which is what the phone
/// agent's own servers allow.
pub const PICTURE_PATCHES_MAX: u32 = 12_768;
/// Contexts that the default KV cache holds.
const KV_CONTEXTS_DEFAULT: u32 = 4;

/// A node that ranks can run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCapacity {
    /// The node.
    pub node: NodeId,
    /// Memory that ranks may take, bytes.
    pub memory_free: u64,
}

/// What a replica should be.
#[derive(Debug, Clone, Copy)]
pub struct PlanRequest<'a> {
    /// Size of the tensor-parallel group.
    pub world_size: WorldSize,
    /// Precision of the weights in memory.
    pub dtype: Dtype,
    /// [`protocol::ModelRecord::stored_f32`].
    pub stored_f32: bool,
    /// KV cache, tokens. `None`: four contexts, at most [`KV_TOKENS_DEFAULT_MAX`], and less where memory is short, but
    /// one context always.
    pub kv_tokens: Option<u32>,
    /// Longest context, tokens. `None`: the model's own, at most [`CONTEXT_TOKENS_DEFAULT_MAX`] ([`CONTEXT_TOKENS_SEEING_MAX`]
    /// where it sees), and at most what the KV cache holds where that was said.
    pub context_tokens: Option<u32>,
    /// Most tokens in one step.
    pub step_tokens: u32,
    /// Most sequences in one step.
    pub max_seqs: u16,
    /// Where ranks may go; several may share a node.
    pub nodes: &'a [NodeCapacity],
}

/// The sizes a request comes down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) context_tokens: u32,
    /// What is wanted, whole blocks.
    pub(super) kv_tokens: u32,
    /// What is still accepted, whole blocks.
    pub(super) kv_tokens_min: u32,
}

impl PlanRequest<'_> {
    pub(super) fn sizes(&self, spec: &ModelSpec) -> Result<Sizes, PlanError> {
        for (what, found) in [("step_tokens", self.step_tokens), ("max_seqs", u32::from(self.max_seqs))] {
            if found == 0 {
                return Err(PlanError::Zero { what });
            }
        }
        let context_tokens = self.context(spec)?;
        let rounded = |tokens: u32| tokens.div_ceil(BLOCK_TOKENS).saturating_mul(BLOCK_TOKENS);
        let least = rounded(context_tokens);
        let Some(asked) = self.kv_tokens else {
            let wanted = context_tokens.saturating_mul(KV_CONTEXTS_DEFAULT).min(KV_TOKENS_DEFAULT_MAX);
            return Ok(Sizes { context_tokens, kv_tokens: rounded(wanted).max(least), kv_tokens_min: least });
        };
        if asked < context_tokens {
            return Err(PlanError::KvBelowContext { kv_tokens: asked, context_tokens });
        }
        Ok(Sizes { context_tokens, kv_tokens: rounded(asked), kv_tokens_min: rounded(asked) })
    }

    fn context(&self, spec: &ModelSpec) -> Result<u32, PlanError> {
        match (self.context_tokens, self.kv_tokens) {
            (Some(0), _) => Err(PlanError::Zero { what: "context_tokens" }),
            (_, Some(0)) => Err(PlanError::Zero { what: "kv_tokens" }),
            (Some(found), _) if found > spec.max_position_embeddings => {
                Err(PlanError::ContextTooLong { context_tokens: found, max: spec.max_position_embeddings })
            }
            (Some(asked), _) => Ok(asked),
            (None, kv) => {
                let most = if spec.vision.is_some() { CONTEXT_TOKENS_SEEING_MAX } else { CONTEXT_TOKENS_DEFAULT_MAX };
                let own = spec.max_position_embeddings.min(most);
                Ok(kv.map_or(own, |kv| own.min(kv)))
            }
        }
    }
}
