//! The gated MLP: gate and up column-parallel in one fused tensor, down row-parallel by 32-column blocks.
//!
//! Not here: norms. Invariant: a rank's columns of gate, of up and of down are the same columns.

use candle_core::Tensor;
use protocol::{Plan, Rank, ReductionTree};

use super::{ColumnParallel, LoadError, Loader, RowParallel, Step, StepError};
use crate::planner::mlp_cols;
use crate::spec::ModelSpec;

/// `down(up(x) · silu(gate(x)))`.
#[derive(Debug)]
pub struct Mlp {
    gate_up: ColumnParallel,
    down: RowParallel,
}

impl Mlp {
    /// Loads the two products under `name`.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(
        loader: &mut Loader<'_>,
        name: &str,
        spec: &ModelSpec,
        plan: &Plan,
        rank: Rank,
        tree: &ReductionTree,
    ) -> Result<Self, LoadError> {
        let own = plan.ranks[rank.index()].cut.mlp_cols;
        Ok(Self {
            gate_up: ColumnParallel::load(loader, &format!("{name}.gate_up_proj"))?,
            down: RowParallel::load(loader, &format!("{name}.down_proj"), rank, tree.clone(), own, |run| {
                mlp_cols(spec, run)
            })?,
        })
    }

    /// `x` `[tokens, hidden]` → `[tokens, hidden]`, all-reduced.
    ///
    /// # Errors
    /// [`StepError`].
    pub fn forward(&self, step: &mut Step<'_>, x: &Tensor) -> Result<Tensor, StepError> {
        let gate_up = self.gate_up.forward(step.pool, x)?;
        let gated = kernels::ops::silu_mul(step.pool, &gate_up)?;
        self.down.forward(step, &gated)
    }
}
