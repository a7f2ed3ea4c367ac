//! Root-mean-square norm, whole on every rank.

use candle_core::Tensor;
use kernels::Pool;

use super::{LoadError, Loader, StepError};

/// `y = weight · x / √(mean(x²) + eps)`.
#[derive(Debug)]
pub struct RmsNorm {
    /// `[hidden]`.
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    /// Loads `{name}.weight`.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(loader: &mut Loader<'_>, name: &str, eps: f64) -> Result<Self, LoadError> {
        #[expect(clippy::cast_possible_truncation, reason = "the variance it is added to is f32")]
        let eps = eps as f32;
        Ok(Self { weight: loader.vector(&format!("{name}.weight"))?, eps })
    }

    /// `x` `[tokens, hidden]` → the same shape.
    ///
    /// # Errors
    /// [`StepError::Tensor`].
    pub fn forward(&self, pool: &Pool, x: &Tensor) -> Result<Tensor, StepError> {
        Ok(self.apply(pool, x)?)
    }

    /// As [`Self::forward`], outside of a step.
    pub(super) fn apply(&self, pool: &Pool, x: &Tensor) -> candle_core::Result<Tensor> {
        kernels::ops::rms_norm(pool, x, &self.weight, self.eps)
    }
}
