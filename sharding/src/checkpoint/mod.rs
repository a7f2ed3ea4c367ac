//! A Hugging Face checkpoint directory: its headers and index, its bytes through a map, its digest.
//!
//! Not here: what a tensor means, arithmetic. Invariant: nothing of a file is believed before its header has passed
//! every check of [`Checkpoint::open`]; each message names the tensor, the file, what was expected and what was found.

mod error;
mod files;
mod header;
mod index;
mod pieces;
mod record;
mod tokenizer;
mod weights;

pub use error::CheckpointError;
pub use files::{Checkpoint, TensorInfo, read_pixel_spec};
pub use header::StoredDtype;
pub use pieces::Pieces;
pub use record::model_record;
pub use weights::{SliceRows, Weights};
