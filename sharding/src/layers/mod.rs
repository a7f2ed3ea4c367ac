//! The parallel layers and the GLM text model made of them, on candle tensors and the CPU kernels.
//!
//! Not here: how ranks reach each other ([`Group`] is implemented elsewhere), scheduling, sampling. Invariant: with
//! f32 activations every world size and every cut gives the same bits (docs of `protocol::atoms`).

mod group;

pub use group::{Group, GroupError};
