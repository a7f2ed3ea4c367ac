//! How each tensor of a model is cut for one rank.
//!
//! Not here: who gets what (`planner`) and reading (`checkpoint`). Invariant: over all ranks of a plan, the slices of
//! a tensor cover it; they overlap only where the rule says so (replicated tensors, KV heads shared by query heads).

mod rules;
mod slice;
mod vision;

pub use rules::{Rule, TensorSpec, tensors};
pub use slice::{Cut, TensorSlice, slices};
pub use vision::VISION_PREFIX;

/// Columns of the MLP are cut in blocks of this many.
pub const MLP_BLOCK_COLS: u32 = 32;
/// Rows of the vocabulary are cut in blocks of this many.
pub const VOCAB_BLOCK_ROWS: u32 = 64;
