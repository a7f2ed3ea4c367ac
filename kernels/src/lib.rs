//! CPU numeric kernels with a fixed summation order.
//!
//! Each kernel takes plain f32 slices and a [`Pool`]; [`ops`] wraps them as candle custom ops. Not here: models, how a
//! layer is cut over ranks, collectives, and any thread but the pool's.
//!
//! Invariant: the result of a row depends on that row alone: not on the rest of the batch, how a prompt was chunked,
//! the number of threads or the instruction set. Empty operands are legal everywhere.

mod activation;
mod attention;
mod bicubic;
mod disjoint;
mod elementwise;
mod embedding;
mod error;
mod exp;
mod gelu;
mod layer_norm;
mod linear;
mod norm;
pub mod ops;
mod pool;
mod rotary;
mod scratch;
mod simd;

pub use activation::{silu_mul, silu_mul_split};
pub use attention::{AttnSeq, BLOCK_TOKENS, KvLayer, attention, picture_attention};
pub use bicubic::{TablePlace, add_bicubic};
pub use elementwise::{add, argmax};
pub use embedding::{EmbeddingTable, embed_rows};
pub use error::KernelError;
pub use gelu::gelu;
pub use layer_norm::layer_norm;
pub use linear::{PackedLinear, SUM_TREE_DEPTH_MAX, SumTree, WeightType};
pub use norm::rms_norm;
pub use pool::{Pool, THREADS_MAX};
pub use rotary::{RotaryStyle, rotary};
pub use simd::Isa;
