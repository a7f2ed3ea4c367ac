//! Pictures of a chat: from what a client sends to the levels that a replica is given.
//!
//! ```text
//!  image_url part ─▶ source (─▶ remote) ─▶ file (header: size) ─▶ expand, context, memory ─▶ file (levels) ─▶ sized ─▶ dispatch
//!                    a 400 for what is wrong                             a 400 or 429            the first pixel buffer
//! ```
//! Not here: resampling and grids (`sharding::picture`), encoding (the replica). Invariant: before a pixel buffer is made, the
//! file's header is within the bound, the prompt with all of its pictures fits the context, and their memory is counted.

mod expand;
mod eyes;
mod fault;
mod file;
mod jpeg;
mod memory;
mod public;
mod remote;
mod shown;
mod source;
mod stage;

pub(super) use expand::placeholders;
pub(super) use eyes::Eyes;
pub(super) use fault::PictureFault;
pub(super) use memory::PictureMemory;
pub(super) use remote::Remote;
pub use remote::RemoteError;
pub(super) use shown::Shown;
pub(super) use source::PictureSource;
pub(super) use stage::{Decoders, few_enough};
