//! How a GLM model is cut into shards: its spec from `config.json`, the partition rules, the plan with its byte
//! budget, the checkpoint reader, pictures as a model takes them; and, under feature `layers`, the parallel layers and the models made of them.
//!
//! Not here: the network. What a rank must exchange goes through [`layers::Group`], which others implement.
//! Invariant: without `layers` nothing here knows a tensor library, so the coordinator can plan with it.

pub mod checkpoint;
#[cfg(feature = "layers")]
pub mod layers;
pub mod partition;
pub mod picture;
pub mod planner;
pub mod spec;

pub use checkpoint::{Checkpoint, CheckpointError, Pieces, model_record};
pub use partition::{TensorSlice, slices};
pub use planner::{MemoryTable, NodeCapacity, PlanError, PlanRequest, canary_block, plan, prompt_rows_max};
pub use spec::{Family, ModelSpec, PixelSpec, RopeSpec, SpecError, VisionSpec};
