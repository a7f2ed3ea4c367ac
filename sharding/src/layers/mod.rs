//! The parallel layers, the GLM text model made of them and the vision tower before it, on candle tensors and the CPU kernels.
//!
//! Not here: how ranks reach each other ([`Group`] is implemented elsewhere), scheduling, sampling. Invariant: with
//! f32 activations every world size and every cut gives the same bits (docs of `protocol::atoms`).

mod attention;
mod column_parallel;
mod decoder_layer;
mod embedding;
mod error;
mod exchange;
mod glm4_text;
mod group;
mod lm_head;
mod loader;
mod logits;
mod mlp;
mod observer;
mod rms_norm;
mod rope;
mod row_parallel;
mod sight;
mod step;
mod vision;

pub use attention::Attention;
pub use column_parallel::ColumnParallel;
pub use decoder_layer::DecoderLayer;
pub use embedding::VocabParallelEmbedding;
pub use error::{LoadError, StepError};
pub use glm4_text::Glm4Text;
pub use group::{Group, GroupError};
pub use lm_head::LmHead;
pub use loader::Loader;
pub use logits::{Candidate, Logits, LogitsRow, by_rank};
pub use mlp::Mlp;
pub use observer::{Observer, Point, Tap, Unobserved, VisionTap};
pub use rms_norm::RmsNorm;
pub use rope::{Positions, Rope};
pub use row_parallel::RowParallel;
pub use sight::Sight;
pub use step::Step;
pub use vision::{Encoding, VisionError, VisionTower};

// The planner counts in blocks without knowing the kernels.
const _: () = assert!(kernels::BLOCK_TOKENS == crate::planner::BLOCK_TOKENS as usize);
