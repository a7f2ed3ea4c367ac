//! The LM head, vocabulary-parallel: each rank computes the logits of its rows, and all are gathered.
//!
//! Not here: sampling. Invariant: a logit is one sum in one order, so the gathered row is the same at every world size.

use candle_core::Tensor;
use kernels::{PackedLinear, Pool};
use protocol::{Plan, Span};

use super::exchange::all_gather;
use super::loader::Along;
use super::{Group, LoadError, Loader, StepError};

/// This rank's rows of the LM head.
#[derive(Debug)]
pub struct LmHead {
    weight: PackedLinear,
    /// Rows of each rank, in rank order.
    owners: Vec<Span>,
}

impl LmHead {
    /// Loads this rank's rows of `{name}.weight`, which is the embedding's where the two are tied.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(loader: &mut Loader<'_>, name: &str, plan: &Plan) -> Result<Self, LoadError> {
        let weight = loader.packed(&format!("{name}.weight"), Along::Rows)?;
        Ok(Self { weight, owners: plan.ranks.iter().map(|r| r.cut.vocab_rows).collect() })
    }

    /// `x` `[rows, hidden]` → logits by rank, `[rows, vocabulary of rank r]` one after the other.
    ///
    /// # Errors
    /// [`StepError`].
    pub fn forward(&self, pool: &Pool, group: &mut dyn Group, x: &Tensor) -> Result<Vec<f32>, StepError> {
        let rows = x.dim(0)?;
        let mine = kernels::ops::linear(&self.weight, pool, x, None)?;
        let counts: Vec<usize> = self.owners.iter().map(|s| rows * s.range().len()).collect();
        all_gather(group, &counts, &mine)
    }

    /// What [`Self::forward`] gathered, as `[rows, vocabulary]`.
    #[must_use]
    pub fn by_rows(&self, gathered: &[f32], rows: usize) -> Vec<f32> {
        let mut logits = Vec::with_capacity(gathered.len());
        for row in 0..rows {
            let mut at = 0;
            for owner in &self.owners {
                let width = owner.range().len();
                logits.extend_from_slice(&gathered[at + row * width..at + (row + 1) * width]);
                at += rows * width;
            }
        }
        logits
    }
}
