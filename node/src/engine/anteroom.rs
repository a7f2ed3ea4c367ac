//! Where requests wait until the ranks have the pictures of their prompts.
//!
//! ```text
//!  push ─▶ line ── first come: all its pictures claimed at once ─▶ looking ── all of them ready ─▶ handed out
//!            └────────── gone: retain ──────────────────────────────┘
//! ```
//! Not here: what a request is, and what becomes of it then (the scheduler). Invariants: whoever is in line claims nothing, so
//! the first of it gets its room as soon as those who have theirs are done; nobody is overtaken on the way to a claim.

use std::collections::VecDeque;

use super::gallery::{Gallery, GalleryWork};
use super::picture::{NewPicture, PictureClaim};

/// Pictures of one request that there will never be room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("pictures of {tokens} tokens, at most {max} are kept at a time")]
pub struct TooManyPictures {
    /// Tokens of all.
    pub tokens: u64,
    /// The bound.
    pub max: u32,
}

/// Requests `R` whose pictures are not there yet, and the pictures, whose levels are held by an `L`.
#[derive(Debug)]
pub struct Anteroom<R, L> {
    gallery: Gallery<L>,
    line: VecDeque<(R, Vec<NewPicture<L>>)>,
    looking: Vec<(R, Vec<PictureClaim>)>,
}

impl<R, L> Anteroom<R, L> {
    /// An empty one.
    #[must_use]
    pub fn new(gallery: Gallery<L>) -> Self {
        Self { gallery, line: VecDeque::new(), looking: Vec::new() }
    }

    /// The pictures.
    #[must_use]
    pub fn gallery(&self) -> &Gallery<L> {
        &self.gallery
    }

    /// Whether pictures could ever be claimed together.
    ///
    /// # Errors
    /// [`TooManyPictures`].
    pub fn check(&self, pictures: &[NewPicture<L>]) -> Result<(), TooManyPictures> {
        let (tokens, max) = (pictures.iter().map(|p| u64::from(p.tokens)).sum(), self.gallery.limits().tokens_max);
        if tokens > u64::from(max) { Err(TooManyPictures { tokens, max }) } else { Ok(()) }
    }

    /// Puts a request at the end of the line. Its pictures must have passed [`Self::check`].
    pub fn push(&mut self, request: R, pictures: Vec<NewPicture<L>>) {
        self.line.push_back((request, pictures));
    }

    /// Requests that wait, in no particular order.
    pub fn requests(&self) -> impl Iterator<Item = &R> {
        self.line.iter().map(|(r, _)| r).chain(self.looking.iter().map(|(r, _)| r))
    }

    /// Forgets the requests that are not to be kept, and gives up their claims.
    pub fn retain(&mut self, mut keep: impl FnMut(&R) -> bool) {
        self.line.retain(|(r, _)| keep(r));
        self.looking.retain(|(r, _)| keep(r));
    }

    /// What the next step does for pictures (as [`Gallery::plan`]), and the requests that may be in it, with their pictures
    /// in the order of their prompts.
    pub fn plan(&mut self, blocks: impl FnOnce(u32) -> u16) -> (GalleryWork<L>, Vec<(R, Vec<PictureClaim>)>) {
        while let Some((_, pictures)) = self.line.front_mut()
            && let Some(claims) = self.gallery.claim(pictures)
        {
            let (request, _) = self.line.pop_front().expect("it was looked at");
            self.looking.push((request, claims));
        }
        let work = self.gallery.plan(blocks);
        let Self { gallery, looking, .. } = self;
        let seeing = looking.extract_if(.., |(_, claims)| claims.iter().all(|claim| gallery.is_ready(claim)));
        (work, seeing.collect())
    }

    /// Whether nobody waits and there is nothing to do for pictures.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.line.is_empty() && self.looking.is_empty() && self.gallery.is_idle()
    }
}

#[cfg(test)]
#[path = "anteroom_tests.rs"]
mod tests;
