//! Why a rank cannot load, and why a step failed.

use protocol::Rank;

use super::GroupError;
use crate::checkpoint::CheckpointError;
use crate::planner::CutError;

/// Why a rank cannot load its shard.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The checkpoint does not have what the model needs.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The plan is not one of this model.
    #[error(transparent)]
    Cut(#[from] CutError),
    /// The plan has no such rank.
    #[error("rank {rank} in a plan of {ranks} ranks")]
    NoSuchRank {
        /// The rank.
        rank: Rank,
        /// How many there are.
        ranks: usize,
    },
    /// A layer asked for a tensor that the partition rules do not list, or cut the other way.
    #[error("tensor `{tensor}`: expected the partition rules to cut it by {expected}, found {found}")]
    Rule {
        /// The tensor.
        tensor: String,
        /// What the layer can hold.
        expected: &'static str,
        /// What the rules say.
        found: String,
    },
    /// The tensor library refused.
    #[error("tensor: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// Why a step gave nothing. After [`StepError::Group`] the group must be formed again. A bad plan (a token, blocks, the
/// wrong group) is refused by every rank alike before anything is exchanged or written.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A peer is lost, late or of another epoch.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// A token that is no row of the embedding.
    #[error("step {step}: token {token} of sequence {seq}: expected an id below {vocab_size}")]
    Token {
        /// The step.
        step: u64,
        /// The sequence.
        seq: u64,
        /// The id.
        token: u32,
        /// The model's vocabulary.
        vocab_size: u32,
    },
    /// A sequence whose KV blocks do not hold it.
    #[error("step {step}: sequence {seq}: expected {needed} KV blocks with numbers below {blocks}, found {found:?}")]
    Blocks {
        /// The step.
        step: u64,
        /// The sequence.
        seq: u64,
        /// Blocks that its positions take.
        needed: usize,
        /// Blocks that there are.
        blocks: usize,
        /// The blocks it was given, at most the first 8.
        found: Vec<u32>,
    },
    /// Copies of KV blocks that do not fit the cache, or whose outcome would hang on their order.
    #[error(
        "step {step}: copy of KV block {from} to {to}: expected two numbers below {blocks}, and no other copy to either"
    )]
    Copy {
        /// The step.
        step: u64,
        /// The source.
        from: u32,
        /// The target.
        to: u32,
        /// Blocks that there are.
        blocks: usize,
    },
    /// The group is not the one that the shard was loaded for.
    #[error("step {step}: expected rank {expected_rank} of {expected_world}, found rank {rank} of {world}")]
    WrongGroup {
        /// The step.
        step: u64,
        /// The rank that was loaded.
        expected_rank: u16,
        /// The world size that it was loaded for.
        expected_world: u16,
        /// The group's own rank.
        rank: u16,
        /// The group's own size.
        world: u16,
    },
    /// Pictures of sequences that are not in the step, or not in its order.
    #[error("step {step}: pictures of sequences {found:?}: expected places in ascending order below {seqs}")]
    Sights {
        /// The step.
        step: u64,
        /// Sequences in it.
        seqs: usize,
        /// The places given, at most the first 8.
        found: Vec<usize>,
    },
    /// A picture whose rows the step needs is not there, or not as its grid has it.
    #[error("step {step}: sequence {seq}: expected picture {picture} as {expected:?}, found {found:?}")]
    Picture {
        /// The step.
        step: u64,
        /// The sequence.
        seq: u64,
        /// Which of its pictures.
        picture: usize,
        /// Its tokens and the model's width.
        expected: [usize; 2],
        /// Its shape; empty where it is missing.
        found: Vec<usize>,
    },
    /// A peer sent a candidate that is no id of its part of the vocabulary.
    #[error("a peer sent the candidate {value}, expected an id in {first}..{end}")]
    Candidate {
        /// What came.
        value: f32,
        /// The peer's first id.
        first: u32,
        /// One past its last.
        end: u32,
    },
    /// Shapes or KV blocks that do not fit, told by the tensor library or a kernel.
    #[error("step: {0}")]
    Tensor(#[from] candle_core::Error),
}
