//! A picture as the engine knows it: a name for its content, its sizes, and the claim that keeps its embeddings.
//!
//! Not here: levels (whoever hands a picture in says what holds them), embeddings (the ranks have them). Invariant: two
//! digests are equal only where size and levels are; they are made where the levels arrive, so nobody can give a picture
//! another's name.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use protocol::PictureId;
use protocol::picture::{PicturePlace, PictureSize, SeqPicture};

/// The name of a picture by its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PictureDigest([u8; SHA256_OUTPUT_LEN]);

impl PictureDigest {
    /// Of a picture of this size with these levels, `[height, width, 3]`.
    #[must_use]
    pub fn of(size: PictureSize, rgb: &[u8]) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(&size.height.to_le_bytes());
        context.update(&size.width.to_le_bytes());
        context.update(rgb);
        Self(context.finish().as_ref().try_into().expect("SHA-256 gives 32 bytes"))
    }
}

/// A picture that has arrived with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPicture<L> {
    /// What it shows.
    pub digest: PictureDigest,
    /// Where it stands in the prompt, and its sides.
    pub place: PicturePlace,
    /// Tokens that it takes in a prompt.
    pub tokens: u32,
    /// Patches that a tower takes it in.
    pub patches: u32,
    /// Its levels, or what holds them.
    pub levels: L,
}

/// A picture that the ranks have, or will have before anybody needs it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KnownPicture {
    pub(super) id: PictureId,
    pub(super) digest: PictureDigest,
    pub(super) tokens: u32,
    pub(super) patches: u32,
}

/// A claim on a picture: as long as one lives, the picture's embeddings are kept or made. Dropping it is giving it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PictureClaim(pub(super) Arc<KnownPicture>);

impl PictureClaim {
    /// What the ranks call it.
    #[must_use]
    pub fn id(&self) -> PictureId {
        self.0.id
    }
}

/// A picture in a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptPicture {
    /// Which.
    pub claim: PictureClaim,
    /// Where it stands, and its sides.
    pub place: PicturePlace,
}

impl PromptPicture {
    /// As a step says it.
    pub(super) fn in_step(&self) -> SeqPicture {
        SeqPicture { picture: self.claim.id(), place: self.place }
    }

    /// What a KV block of the tokens `first..end` depends on besides their ids, where this picture stands in it: what it
    /// shows and where it begins.
    pub(super) fn content_of(&self, first: usize, end: usize) -> Option<[u8; SHA256_OUTPUT_LEN + 4]> {
        let begins = self.place.at as usize;
        let ends = begins + self.claim.0.tokens as usize;
        (begins < end && first < ends).then(|| {
            let mut content = [0; SHA256_OUTPUT_LEN + 4];
            content[..SHA256_OUTPUT_LEN].copy_from_slice(&self.claim.0.digest.0);
            content[SHA256_OUTPUT_LEN..].copy_from_slice(&self.place.at.to_le_bytes());
            content
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_depends_on_sides_and_levels() {
        let of = |height, width, rgb: &[u8]| PictureDigest::of(PictureSize { height, width }, rgb);
        let all = [of(2, 3, &[1; 18]), of(3, 2, &[1; 18]), of(2, 3, &[2; 18]), of(1, 6, &[1; 18])];
        for (i, digest) in all.iter().enumerate() {
            assert!(!all[..i].contains(digest), "digest {i}");
        }
        assert_eq!(all[0], of(2, 3, &[1; 18]));
    }
}
