//! Linear layers as custom ops.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use super::{dims, expect_dims, floats, refused};
use crate::{PackedLinear, Pool, SumTree};

/// `x · Wᵀ + bias`: `x` `[tokens, in_features]`, `bias` `[out_features]` → `[tokens, out_features]`.
///
/// # Errors
/// Shapes that do not fit, operands that are not f32, contiguous and on the CPU.
pub fn linear(weights: &PackedLinear, pool: &Pool, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let [tokens, _] = dims("linear", "x", x, [None, Some(weights.in_features())])?;
    let op = Linear { weights, pool, tokens };
    match bias {
        None => x.apply_op1_no_bwd(&op),
        Some(bias) => {
            expect_dims("linear", "bias", bias, &[weights.out_features()])?;
            x.apply_op2_no_bwd(bias, &op)
        }
    }
}

/// One product a tree: `x` `[tokens, in_features]` → `[trees, tokens, out_features]`.
///
/// # Errors
/// As [`linear`]; trees that reach past the input or are too deep.
pub fn linear_trees(weights: &PackedLinear, pool: &Pool, x: &Tensor, trees: &[SumTree]) -> Result<Tensor> {
    let [tokens, _] = dims("linear_trees", "x", x, [None, Some(weights.in_features())])?;
    x.apply_op1_no_bwd(&LinearTrees { weights, pool, tokens, trees })
}

struct Linear<'a> {
    weights: &'a PackedLinear,
    pool: &'a Pool,
    tokens: usize,
}

impl Linear<'_> {
    fn run(&self, x: &[f32], bias: Option<&[f32]>) -> Result<(CpuStorage, Shape)> {
        let out_features = self.weights.out_features();
        let mut y = vec![0.0; self.tokens * out_features];
        self.weights.forward(self.pool, x, bias, &mut y).map_err(refused)?;
        Ok((CpuStorage::F32(y), Shape::from((self.tokens, out_features))))
    }
}

impl CustomOp1 for Linear<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run(floats("linear", "x", x, l)?, None)
    }
}

impl CustomOp2 for Linear<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, bias: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run(floats("linear", "x", x, lx)?, Some(floats("linear", "bias", bias, lb)?))
    }
}

struct LinearTrees<'a> {
    weights: &'a PackedLinear,
    pool: &'a Pool,
    tokens: usize,
    trees: &'a [SumTree],
}

impl CustomOp1 for LinearTrees<'_> {
    fn name(&self) -> &'static str {
        "linear_trees"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = (self.trees.len(), self.tokens, self.weights.out_features());
        let mut y = vec![0.0; shape.0 * shape.1 * shape.2];
        let x = floats("linear_trees", "x", x, l)?;
        self.weights.forward_trees(self.pool, x, self.trees, &mut y).map_err(refused)?;
        Ok((CpuStorage::F32(y), Shape::from(shape)))
    }
}
