//! What a model is: its architecture and dimensions, read from the text of a `config.json`.
//!
//! Not here: weights, and how the model is cut. Invariant: a [`ModelSpec`] has passed every bound of this module, so
//! that nobody after it divides by zero, overflows or allocates by a foreign number.

mod error;
mod model;
mod raw;

pub use error::SpecError;
pub use model::{Family, ModelSpec, RopeSpec};
