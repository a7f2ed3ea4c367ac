//! Rank 0's requests that wait for their pictures, and what each step does for pictures.
//!
//! Not here: decisions (the engine's anteroom and gallery), encoding (every rank's [`super::seeing`]). Invariant: an applicant
//! leaves exactly once: into the scheduler, because nobody wants it any more, or with the group's end.

use std::sync::Arc;

use protocol::generate::{Choice, SamplingParams};
use protocol::picture::{BeginPicture, PicturePlace, PictureWork};
use sharding::VisionSpec;

use super::levels::Levels;
use super::model::TowerWork;
use super::requests::Request;
use super::submission::Reply;
use super::tower_pace::TowerPace;
use crate::engine::{
    Anteroom, Begin, Demand, Gallery, GalleryCounts, GalleryLimits, GalleryWork, NewPicture, NewRequest, PictureClaim,
    PromptPicture, TooManyPictures,
};
use crate::grammar::Constraint;

/// A request that the scheduler has room for and has not got yet.
pub(super) struct Applicant {
    pub(super) request: Request,
    pub(super) new: NewRequest,
    pub(super) places: Vec<PicturePlace>,
    pub(super) choices: Vec<Choice>,
    pub(super) sampling: SamplingParams,
    pub(super) constraints: Vec<Constraint>,
    /// What it will bring to the scheduler's queue.
    pub(super) demand: Demand,
}

impl Applicant {
    /// Whether nobody waits for any of its choices.
    fn is_abandoned(&self) -> bool {
        let Request { replies, ended, .. } = &self.request;
        replies.is_closed() || self.choices.iter().all(|choice| ended.contains(choice.index))
    }

    /// It has its pictures.
    pub(super) fn see(&mut self, claims: Vec<PictureClaim>) {
        let placed = self.places.iter().zip(claims).map(|(place, claim)| PromptPicture { claim, place: *place });
        self.new.pictures = Arc::from_iter(placed);
    }
}

/// The applicants of a model that sees.
pub(super) struct PictureDesk {
    anteroom: Anteroom<Applicant, Levels>,
    pace: TowerPace,
}

impl PictureDesk {
    /// For `ranks` ranks with this tower each, which keep embeddings of at most `tokens_max` tokens.
    pub(super) fn new(vision: &VisionSpec, ranks: u16, tokens_max: u32) -> Self {
        let depth = u16::try_from(vision.depth).unwrap_or(u16::MAX);
        let gallery = Gallery::new(GalleryLimits { tokens_max, depth, ranks });
        Self { anteroom: Anteroom::new(gallery), pace: TowerPace::new(vision.clone()) }
    }

    /// Takes an applicant in until its pictures are there.
    ///
    /// # Errors
    /// [`TooManyPictures`], and the applicant.
    pub(super) fn take(
        &mut self,
        applicant: Applicant,
        pictures: Vec<NewPicture<Levels>>,
    ) -> Result<(), (Box<Applicant>, TooManyPictures)> {
        match self.anteroom.check(&pictures) {
            Ok(()) => {
                self.anteroom.push(applicant, pictures);
                Ok(())
            }
            Err(e) => Err((Box::new(applicant), e)),
        }
    }

    /// What those who wait here will bring to the scheduler's queue.
    pub(super) fn demand(&self) -> Demand {
        self.anteroom.requests().map(|applicant| applicant.demand).sum()
    }

    /// Forgets the applicants that nobody wants any more; those that are gone.
    pub(super) fn forget_abandoned(&mut self) -> Vec<usize> {
        let mut choices = Vec::new();
        self.anteroom.retain(|applicant| {
            let gone = applicant.is_abandoned();
            if gone {
                tracing::debug!(request_id = %applicant.request.request_id, "a request left before its pictures were seen");
                choices.push(applicant.choices.len());
            }
            !gone
        });
        choices
    }

    /// What the next step does for pictures, and who may be in it.
    pub(super) fn plan(&mut self, text_runs: bool) -> (PictureWork, Vec<Applicant>) {
        let Self { anteroom, pace } = self;
        let (work, seeing) = anteroom.plan(|patches| pace.blocks(patches, text_runs));
        let seeing = seeing.into_iter().map(|(mut applicant, claims)| {
            applicant.see(claims);
            applicant
        });
        (on_the_wire(work), seeing.collect())
    }

    /// Counts what this rank's tower did.
    pub(super) fn record(&mut self, work: TowerWork) {
        self.pace.record(work);
    }

    /// Tells every applicant that it may be served elsewhere.
    pub(super) fn fail_all(&self, reason: &str) {
        for applicant in self.anteroom.requests() {
            applicant.request.reply(Reply::Failed { reason: reason.to_owned(), retryable: true });
        }
    }

    /// What has happened to pictures so far.
    pub(super) fn counts(&self) -> GalleryCounts {
        self.anteroom.gallery().counts()
    }
}

fn on_the_wire(work: GalleryWork<Levels>) -> PictureWork {
    let GalleryWork { forget, begin, blocks, finish } = work;
    let begin = begin.map(|Begin { picture, owner, levels }| {
        // From here on they are part of a step.
        let Levels { size, rgb, room } = levels;
        drop(room);
        BeginPicture { picture, owner, size, rgb }
    });
    PictureWork { forget, begin, blocks, finish }
}
