//! The pictures of one prompt, as a replica is given them.

use protocol::picture::{Picture, PicturePlace};

use super::memory::HeldBytes;

/// Where pictures stand in a prompt, and their levels: as many of the one as of the other once a request is admitted.
#[derive(Default)]
pub(in crate::gateway) struct Shown {
    pub(in crate::gateway) places: Vec<PicturePlace>,
    /// Kept for the life of the request: another replica may have to be given them.
    pub(in crate::gateway) levels: Vec<Picture>,
    pub(super) held: Option<HeldBytes>,
}

impl Shown {
    /// Pictures that are still to be decoded.
    pub(super) fn at(places: Vec<PicturePlace>) -> Self {
        Self { places, levels: Vec::new(), held: None }
    }

    /// What its levels take, once they are there, bytes.
    pub(in crate::gateway) fn bytes(&self) -> usize {
        self.places.iter().map(|place| place.size.rgb_bytes()).sum()
    }
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shown").field("places", &self.places).finish_non_exhaustive()
    }
}
