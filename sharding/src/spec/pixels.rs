//! What `preprocessor_config.json` says a picture is made into before the model sees it.
//!
//! Not here: doing it ([`crate::picture`]). Invariant: sizes are bounded and not 0, deviations are not 0, and the
//! limits leave room for one token.

use serde_json::{Map, Value};

use super::raw::{Section, object};
use super::vision::{MERGE_MAX, PATCH_SIZE_MAX};
use super::{SpecError, VisionSpec};

/// The file, for messages.
const FILE: &str = "preprocessor_config.json";
/// Most pixels of a picture, over all frames, that a limit may allow.
const PIXELS_MAX: u32 = 1 << 28;

/// How pictures are sized, normalised and cut into patches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PixelSpec {
    /// Pixels along a side of a patch.
    pub patch_size: u32,
    /// Patches along a side of what becomes one token.
    pub merge_size: u32,
    /// Frames of a patch.
    pub temporal_patch_size: u32,
    /// Taken from each colour, after levels were scaled to 0..=1.
    pub mean: [f32; 3],
    /// Then each colour is divided by it; not 0.
    pub std: [f32; 3],
    /// Least pixels of a picture, counted over `temporal_patch_size` frames.
    pub min_pixels: u32,
    /// Most pixels of a picture, counted over `temporal_patch_size` frames.
    pub max_pixels: u32,
}

impl PixelSpec {
    /// Reads the text of a `preprocessor_config.json`; what is not said is as in transformers' Glm4v image processor.
    ///
    /// # Errors
    /// [`SpecError`] naming the key, what was expected and what was found.
    pub fn from_preprocessor_json(text: &str) -> Result<Self, SpecError> {
        let value = object(FILE, text)?;
        Self::from_map(&value)
    }

    fn from_map(map: &Map<String, Value>) -> Result<Self, SpecError> {
        let root = Section::root(FILE, map);
        for key in ["do_rescale", "do_normalize", "do_resize"] {
            if root.flag(key)? == Some(false) {
                return Err(root.invalid(key, true, false));
            }
        }
        if let Some(factor) = root.float("rescale_factor", 0.0..=1.0)?
            && (factor * 255.0 - 1.0).abs() > 1e-9
        {
            return Err(root.invalid("rescale_factor", "1/255", factor));
        }
        // 3 is Pillow's bicubic.
        if let Some(resample) = root.number("resample", 0..=5)?
            && resample != 3
        {
            return Err(root.invalid("resample", "3 (bicubic)", resample));
        }
        let patch_size = root.number("patch_size", 1..=PATCH_SIZE_MAX)?.unwrap_or(14);
        let merge_size = root.number("merge_size", 1..=MERGE_MAX)?.unwrap_or(2);
        let temporal_patch_size = root.number("temporal_patch_size", 1..=MERGE_MAX)?.unwrap_or(2);
        let token = temporal_patch_size * (patch_size * merge_size).pow(2);
        let size = root.child("size")?;
        let limit = |key: &str, default: u32| match size {
            Some(size) => Ok(size.number(key, 1..=PIXELS_MAX)?.unwrap_or(default)),
            None => Ok(default),
        };
        let (min_pixels, max_pixels) = (limit("shortest_edge", 112 * 112)?, limit("longest_edge", 28 * 28 * 15_000)?);
        if max_pixels < min_pixels.max(token) {
            let expected = format!("at least shortest_edge ({min_pixels}) and one token ({token})");
            return Err(size.unwrap_or(root).invalid("longest_edge", expected, max_pixels));
        }
        Ok(Self {
            patch_size,
            merge_size,
            temporal_patch_size,
            // CLIP's.
            mean: colours(root, "image_mean", 0.0, [0.481_454_66, 0.457_827_5, 0.408_210_73])?,
            std: colours(root, "image_std", 1e-3, [0.268_629_54, 0.261_302_6, 0.275_777_1])?,
            min_pixels,
            max_pixels,
        })
    }

    /// Whether patches are cut as the tower takes them.
    ///
    /// # Errors
    /// [`SpecError::Invalid`] naming the key that differs.
    pub fn check(&self, vision: &VisionSpec) -> Result<(), SpecError> {
        for (key, found, expected, of) in [
            ("patch_size", self.patch_size, vision.patch_size, "patch_size"),
            ("merge_size", self.merge_size, vision.merge_size, "spatial_merge_size"),
            ("temporal_patch_size", self.temporal_patch_size, vision.temporal_patch_size, "temporal_patch_size"),
        ] {
            if found != expected {
                return Err(SpecError::Invalid {
                    file: FILE,
                    key: key.to_owned(),
                    expected: format!("vision_config.{of} of config.json ({expected})"),
                    found: found.to_string(),
                });
            }
        }
        Ok(())
    }

    /// Values of a patch: colours, frames, rows, columns.
    #[must_use]
    pub fn patch_elements(&self) -> usize {
        (3 * self.temporal_patch_size * self.patch_size * self.patch_size) as usize
    }

    /// Pixels along a side of a token: a picture's sides are multiples of it.
    #[must_use]
    pub fn factor(&self) -> u32 {
        self.patch_size * self.merge_size
    }
}

/// Three numbers in `min..=10`.
fn colours(root: Section<'_>, key: &str, min: f64, default: [f32; 3]) -> Result<[f32; 3], SpecError> {
    let Some(value) = root.get(key) else { return Ok(default) };
    let number = |v: &Value| v.as_f64().filter(|x| (min..=10.0).contains(x));
    let all: Option<Vec<f64>> = value.as_array().and_then(|list| list.iter().map(number).collect());
    let all = all.and_then(|all| <[f64; 3]>::try_from(all).ok());
    #[expect(clippy::cast_possible_truncation, reason = "the reference keeps them as f32")]
    let narrow = |x: f64| x as f32;
    let expected = format_args!("three numbers {min:e}..=10").to_string();
    all.map(|all| all.map(narrow)).ok_or_else(|| root.invalid(key, expected, value))
}
