//! How large a picture is shown to the model: sides that are whole patches, an area within the processor's limits.
//!
//! Follows transformers' Glm4v image processor, version 5 for sides below one patch (version 4 refuses those). Not here:
//! pixels. Invariant: the result's sides are multiples of a token's side, and its two-frame area is within the limits
//! wherever rounding a side up to one token lets it be.

use crate::spec::PixelSpec;

/// Longest side over shortest side, above which a picture is refused.
pub const ASPECT_MAX: f64 = 200.0;

/// Height and width, pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Size {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
}

impl Size {
    /// Pixels.
    #[must_use]
    pub fn area(self) -> u64 {
        u64::from(self.height) * u64::from(self.width)
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}×{}", self.width, self.height)
    }
}

/// A picture that no size suits.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum ResizeError {
    /// No pixels.
    #[error("a picture of {found} pixels has none to show")]
    Empty {
        /// Its size.
        found: Size,
    },
    /// Too long for its width.
    #[error("a picture of {found} pixels is longer than {ASPECT_MAX} times its other side")]
    Aspect {
        /// Its size.
        found: Size,
    },
}

/// The size at which a picture of size `found` is shown.
///
/// # Errors
/// [`ResizeError`].
pub fn smart_resize(found: Size, spec: &PixelSpec) -> Result<Size, ResizeError> {
    if found.area() == 0 {
        return Err(ResizeError::Empty { found });
    }
    let factor = f64::from(spec.factor());
    let (mut height, mut width) = (f64::from(found.height), f64::from(found.width));
    if height < factor || width < factor {
        let scale = (factor / height).max(factor / width);
        (height, width) = ((height * scale).trunc(), (width * scale).trunc());
    }
    if height.max(width) / height.min(width) > ASPECT_MAX {
        return Err(ResizeError::Aspect { found });
    }
    let frames = f64::from(spec.temporal_patch_size);
    let area = frames * height * width;
    let (least, most) = (f64::from(spec.min_pixels), f64::from(spec.max_pixels));
    // Python's round: half to even.
    let rounded = |side: f64| (side / factor).round_ties_even() * factor;
    let (mut h, mut w) = (rounded(height), rounded(width));
    if frames * h * w > most {
        let beta = (area / most).sqrt();
        let down = |side: f64| ((side / beta / factor).floor() * factor).max(factor);
        (h, w) = (down(height), down(width));
    } else if frames * h * w < least {
        let beta = (least / area).sqrt();
        let up = |side: f64| (side * beta / factor).ceil() * factor;
        (h, w) = (up(height), up(width));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a side is whole, positive and bounded"
    )]
    Ok(Size { height: h as u32, width: w as u32 })
}
