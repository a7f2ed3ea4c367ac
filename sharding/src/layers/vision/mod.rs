//! The vision tower of Glm4v: patches of a picture in, embeddings as wide as the text model's out.
//!
//! Not here: making patches ([`crate::picture`]), when a picture is encoded and who keeps the result. Invariant: the
//! embeddings of a picture follow from its patches and the weights alone, bit for bit: not from the threads, the other
//! pictures, the world size, nor into how many advances the work was cut.

mod block;
mod error;
mod merger;
mod tower;

pub use error::VisionError;
pub use tower::{Encoding, VisionTower};
