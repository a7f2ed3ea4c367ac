//! The spec of a vision tower, from `vision_config`.
//!
//! Not here: pixels (`pixels`). Invariant: heads divide the width into parts that a rotation of rows and columns fits,
//! and what comes out is as wide as the text model.

use super::SpecError;
use super::model::{FFN_MAX, HEADS_MAX, HIDDEN_MAX, LAYERS_MAX};
use super::raw::Section;
use crate::picture::{Grid, Size};

/// Most pixels along a side of the pictures that the position table was learned for.
const IMAGE_SIZE_MAX: u32 = 1 << 12;
/// Most pixels along a side of a patch.
pub(super) const PATCH_SIZE_MAX: u32 = 1 << 6;
/// Most patches along a side of a token, and most frames of a patch.
pub(super) const MERGE_MAX: u32 = 1 << 3;
/// Base of the rotary frequencies where none is said; transformers 4 knows no other.
const ROPE_THETA: f64 = 10_000.0;
/// Colours of a pixel.
const CHANNELS: u32 = 3;

/// The vision tower of a Glm4v model.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionSpec {
    /// Transformer blocks.
    pub depth: u32,
    /// Width of the tower.
    pub hidden_size: u32,
    /// Attention heads; they divide `hidden_size`.
    pub num_heads: u32,
    /// Width of the MLP of a block, and of what comes out: the text model's width.
    pub out_hidden_size: u32,
    /// Width of the merger's MLP. (The configuration's `intermediate_size`, which is not that of a block.)
    pub merger_size: u32,
    /// Pixels along a side of a patch.
    pub patch_size: u32,
    /// Frames of a patch; a still picture stands in each.
    pub temporal_patch_size: u32,
    /// Patches along a side of what becomes one token.
    pub merge_size: u32,
    /// Patches along a side of the learned position table.
    pub table_side: u32,
    /// Added to the variance in every RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// The token that stands where a picture's embeddings go.
    pub image_token_id: u32,
}

impl VisionSpec {
    /// Reads `vision_config` for a text model of `text_hidden_size` and `vocab_size`.
    pub(super) fn from_sections(
        root: Section<'_>,
        vision: Section<'_>,
        text_hidden_size: u32,
        vocab_size: u32,
    ) -> Result<Self, SpecError> {
        fixed(vision, text_hidden_size)?;
        let hidden_size = vision.required("hidden_size", 1..=HIDDEN_MAX)?;
        let num_heads = vision.required("num_heads", 1..=HEADS_MAX)?;
        // Half of a head turns with the row and half with the column, each in pairs.
        if !hidden_size.is_multiple_of(num_heads) || !(hidden_size / num_heads).is_multiple_of(4) {
            let expected = format!("heads of a multiple of 4 elements that make up hidden_size ({hidden_size})");
            return Err(vision.invalid("num_heads", expected, num_heads));
        }
        let patch_size = vision.number("patch_size", 1..=PATCH_SIZE_MAX)?.unwrap_or(14);
        let image_size = vision.number("image_size", patch_size..=IMAGE_SIZE_MAX)?.unwrap_or(336);
        Ok(Self {
            depth: vision.required("depth", 1..=LAYERS_MAX)?,
            hidden_size,
            num_heads,
            out_hidden_size: text_hidden_size,
            merger_size: vision.required("intermediate_size", 1..=FFN_MAX)?,
            patch_size,
            temporal_patch_size: vision.number("temporal_patch_size", 1..=MERGE_MAX)?.unwrap_or(2),
            merge_size: vision.number("spatial_merge_size", 1..=MERGE_MAX)?.unwrap_or(2),
            table_side: image_size / patch_size,
            rms_norm_eps: vision.float("rms_norm_eps", 1e-12..=1e-1)?.unwrap_or(1e-5),
            rope_theta: rope_theta(vision)?,
            image_token_id: root.required("image_token_id", 0..=vocab_size - 1)?,
        })
    }

    /// Elements of a head.
    #[must_use]
    pub fn head_dim(&self) -> u32 {
        self.hidden_size / self.num_heads
    }

    /// Values of a patch: colours, frames, rows, columns.
    #[must_use]
    pub fn patch_elements(&self) -> u32 {
        CHANNELS * self.temporal_patch_size * self.patch_size * self.patch_size
    }

    /// How a picture of `size` pixels is cut; `None` where its sides are not whole tokens, or it is too large for any tower.
    #[must_use]
    pub fn grid(&self, size: Size) -> Option<Grid> {
        Grid::of_pixels(size, self.patch_size, self.merge_size)
    }

    /// Patches of a token.
    #[must_use]
    pub fn merged_patches(&self) -> u32 {
        self.merge_size * self.merge_size
    }
}

/// Keys that may say one thing only.
fn fixed(vision: Section<'_>, text_hidden_size: u32) -> Result<(), SpecError> {
    if let Some(act) = vision.text("hidden_act")?
        && act != "silu"
    {
        return Err(vision.invalid("hidden_act", "silu", act));
    }
    if vision.flag("attention_bias")? == Some(true) {
        return Err(vision.invalid("attention_bias", "false", true));
    }
    if let Some(channels) = vision.number("in_channels", 1..=CHANNELS)?
        && channels != CHANNELS
    {
        return Err(vision.invalid("in_channels", CHANNELS, channels));
    }
    let width = vision.required("out_hidden_size", 1..=HIDDEN_MAX)?;
    if width != text_hidden_size {
        let expected = format!("text_config.hidden_size ({text_hidden_size})");
        return Err(vision.invalid("out_hidden_size", expected, width));
    }
    Ok(())
}

fn rope_theta(vision: Section<'_>) -> Result<f64, SpecError> {
    let Some(rope) = vision.child("rope_parameters")? else { return Ok(ROPE_THETA) };
    if let Some(kind) = rope.text("rope_type")?
        && !matches!(kind, "default" | "axial")
    {
        return Err(rope.invalid("rope_type", "axial", kind));
    }
    Ok(rope.float("rope_theta", 1.0..=1e12)?.unwrap_or(ROPE_THETA))
}
