//! What a model is: its architecture and dimensions, read from the text of a `config.json`; and how
//! pictures are made for it, from that of a `preprocessor_config.json`.
//!
//! Not here: weights, and how the model is cut. Invariant: what comes out of here has passed every bound of this module, so
//! that nobody after it divides by zero, overflows or allocates by a foreign number.

mod error;
mod model;
mod pixels;
mod raw;
mod vision;

pub use error::SpecError;
pub use model::{Family, ModelSpec, RopeSpec};
pub use pixels::PixelSpec;
pub use vision::VisionSpec;
