//! Pictures as the model takes them: sized, resampled, normalised, cut into patches, and given positions in a prompt.
//!
//! Not here: file formats, and encoding ([`crate::layers`]). Invariant: everything is a pure function of its
//! arguments and needs no tensor library, so whoever takes a request can do it.

mod grid;
mod patches;
mod positions;
mod resample;
mod smart_resize;

pub use grid::Grid;
pub use patches::{PatchError, patches};
pub use positions::{PictureRow, PositionError, PromptPositions};
pub use resample::Rgb;
pub use smart_resize::{ASPECT_MAX, ResizeError, Size, smart_resize};
