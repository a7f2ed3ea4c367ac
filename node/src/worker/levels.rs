//! The levels of a picture while they wait at rank 0, and the room that they take of what may wait there.
//!
//! Not here: reading them (the front). Invariant: levels that came from outside hold their room as long as they are there.

use protocol::picture::PictureSize;
use tokio::sync::OwnedSemaphorePermit;

/// A picture's levels.
#[derive(Debug)]
pub(super) struct Levels {
    pub(super) size: PictureSize,
    /// `[height, width, 3]`.
    pub(super) rgb: Vec<u8>,
    /// Given back with them.
    pub(super) room: Option<OwnedSemaphorePermit>,
}
