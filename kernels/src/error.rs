//! What a kernel refuses. Every variant carries what was wanted and what was found; a kernel never panics on a shape.

use std::ops::Range;

/// A call whose operands do not fit together. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// A slice or tensor of another shape than the other operands ask for.
    #[error("{op}: {operand} should be {expected:?} but is {found:?}")]
    Shape {
        /// The kernel.
        op: &'static str,
        /// Which operand.
        operand: &'static str,
        /// Shape that fits.
        expected: Vec<usize>,
        /// Shape that came; a slice has its length only.
        found: Vec<usize>,
    },
    /// A tensor that is not laid out row by row.
    #[error("{op}: {operand} of shape {shape:?} has strides {strides:?}; make it contiguous")]
    Layout {
        /// The kernel.
        op: &'static str,
        /// Which operand.
        operand: &'static str,
        /// Its shape.
        shape: Vec<usize>,
        /// Its strides, elements.
        strides: Vec<usize>,
    },
    /// A leaf of a sum tree that reaches past the input.
    #[error("sum tree: columns {cols:?} of an input of {in_features}")]
    Columns {
        /// Columns of the leaf.
        cols: Range<usize>,
        /// Input features there are.
        in_features: usize,
    },
    /// A sum tree deeper than [`SUM_TREE_DEPTH_MAX`](crate::SUM_TREE_DEPTH_MAX).
    #[error("sum tree of depth {depth}, at most {max}")]
    TreeDepth {
        /// Its depth (a leaf has 0), or where counting stopped.
        depth: usize,
        /// Deepest that is taken.
        max: usize,
    },
    /// Sequences whose rows do not stand one after the other from row 0.
    #[error("{op}: sequence {seq} has rows {rows:?} but row {expected} is next")]
    Rows {
        /// The kernel.
        op: &'static str,
        /// Place of the sequence in the batch.
        seq: usize,
        /// Its rows.
        rows: Range<usize>,
        /// First row that no sequence before it has.
        expected: usize,
    },
    /// A sequence with too few KV blocks for its last position.
    #[error("{op}: sequence {seq} needs {needed} KV blocks but brings {given}")]
    Blocks {
        /// The kernel.
        op: &'static str,
        /// Place of the sequence in the batch.
        seq: usize,
        /// Blocks its last position asks for.
        needed: usize,
        /// Blocks it has.
        given: usize,
    },
    /// A KV block that the cache does not have.
    #[error("{op}: sequence {seq} names KV block {block} of {blocks}")]
    BlockIndex {
        /// The kernel.
        op: &'static str,
        /// Place of the sequence in the batch.
        seq: usize,
        /// The index.
        block: u32,
        /// Blocks there are.
        blocks: usize,
    },
    /// A copy from or to a KV block that the cache does not have.
    #[error("kv_copy: KV block {block} of {blocks}")]
    CopyBlock {
        /// The index.
        block: u32,
        /// Blocks there are.
        blocks: usize,
    },
    /// A query head mapped to a KV head that the cache does not have.
    #[error("attention: query head {head} maps to KV head {kv_head} of {kv_heads}")]
    KvHead {
        /// Local query head.
        head: usize,
        /// Where it is mapped.
        kv_head: usize,
        /// Local KV heads there are.
        kv_heads: usize,
    },
    /// Rotary dimensions that are odd or more than the head has.
    #[error("rotary: {rot} rotary dimensions in a head of {head_dim}; must be even and fit")]
    RotaryDims {
        /// Dimensions to rotate.
        rot: usize,
        /// Dimensions of a head.
        head_dim: usize,
    },
    /// More threads asked for than [`THREADS_MAX`](crate::THREADS_MAX).
    #[error("{threads} compute threads, at most {max}")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// Most that are started.
        max: usize,
    },
    /// The system did not start the pool's threads.
    #[error("cannot start {threads} compute threads: {reason}")]
    Spawn {
        /// Threads asked for.
        threads: usize,
        /// What the system said.
        reason: String,
    },
    /// An earlier call panicked while it wrote to this KV layer: its contents cannot be trusted.
    #[error("{op}: the KV layer was left half written by a panic")]
    KvPoisoned {
        /// The kernel.
        op: &'static str,
    },
}

/// `Err` unless a slice has as many elements as `shape` says.
pub(crate) fn expect_len(
    op: &'static str,
    operand: &'static str,
    found: usize,
    shape: &[usize],
) -> Result<(), KernelError> {
    let wanted = shape.iter().try_fold(1_usize, |n, d| n.checked_mul(*d));
    if wanted == Some(found) {
        return Ok(());
    }
    Err(KernelError::Shape { op, operand, expected: shape.to_vec(), found: vec![found] })
}
