//! A linear layer that divides its output: each rank computes the rows of the weight that it owns, from the whole
//! input, and nothing is exchanged.
//!
//! Not here: what the rows mean (heads, gate and up). Invariant: a row's result is one sum in one order, so it does
//! not depend on who owns it.

use candle_core::Tensor;
use kernels::{PackedLinear, Pool};

use super::loader::Along;
use super::{LoadError, Loader, StepError};

/// `y = x · Wᵀ + b` over this rank's output rows.
#[derive(Debug)]
pub struct ColumnParallel {
    weight: PackedLinear,
    bias: Option<Tensor>,
}

impl ColumnParallel {
    /// Loads `{name}.weight`, cut by output rows, and `{name}.bias` where the model has one.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(loader: &mut Loader<'_>, name: &str) -> Result<Self, LoadError> {
        let weight = loader.packed(&format!("{name}.weight"), Along::Rows)?;
        let bias = format!("{name}.bias");
        let bias = if loader.has(&bias) { Some(loader.vector(&bias)?) } else { None };
        Ok(Self { weight, bias })
    }

    /// `x` `[tokens, in]` → `[tokens, out of this rank]`.
    ///
    /// # Errors
    /// [`StepError::Tensor`].
    pub fn forward(&self, pool: &Pool, x: &Tensor) -> Result<Tensor, StepError> {
        Ok(kernels::ops::linear(&self.weight, pool, x, self.bias.as_ref())?)
    }
}
