//! Linear layers over packed weights. Not here: how a layer is cut over ranks, and quantised weights.
//!
//! Invariant: output `[row, o]` is one sum over the input in the order its [`SumTree`] gives, by fused multiply-add in
//! f32, and depends on nothing else: not on the other rows, the threads or the instruction set.

mod gemm;
pub(crate) mod micro;
mod pack;
mod tree;

use half::bf16;

use pack::Panels;
pub use pack::WeightType;
pub use tree::{SUM_TREE_DEPTH_MAX, SumTree};

use crate::Pool;
use crate::error::{KernelError, expect_len};

/// Weights `[out_features, in_features]`, packed for the kernels.
#[derive(Debug, Clone)]
pub struct PackedLinear {
    out_features: usize,
    in_features: usize,
    panels: Panels,
}

impl PackedLinear {
    /// Packs `weights` `[out_features, in_features]`, kept as f32.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when there are not that many.
    pub fn from_f32(out_features: usize, in_features: usize, weights: &[f32]) -> Result<Self, KernelError> {
        expect_len("linear", "weights", weights.len(), &[out_features, in_features])?;
        Ok(Self::from_rows(out_features, in_features, WeightType::F32, |row, to| {
            to.copy_from_slice(&weights[row * in_features..][..in_features]);
        }))
    }

    /// Packs `weights` `[out_features, in_features]`, kept as bf16.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when there are not that many.
    pub fn from_bf16(out_features: usize, in_features: usize, weights: &[bf16]) -> Result<Self, KernelError> {
        expect_len("linear", "weights", weights.len(), &[out_features, in_features])?;
        Ok(Self::from_rows(out_features, in_features, WeightType::Bf16, |row, to| {
            for (to, w) in to.iter_mut().zip(&weights[row * in_features..]) {
                *to = w.to_f32();
            }
        }))
    }

    /// Packs rows that `fill(row, to)` writes into `to` `[in_features]`, in order: for weights that lie elsewhere in
    /// another shape or type. As [`WeightType::Bf16`] they are rounded to nearest even.
    #[must_use]
    pub fn from_rows(
        out_features: usize,
        in_features: usize,
        weight_type: WeightType,
        fill: impl FnMut(usize, &mut [f32]),
    ) -> Self {
        Self { out_features, in_features, panels: Panels::pack(out_features, in_features, weight_type, fill) }
    }

    /// No weights: the layer of a rank that owns none of the outputs, or none of the inputs.
    #[must_use]
    pub fn empty(out_features: usize, in_features: usize) -> Self {
        Self::from_rows(out_features, in_features, WeightType::F32, |_, _| ())
    }

    /// Rows of the weights.
    #[must_use]
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Columns of the weights.
    #[must_use]
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// How weights are stored.
    #[must_use]
    pub fn weight_type(&self) -> WeightType {
        match self.panels {
            Panels::F32(_) => WeightType::F32,
            Panels::Bf16(_) => WeightType::Bf16,
        }
    }

    /// Bytes that the packed weights hold, the filling of the last tile included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.panels.bytes()
    }

    /// `y = x · Wᵀ + bias`: `x` `[tokens, in_features]`, `bias` `[out_features]`, `y` `[tokens, out_features]`. The sum
    /// runs over all columns in ascending order; the bias is added last.
    ///
    /// # Errors
    /// [`KernelError::Shape`].
    pub fn forward(&self, pool: &Pool, x: &[f32], bias: Option<&[f32]>, y: &mut [f32]) -> Result<(), KernelError> {
        let tokens = self.tokens(x.len(), y.len(), 1);
        expect_len("linear", "x", x.len(), &[tokens, self.in_features])?;
        expect_len("linear", "y", y.len(), &[tokens, self.out_features])?;
        if let Some(bias) = bias {
            expect_len("linear", "bias", bias.len(), &[self.out_features])?;
        }
        self.multiply(pool, x, tokens, &[SumTree::whole(self.in_features)], bias, y);
        Ok(())
    }

    /// One product a tree: `x` `[tokens, in_features]`, `y` `[trees, tokens, out_features]`. Columns that no tree names
    /// are left out.
    ///
    /// # Errors
    /// [`KernelError::Shape`], [`KernelError::Columns`], [`KernelError::TreeDepth`].
    pub fn forward_trees(&self, pool: &Pool, x: &[f32], trees: &[SumTree], y: &mut [f32]) -> Result<(), KernelError> {
        let tokens = self.tokens(x.len(), y.len(), trees.len());
        expect_len("linear_trees", "x", x.len(), &[tokens, self.in_features])?;
        expect_len("linear_trees", "y", y.len(), &[trees.len(), tokens, self.out_features])?;
        trees.iter().try_for_each(|t| t.check(self.in_features))?;
        self.multiply(pool, x, tokens, trees, None, y);
        Ok(())
    }

    /// Tokens that the operands speak of; where x has no columns only y can tell.
    fn tokens(&self, x: usize, y: usize, trees: usize) -> usize {
        match (self.in_features, self.out_features.saturating_mul(trees)) {
            (0, 0) => 0,
            (0, row) => y / row,
            (row, _) => x / row,
        }
    }

    fn multiply(&self, pool: &Pool, x: &[f32], tokens: usize, trees: &[SumTree], bias: Option<&[f32]>, y: &mut [f32]) {
        let shape = gemm::Shape { tokens, in_features: self.in_features, out_features: self.out_features };
        match &self.panels {
            Panels::F32(panels) => gemm::multiply(pool, shape, panels, x, trees, bias, y),
            Panels::Bf16(panels) => gemm::multiply(pool, shape, panels, x, trees, bias, y),
        }
    }
}
