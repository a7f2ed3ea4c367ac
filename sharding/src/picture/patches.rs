//! From 8-bit RGB to the tower's input: levels normalised, pixels in the order of patches.
//!
//! Invariant: a value is `(level / 255 − mean) / std` with the reference's roundings: the scaled level to f32, then each
//! operation in f32.

use super::{Grid, Rgb, Size};
use crate::spec::PixelSpec;

/// A picture that has no patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a picture of {found} pixels: expected sides of whole {factor} pixels and at most {} patches",
    Grid::PATCHES_MAX
)]
pub struct PatchError {
    /// Its size.
    pub found: Size,
    /// Pixels along a side of a token.
    pub factor: u32,
}

/// The patches of a picture of whole tokens and how they lie: `[patches, colours, frames, patch rows, patch columns]`
/// flat, a still picture standing in every frame.
///
/// # Errors
/// [`PatchError`].
pub fn patches(picture: &Rgb, spec: &PixelSpec) -> Result<(Vec<f32>, Grid), PatchError> {
    let (size, side) = (picture.size(), spec.patch_size);
    let refused = PatchError { found: size, factor: spec.factor() };
    let grid = Grid::of_pixels(size, side, spec.merge_size).ok_or(refused)?;
    let values = [0, 1, 2].map(|colour| normalised(spec.mean[colour], spec.std[colour]));
    let (side, width) = (side as usize, size.width as usize);
    let mut out = Vec::with_capacity(grid.patches() as usize * spec.patch_elements());
    for (row, column) in grid.places() {
        let (top, left) = (row as usize * side, column as usize * side);
        for (colour, values) in values.iter().enumerate() {
            let frame = out.len();
            for y in top..top + side {
                let line = &picture.pixels()[(y * width + left) * 3..][..side * 3];
                let (pixels, _) = line.as_chunks::<3>();
                out.extend(pixels.iter().map(|pixel| values[usize::from(pixel[colour])]));
            }
            for _ in 1..spec.temporal_patch_size {
                out.extend_from_within(frame..frame + side * side);
            }
        }
    }
    Ok((out, grid))
}

/// The value of each level of one colour.
fn normalised(mean: f32, std: f32) -> [f32; 256] {
    #[expect(clippy::cast_possible_truncation, reason = "the reference keeps scaled levels as f32")]
    std::array::from_fn(|level| ((level as f64 * (1.0 / 255.0)) as f32 - mean) / std)
}
