//! The stage of a request in which its pictures become levels.
//!
//! Few requests are in it at a time, since it is where a gateway needs memory and processors. Invariant: what can be refused
//! by headers alone is refused before the first picture is decoded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::picture::{Picture, PictureSize};
use sharding::PixelSpec;
use sharding::picture::{Grid, Size, smart_resize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::expand::expand;
use super::file::PictureFile;
use super::{PictureFault, PictureSource, Remote, Shown};
use crate::gateway::admission::Permit;
use crate::gateway::draft::Draft;
use crate::gateway::errors::ApiError;
use crate::gateway::state::App;
use crate::gateway::validate::{Encoded, ValidRequest};

/// Most requests whose pictures are decoded at a time, however many processors there are: each may need a decoder's memory.
const DECODERS_MAX: usize = 4;

/// Places for decoding; whoever came first goes first.
#[derive(Debug)]
pub(in crate::gateway) struct Decoders(Arc<Semaphore>);

impl Decoders {
    pub(in crate::gateway) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Semaphore::new(processors.min(DECODERS_MAX))))
    }

    /// A place, as soon as there is one; `None` after the deadline.
    async fn place(&self, deadline: Instant) -> Option<OwnedSemaphorePermit> {
        let place = tokio::time::timeout_at(deadline.into(), self.0.clone().acquire_owned()).await.ok()?;
        Some(place.expect("the semaphore is never closed"))
    }
}

impl App {
    /// Fetches, decodes and sizes the pictures of a request.
    ///
    /// # Errors
    /// [`ApiError`] about a picture, the context or the memory; [`ApiError::Deadline`], [`ApiError::ShuttingDown`].
    pub(in crate::gateway) async fn show(
        self: &Arc<Self>,
        permit: Permit,
        mut draft: Draft,
        deadline: Instant,
    ) -> Result<(Permit, ValidRequest), ApiError> {
        let timeout = draft.timeout();
        let fetched =
            Remote::fetch(self.remote.as_ref(), &mut draft.sources, self.limits.body_bytes_max, deadline, timeout);
        tokio::select! {
            () = self.stop.cancelled() => return Err(ApiError::ShuttingDown),
            fetched = fetched => fetched?,
        }
        let place = tokio::select! {
            () = self.stop.cancelled() => return Err(ApiError::ShuttingDown),
            place = self.decoders.place(deadline) => place,
        };
        let place = place.ok_or(ApiError::Deadline { timeout })?;
        self.off_runtime(permit, move |app| {
            let valid = with_pictures(draft, app);
            drop(place);
            valid
        })
        .await
    }
}

/// Blocking.
fn with_pictures(draft: Draft, app: &App) -> Result<ValidRequest, ApiError> {
    let began = Instant::now();
    let Draft { options, target, mut prompts, sources, speech } = draft;
    let (eyes, limits) = target.eyes().ok_or(ApiError::Internal { what: "picture limits" })?;
    let pixels = eyes.pixels(limits);
    let files = sources.iter().map(|s| s.bytes().map_err(|e| s.at_fault(e))).collect::<Result<Vec<_>, _>>()?;
    let opened = sources.iter().zip(&files).map(|(s, file)| open(file, &pixels).map_err(|e| s.at_fault(e)));
    let opened = opened.collect::<Result<Vec<_>, _>>()?;
    let shapes: Vec<_> = opened.iter().map(|o| (o.shown, o.grid)).collect();
    let Encoded { ids, echo, .. } = prompts.pop().ok_or(ApiError::Internal { what: "picture prompt" })?;
    let (ids, places) = expand(&ids, eyes.token, &shapes);
    let pictures = Shown::at(places);
    let bytes = pictures.bytes() as u64;
    let mut valid = options.with_prompts(vec![Encoded { ids, echo, pictures }], target)?;
    valid.speech = speech;
    let full = || {
        let (found, max) = (app.picture_memory.held() + bytes, app.picture_memory.max());
        ApiError::PictureMemory { found, max, retry: app.gate.one_is_over_in() }
    };
    let held = app.picture_memory.hold(bytes).ok_or_else(full)?;
    let mut decoding = Duration::ZERO;
    let levels = sources.iter().zip(opened).map(|(s, o)| o.levels(&mut decoding).map_err(|e| s.at_fault(e)));
    let levels = levels.collect::<Result<Vec<_>, _>>()?;
    let prompt = &mut valid.prompts[0];
    (prompt.pictures.levels, prompt.pictures.held) = (levels, Some(held));
    let (pictures, prompt_tokens) = (sources.len(), prompt.ids.len());
    let (total_ms, decode_ms) = (began.elapsed().as_millis(), decoding.as_millis());
    tracing::debug!(pictures, prompt_tokens, bytes, total_ms, decode_ms, "pictures decoded and sized");
    Ok(valid)
}

/// A file of which it is known how it will be shown.
struct Opened<'a> {
    file: PictureFile<'a>,
    shown: PictureSize,
    grid: Grid,
}

fn open<'a>(file: &'a [u8], pixels: &PixelSpec) -> Result<Opened<'a>, PictureFault> {
    let file = PictureFile::open(file)?;
    let size = smart_resize(file.size(), pixels)?;
    let Size { height, width } = size;
    let max = u64::from(Grid::PATCHES_MAX) * u64::from(pixels.patch_size).pow(2);
    let grid = Grid::of_pixels(size, pixels.patch_size, pixels.merge_size)
        .ok_or(PictureFault::TooLarge { found: size, max })?;
    Ok(Opened { file, shown: PictureSize { height, width }, grid })
}

impl Opened<'_> {
    /// `decoding` grows by what decoding took.
    fn levels(self, decoding: &mut Duration) -> Result<Picture, PictureFault> {
        let (began, PictureSize { height, width }) = (Instant::now(), self.shown);
        let decoded = self.file.decode()?;
        *decoding += began.elapsed();
        Ok(Picture { rgb: decoded.resized(Size { height, width }).into_pixels() })
    }
}

/// Whether a request may have these pictures, as far as their number tells.
///
/// # Errors
/// [`PictureFault::TooMany`] at the first that is too many.
pub(in crate::gateway) fn few_enough(sources: &[PictureSource], max: u16) -> Result<(), ApiError> {
    let fault = PictureFault::TooMany { found: sources.len(), max };
    sources.get(usize::from(max)).map_or(Ok(()), |first| Err(first.at_fault(fault)))
}
