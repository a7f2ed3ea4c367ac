//! What ranks of one group say to each other.

use rkyv::{Archive, Deserialize, Serialize};

use crate::frame::message;
use crate::{Rank, ReplicaId, SeqId, WorldSize};

/// Most sequences in a step.
pub const STEP_SEQS_MAX: usize = 4096;
/// Most tokens in a step.
pub const STEP_TOKENS_MAX: usize = 1 << 17;

/// First frame on each stream between two ranks. Its header carries the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct GroupHello {
    /// The replica.
    pub replica: ReplicaId,
    /// Who speaks.
    pub rank: Rank,
    /// How large it thinks the group is.
    pub world_size: WorldSize,
    /// Digest of the model version it has loaded: ranks of two versions never form a group.
    pub model_digest: String,
}
message!(GroupHello, GroupHello, |h| WorldSize::new(h.world_size.get()).map(drop).map_err(|e| e.to_string()));

/// One sequence's part of a step: `tokens` enter at positions `start..`.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct StepSeq {
    /// The sequence.
    pub seq: SeqId,
    /// Position of the first token in the sequence; all before it are in the KV cache.
    pub start: u32,
    /// The tokens to run; at least one.
    pub tokens: Vec<u32>,
    /// KV blocks of the sequence from position 0, enough for `start + tokens.len()`.
    pub blocks: Vec<u32>,
    /// Whether the last token's logits are wanted (the sequence samples in this step).
    pub wants_logits: bool,
}

/// Rank 0 to every other rank: one forward pass.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct StepPlan {
    /// Counts from 1 within an epoch.
    pub step: u64,
    /// The batch, in the order in which its rows stand.
    pub seqs: Vec<StepSeq>,
}
message!(StepPlan, StepPlan, |p| {
    if p.seqs.len() > STEP_SEQS_MAX {
        return Err(format!("{} sequences in a step, at most {STEP_SEQS_MAX}", p.seqs.len()));
    }
    let tokens = p.num_tokens();
    if tokens > STEP_TOKENS_MAX {
        return Err(format!("{tokens} tokens in a step, at most {STEP_TOKENS_MAX}"));
    }
    match p.seqs.iter().find(|s| s.tokens.is_empty()) {
        Some(s) => Err(format!("sequence {} brings no token", s.seq)),
        None => Ok(()),
    }
});

impl StepPlan {
    /// Rows of the step.
    #[must_use]
    pub fn num_tokens(&self) -> usize {
        self.seqs.iter().map(|s| s.tokens.len()).sum()
    }
}
