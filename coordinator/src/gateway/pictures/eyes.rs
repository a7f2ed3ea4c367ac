//! How a model version sees: what its processor and configuration say of pictures.

use std::path::Path;

use protocol::PictureLimits;
use sharding::{CheckpointError, ModelSpec, PixelSpec, checkpoint};

/// What a gateway needs to know of a vision tower.
#[derive(Debug, Clone)]
pub(in crate::gateway) struct Eyes {
    /// Sizes, with the checkpoint's own limits.
    pixels: PixelSpec,
    /// The token that stands for a picture in a prompt.
    pub(in crate::gateway) token: u32,
}

impl Eyes {
    /// Of the checkpoint in `dir`; `None` where it reads text alone. Blocking.
    ///
    /// # Errors
    /// Those of `preprocessor_config.json`.
    pub(in crate::gateway) fn read(dir: &Path, spec: &ModelSpec) -> Result<Option<Self>, CheckpointError> {
        let Some(vision) = &spec.vision else { return Ok(None) };
        let pixels = checkpoint::read_pixel_spec(dir, vision)?;
        Ok(Some(Self { pixels, token: vision.image_token_id }))
    }

    /// Sizes under a deployment's limits.
    pub(super) fn pixels(&self, limits: PictureLimits) -> PixelSpec {
        PixelSpec { max_pixels: limits.pixels_max, ..self.pixels }
    }
}
