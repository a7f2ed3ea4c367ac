//! Pictures on their way in: the frames that follow a request, read only when there is room for all of its levels.
//!
//! ```text
//!  check places ─▶ wait for room ─▶ frame ─▶ frame ─▶ …      while one waits, QUIC's flow control holds the rest back
//! ```
//! Not here: encoding. Invariants: nothing of a picture is read before its size is believed and its room is taken; a request
//! takes the room of all its pictures at once, so that two halves never wait for each other; what a picture is called follows
//! from its levels, here, whatever the sender thinks it is.

use std::sync::Arc;
use std::time::Duration;

use protocol::Epoch;
use protocol::frame::{Refusal, RefusalCode};
use protocol::generate::GenerateRequest;
use protocol::picture::{Picture, PicturePlace};
use sharding::VisionSpec;
use sharding::picture::{Grid, PictureRow, PromptPositions, Size};
use sharding::planner::{PICTURE_PATCHES_MAX, picture_levels_bytes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use transport::{RecvStream, StreamError};

use super::levels::Levels;
use crate::engine::{NewPicture, PictureDigest};

/// How long a picture may take to arrive once it is waited for.
const PICTURE_DEADLINE: Duration = Duration::from_secs(20);
/// What a frame's body has besides levels, bytes.
const FRAME_EXTRA_BYTES: usize = 64;
/// Room is counted in units of this many bytes.
const ROOM_UNIT: u64 = 1 << 10;

/// Why a request's pictures were not taken.
#[derive(Debug)]
pub(super) enum NotTaken {
    /// It is told why.
    Refused(Refusal),
    /// It cannot be told.
    Broken(StreamError),
}

impl From<Refusal> for NotTaken {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn bad(detail: String) -> Refusal {
    Refusal { code: RefusalCode::BadRequest, detail }
}

/// Where pictures of all streams come in.
#[derive(Debug)]
pub(super) struct PictureInbox {
    /// `None`: the model reads text alone.
    vision: Option<VisionSpec>,
    /// In [`ROOM_UNIT`]s.
    room: Arc<Semaphore>,
    room_units: u32,
}

/// A picture that a request announces and that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Announced {
    place: PicturePlace,
    grid: Grid,
}

impl Announced {
    fn units(self) -> u64 {
        (self.place.size.rgb_bytes() as u64).div_ceil(ROOM_UNIT)
    }
}

impl PictureInbox {
    /// With the room that the plan of a context of `context_tokens` has for levels.
    pub(super) fn new(vision: Option<&VisionSpec>, context_tokens: u32) -> Self {
        let bytes = vision.map_or(0, |vision| picture_levels_bytes(vision, context_tokens));
        let room_units = u32::try_from(bytes.div_ceil(ROOM_UNIT)).unwrap_or(u32::MAX);
        Self { vision: vision.cloned(), room: Arc::new(Semaphore::new(room_units as usize)), room_units }
    }

    /// Reads the pictures that follow `request`, in order.
    ///
    /// # Errors
    /// [`NotTaken`].
    ///
    /// # Cancel safety
    /// Not safe: what was read is lost. Its room is free again.
    pub(super) async fn receive(
        &self,
        request: &GenerateRequest,
        epoch: Epoch,
        recv: &mut RecvStream,
        deadline: Instant,
    ) -> Result<Vec<NewPicture<Levels>>, NotTaken> {
        if request.pictures.is_empty() {
            return Ok(Vec::new());
        }
        let announced = self.announced(request).map_err(bad)?;
        let mut room = self.room_for(&announced, deadline).await?;
        let mut pictures = Vec::with_capacity(announced.len());
        for (number, announced) in announced.iter().enumerate() {
            let units = usize::try_from(announced.units()).unwrap_or(usize::MAX);
            let room = room.split(units).expect("room for all of them was taken");
            let rgb = read(announced.place, number, epoch, recv, deadline).await?;
            let place = announced.place;
            pictures.push(NewPicture {
                // Some milliseconds for the largest; on this thread, which waits for the network otherwise.
                digest: PictureDigest::of(place.size, &rgb),
                place,
                tokens: announced.grid.tokens(),
                patches: announced.grid.patches(),
                levels: Levels { size: place.size, rgb, room: Some(room) },
            });
        }
        Ok(pictures)
    }

    /// The pictures of a request, if the model can see them where they are said to stand; else what is wrong.
    fn announced(&self, request: &GenerateRequest) -> Result<Vec<Announced>, String> {
        let Some(vision) = &self.vision else {
            return Err(format!("{} pictures for a model that reads text alone", request.pictures.len()));
        };
        let mut announced = Vec::with_capacity(request.pictures.len());
        for (number, place) in request.pictures.iter().enumerate() {
            let factor = vision.patch_size * vision.merge_size;
            let size = Size { height: place.size.height, width: place.size.width };
            let grid = vision.grid(size).ok_or_else(|| {
                format!("picture {number} is of {} pixels, expected sides of whole {factor} pixels", place.size)
            })?;
            if grid.patches() > PICTURE_PATCHES_MAX {
                let patches = grid.patches();
                return Err(format!("picture {number} has {patches} patches, at most {PICTURE_PATCHES_MAX}"));
            }
            announced.push(Announced { place: *place, grid });
        }
        let grids: Vec<Grid> = announced.iter().map(|a| a.grid).collect();
        let positions = PromptPositions::new(&request.prompt_ids, vision.image_token_id, &grids);
        let positions = positions.map_err(|e| e.to_string())?;
        for (number, Announced { place, .. }) in announced.iter().enumerate() {
            if positions.picture_row(place.at) != Some(PictureRow { picture: number, row: 0 }) {
                return Err(format!("picture {number} is said to begin at token {}, and does not", place.at));
            }
        }
        Ok(announced)
    }

    async fn room_for(&self, announced: &[Announced], deadline: Instant) -> Result<OwnedSemaphorePermit, Refusal> {
        let units: u64 = announced.iter().map(|a| a.units()).sum();
        let wanted = u32::try_from(units).ok().filter(|units| *units <= self.room_units).ok_or_else(|| {
            let max = u64::from(self.room_units) * ROOM_UNIT;
            bad(format!("pictures of {} bytes, at most {max} are taken at a time", units * ROOM_UNIT))
        })?;
        match timeout_at(deadline, self.room.clone().acquire_many_owned(wanted)).await {
            Ok(room) => Ok(room.expect("nobody closes the semaphore")),
            Err(_) => {
                let detail = "pictures of other requests take all the room until the request's deadline".to_owned();
                Err(Refusal { code: RefusalCode::Overloaded { retry_after_ms: 0 }, detail })
            }
        }
    }
}

/// The levels of the next picture, which has been announced as number `number`.
async fn read(
    place: PicturePlace,
    number: usize,
    epoch: Epoch,
    recv: &mut RecvStream,
    deadline: Instant,
) -> Result<Vec<u8>, NotTaken> {
    let expected = place.size.rgb_bytes();
    recv.set_body_max(u32::try_from(expected + FRAME_EXTRA_BYTES).unwrap_or(u32::MAX));
    let by = deadline.min(Instant::now() + PICTURE_DEADLINE);
    let frame = match recv.recv(by.into_std()).await {
        Ok(frame) => frame,
        Err(StreamError::Deadline { .. } | StreamError::Ended) => {
            return Err(bad(format!("picture {number} did not arrive")).into());
        }
        Err(StreamError::Frame(e)) => return Err(bad(format!("picture {number}: {e}")).into()),
        Err(broken) => return Err(NotTaken::Broken(broken)),
    };
    if frame.epoch != epoch {
        let detail = format!("picture {number} is of epoch {}, this is epoch {epoch}", frame.epoch);
        return Err(Refusal { code: RefusalCode::WrongEpoch, detail }.into());
    }
    let Picture { rgb } = frame.read().map_err(|e| bad(format!("picture {number}: {e}")))?;
    if rgb.len() != expected {
        let found = rgb.len();
        return Err(bad(format!("picture {number} of {} pixels brings {found} bytes", place.size)).into());
    }
    Ok(rgb)
}
