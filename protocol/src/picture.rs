//! Pictures on their way from a gateway through rank 0 to the rank that encodes them.
//!
//! ```text
//!  gateway                       rank 0                                every rank
//!   │ ── GenerateRequest ──────▶ │  where pictures stand
//!   │ ── Picture (each, in order)▶ │  their levels
//!                                │ ── StepPlan{pictures: begin} ─────▶ │  the owner takes it into its tower
//!                                │ ── StepPlan{pictures: blocks}* ───▶ │  owners run so many blocks of their towers
//!                                │ ── StepPlan{pictures: finish} ────▶ │  embeddings are exchanged, and kept
//!                                │ ── StepPlan{seqs with pictures} ──▶ │
//!                                │ ── StepPlan{pictures: forget} ────▶ │
//! ```
//! Pictures are sized by the gateway: sides are whole tokens, levels 8-bit RGB, row by row.
//! Not here: decoding, resampling (coordinator, sharding).

use rkyv::{Archive, Deserialize, Serialize};

use crate::Rank;
use crate::frame::message;
use crate::ids::PictureId;

/// Most pictures of one prompt.
pub const PICTURES_MAX: usize = 64;
/// Most pixels of one sized picture: 2^16 patches of 14 × 14.
pub const PICTURE_PIXELS_MAX: u32 = (1 << 16) * 14 * 14;
/// Most pictures that one step finishes or forgets.
pub const STEP_PICTURES_MAX: usize = 4096;

/// What pictures a deployment takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
pub struct PictureLimits {
    /// Most in one prompt, at most [`PICTURES_MAX`].
    pub pictures_max: u16,
    /// Most pixels of one, counted over the frames of a patch as `preprocessor_config.json` counts them (a still picture stands
    /// in each frame). Larger pictures are shrunk.
    pub pixels_max: u32,
}

/// A picture's sides, pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Archive, Serialize, Deserialize)]
pub struct PictureSize {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
}

impl PictureSize {
    /// Bytes of its levels, `[height, width, 3]`.
    #[must_use]
    pub fn rgb_bytes(self) -> usize {
        self.height as usize * self.width as usize * 3
    }

    pub(crate) fn validate(self) -> Result<(), String> {
        let Self { height, width } = self;
        match height.checked_mul(width) {
            Some(1..=PICTURE_PIXELS_MAX) => Ok(()),
            _ => Err(format!("a picture of {height} × {width} pixels, expected 1..={PICTURE_PIXELS_MAX} pixels")),
        }
    }
}

impl std::fmt::Display for PictureSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} × {}", self.height, self.width)
    }
}

/// Where a picture stands in a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct PicturePlace {
    /// Index of its first token.
    pub at: u32,
    /// Its sides, of which its number of tokens follows.
    pub size: PictureSize,
}

/// Coordinator to rank 0, after the request on its stream: the levels of its next picture.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Picture {
    /// `[height, width, 3]`, of the size that the request says.
    pub rgb: Vec<u8>,
}
message!(Picture, Picture, |p| {
    let max = PICTURE_PIXELS_MAX as usize * 3;
    if p.rgb.is_empty() || p.rgb.len() > max {
        return Err(format!("a picture of {} bytes, expected 1..={max}", p.rgb.len()));
    }
    Ok(())
});

/// A picture in a sequence of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct SeqPicture {
    /// Which; every rank has its embeddings.
    pub picture: PictureId,
    /// Where it stands.
    pub place: PicturePlace,
}

/// A picture that a rank takes into its tower.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct BeginPicture {
    /// Its name from now on.
    pub picture: PictureId,
    /// Who encodes it. An owner encodes its pictures in the order in which they were begun.
    pub owner: Rank,
    /// Its sides.
    pub size: PictureSize,
    /// Its levels, `[height, width, 3]`.
    pub rgb: Vec<u8>,
}

/// What a step does for pictures, in this order, before its sequences compute.
#[derive(Debug, Clone, PartialEq, Eq, Default, Archive, Serialize, Deserialize)]
pub struct PictureWork {
    /// Embeddings, and pictures that are still encoded, that nobody needs any more.
    pub forget: Vec<PictureId>,
    /// One to begin.
    pub begin: Option<BeginPicture>,
    /// How many blocks of its tower each owner runs at most of the first of its pictures.
    pub blocks: u16,
    /// Pictures that have run through all blocks with that: their owners give the embeddings to every rank.
    pub finish: Vec<PictureId>,
}

impl PictureWork {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.forget.is_empty() && self.begin.is_none() && self.blocks == 0 && self.finish.is_empty()
    }

    pub(crate) fn validate(&self) -> Result<(), String> {
        let most = self.forget.len().max(self.finish.len());
        if most > STEP_PICTURES_MAX {
            return Err(format!("{most} pictures in a step, at most {STEP_PICTURES_MAX}"));
        }
        let Some(begin) = &self.begin else { return Ok(()) };
        begin.size.validate()?;
        if begin.rgb.len() != begin.size.rgb_bytes() {
            return Err(format!("a picture of {} pixels brings {} bytes", begin.size, begin.rgb.len()));
        }
        Ok(())
    }
}

/// Whether places are few enough and ascend.
pub(crate) fn validate_places(places: impl ExactSizeIterator<Item = PicturePlace>) -> Result<(), String> {
    if places.len() > PICTURES_MAX {
        return Err(format!("{} pictures, at most {PICTURES_MAX}", places.len()));
    }
    let mut next = 0;
    for PicturePlace { at, size } in places {
        size.validate()?;
        if at < next {
            return Err(format!("a picture at token {at}, expected {next} or later"));
        }
        next = at.checked_add(1).ok_or_else(|| format!("a picture at token {at}"))?;
    }
    Ok(())
}
