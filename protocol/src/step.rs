//! What ranks of one group say to each other.

#![expect(missing_docs, reason = "rkyv's derive repeats the fields of enum variants without their docs")]

use rkyv::{Archive, Deserialize, Serialize};

use crate::frame::message;
use crate::picture::{PictureWork, SeqPicture, validate_places};
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
    /// The pictures of its prompt, as they stand in it: they decide positions also after them.
    pub pictures: Vec<SeqPicture>,
    /// Which logits rank 0 wants of it.
    pub logits: LogitsWanted,
}

/// Which rows of logits a sequence of a step wants, and how much of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum LogitsWanted {
    /// None: a chunk of a prompt.
    None,
    /// Of the last token's row, the `k` best of each rank's part of the vocabulary: enough for whoever samples from the
    /// best few, and much less to send than the row.
    Best {
        /// How many, 1..=[`BEST_MAX`].
        k: u16,
    },
    /// The last token's whole row.
    Last,
    /// The whole row of every token.
    All,
}

/// Most candidates that [`LogitsWanted::Best`] asks of each rank.
pub const BEST_MAX: u16 = 1024;

impl LogitsWanted {
    /// Rows of logits that `tokens` tokens of a sequence give.
    #[must_use]
    pub fn rows(self, tokens: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Best { .. } | Self::Last => 1,
            Self::All => tokens,
        }
    }
}

/// A KV block whose content is copied to another before the step computes: two sequences shared it, and one of them is
/// about to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct BlockCopy {
    /// The block that stays shared.
    pub from: u32,
    /// The block that the writer has for itself.
    pub to: u32,
}

/// Rank 0 to every other rank: one forward pass.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct StepPlan {
    /// Counts from 1 within an epoch.
    pub step: u64,
    /// How long it may take from here on, ms: whoever still waits for another rank then takes it for dead.
    pub within_ms: u32,
    /// Copies to make first; no block is the target of two, none is both source and target.
    pub copies: Vec<BlockCopy>,
    /// What is done for pictures first.
    pub pictures: PictureWork,
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
    if p.copies.len() > STEP_SEQS_MAX {
        return Err(format!("{} block copies in a step, at most {STEP_SEQS_MAX}", p.copies.len()));
    }
    p.pictures.validate()?;
    for s in &p.seqs {
        validate_places(s.pictures.iter().map(|p| p.place))?;
        if s.tokens.is_empty() {
            return Err(format!("sequence {} brings no token", s.seq));
        }
        if let LogitsWanted::Best { k } = s.logits
            && !(1..=BEST_MAX).contains(&k)
        {
            return Err(format!("sequence {} wants the {k} best logits, expected 1..={BEST_MAX}", s.seq));
        }
    }
    Ok(())
});

impl StepPlan {
    /// The plan by which rank 0 ends the group; nothing follows it.
    #[must_use]
    pub fn last(step: u64) -> Self {
        Self { step, within_ms: 0, copies: Vec::new(), pictures: PictureWork::default(), seqs: Vec::new() }
    }

    /// Whether there is nothing in it: rank 0 ends the group.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.seqs.is_empty() && self.pictures.is_empty()
    }

    /// Rows of the step.
    #[must_use]
    pub fn num_tokens(&self) -> usize {
        self.seqs.iter().map(|s| s.tokens.len()).sum()
    }
}

/// Bytes of a [`PieceHead`].
pub const PIECE_HEAD_BYTES: usize = 16;
/// Most f32 values in one piece of a collective (256 KiB): small enough that both directions of a pair interleave.
pub const PIECE_VALUES_MAX: u32 = 64 << 10;

/// Opens the body of a [`crate::Kind::Collective`] frame: which values of which operation follow. Ranks that disagree on
/// what they are doing find out by it, rather than add the wrong numbers.
///
/// ```text
///  0       8      12      16
///  ┌───────┬──────┬───────┬──────────────────┐
///  │ op    │ at   │ total │ values           │  little endian
///  │ u64   │ u32  │ u32   │ n × f32          │
///  └───────┴──────┴───────┴──────────────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceHead {
    /// Which collective of the epoch, from 0 (the barrier that forms the group).
    pub op: u64,
    /// Index of the first value of this piece in its rank's whole contribution.
    pub at: u32,
    /// Values in the whole contribution.
    pub total: u32,
}

impl PieceHead {
    /// Its bytes.
    #[must_use]
    pub fn encode(self) -> [u8; PIECE_HEAD_BYTES] {
        let mut out = [0; PIECE_HEAD_BYTES];
        out[0..8].copy_from_slice(&self.op.to_le_bytes());
        out[8..12].copy_from_slice(&self.at.to_le_bytes());
        out[12..16].copy_from_slice(&self.total.to_le_bytes());
        out
    }

    /// Reads it back; any bytes are one, and the reader compares it with what it expects.
    #[must_use]
    pub fn decode(bytes: &[u8; PIECE_HEAD_BYTES]) -> Self {
        let u32_at = |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        Self { op: u64::from(u32_at(0)) | u64::from(u32_at(4)) << 32, at: u32_at(8), total: u32_at(12) }
    }
}

impl std::fmt::Display for PieceHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "operation {} value {} of {}", self.op, self.at, self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_a_piece_head() {
        let head = PieceHead { op: 0x0102_0304_0506_0708, at: 9, total: 0x0a00_0000 };
        assert_eq!(head.encode(), [8, 7, 6, 5, 4, 3, 2, 1, 9, 0, 0, 0, 0, 0, 0, 10]);
        assert_eq!(PieceHead::decode(&head.encode()), head);
    }
}
