//! What a vision tower needs beside linear layers and RMS norms, as custom ops.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::{dims, expect_dims, floats, refused};
use crate::{Pool, TablePlace};

/// `weight · (x − mean(x)) / √(var(x) + eps) + bias`: `x` `[tokens, width]`, `weight` and `bias` `[width]` → the shape of x.
///
/// # Errors
/// Shapes that do not fit, operands that are not f32, contiguous and on the CPU.
pub fn layer_norm(pool: &Pool, x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    let [_, width] = dims("layer_norm", "x", x, [None, None])?;
    expect_dims("layer_norm", "weight", weight, &[width])?;
    expect_dims("layer_norm", "bias", bias, &[width])?;
    x.apply_op3_no_bwd(weight, bias, &LayerNorm { pool, eps })
}

struct LayerNorm<'a> {
    pool: &'a Pool,
    eps: f32,
}

impl CustomOp3 for LayerNorm<'_> {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        weight: &CpuStorage,
        lw: &Layout,
        bias: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = floats("layer_norm", "x", x, lx)?;
        let (weight, bias) = (floats("layer_norm", "weight", weight, lw)?, floats("layer_norm", "bias", bias, lb)?);
        let mut y = vec![0.0; x.len()];
        crate::layer_norm(self.pool, x, (weight, bias), self.eps, &mut y).map_err(refused)?;
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }
}

/// `x · (1 + erf(x / √2)) / 2` of any shape.
///
/// # Errors
/// An operand that is not f32, contiguous and on the CPU.
pub fn gelu(pool: &Pool, x: &Tensor) -> Result<Tensor> {
    x.apply_op1_no_bwd(&Gelu { pool })
}

struct Gelu<'a> {
    pool: &'a Pool,
}

impl CustomOp1 for Gelu<'_> {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = floats("gelu", "x", x, l)?;
        let mut y = vec![0.0; x.len()];
        crate::gelu(self.pool, x, &mut y).map_err(refused)?;
        Ok((CpuStorage::F32(y), l.shape().clone()))
    }
}

/// `up · silu(gate)` of two tensors of one shape.
///
/// # Errors
/// Shapes that differ, operands that are not f32, contiguous and on the CPU.
pub fn silu_mul_split(pool: &Pool, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    expect_dims("silu_mul", "up", up, gate.dims())?;
    gate.apply_op2_no_bwd(up, &SiluMulSplit { pool })
}

struct SiluMulSplit<'a> {
    pool: &'a Pool,
}

impl CustomOp2 for SiluMulSplit<'_> {
    fn name(&self) -> &'static str {
        "silu_mul"
    }

    fn cpu_fwd(&self, gate: &CpuStorage, lg: &Layout, up: &CpuStorage, lu: &Layout) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (floats("silu_mul", "gate", gate, lg)?, floats("silu_mul", "up", up, lu)?);
        let mut y = vec![0.0; gate.len()];
        crate::silu_mul_split(self.pool, gate, up, &mut y).map_err(refused)?;
        Ok((CpuStorage::F32(y), lg.shape().clone()))
    }
}

/// `x[i] + table at places[i]` between the rows of `table` `[side, side, width]`: `x` `[places, width]` → the shape of x.
///
/// # Errors
/// Shapes that do not fit, operands that are not f32, contiguous and on the CPU.
pub fn add_bicubic(pool: &Pool, table: &Tensor, places: &[TablePlace], x: &Tensor) -> Result<Tensor> {
    let [side, _, width] = dims("add_bicubic", "table", table, [None, table.dims().first().copied(), None])?;
    expect_dims("add_bicubic", "x", x, &[places.len(), width])?;
    x.apply_op2_no_bwd(table, &AddBicubic { pool, side, places })
}

struct AddBicubic<'a> {
    pool: &'a Pool,
    side: usize,
    places: &'a [TablePlace],
}

impl CustomOp2 for AddBicubic<'_> {
    fn name(&self) -> &'static str {
        "add_bicubic"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, table: &CpuStorage, lt: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, table) = (floats("add_bicubic", "x", x, lx)?, floats("add_bicubic", "table", table, lt)?);
        let mut y = vec![0.0; x.len()];
        crate::add_bicubic(self.pool, (table, self.side), self.places, x, &mut y).map_err(refused)?;
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }
}

/// Every patch of a picture attends to every patch: `qkv` `[patches, 3 · heads · head_dim]`, `cos` and `sin` `[patches,
/// head_dim / 2]` → `[patches, heads · head_dim]`. Queries and keys are turned first.
///
/// # Errors
/// Shapes that do not fit, operands that are not f32, contiguous and on the CPU.
pub fn picture_attention(
    pool: &Pool,
    qkv: &Tensor,
    (heads, head_dim): (usize, usize),
    (cos, sin): (&Tensor, &Tensor),
    scale: f32,
) -> Result<Tensor> {
    let [patches, _] = dims("picture_attention", "qkv", qkv, [None, Some(3 * heads * head_dim)])?;
    expect_dims("picture_attention", "cos", cos, &[patches, head_dim / 2])?;
    expect_dims("picture_attention", "sin", sin, &[patches, head_dim / 2])?;
    qkv.apply_op3_no_bwd(cos, sin, &PictureAttention { pool, patches, heads, head_dim, scale })
}

struct PictureAttention<'a> {
    pool: &'a Pool,
    patches: usize,
    heads: usize,
    head_dim: usize,
    scale: f32,
}

impl CustomOp3 for PictureAttention<'_> {
    fn name(&self) -> &'static str {
        "picture_attention"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        lq: &Layout,
        cos: &CpuStorage,
        lc: &Layout,
        sin: &CpuStorage,
        ls: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let qkv = floats("picture_attention", "qkv", qkv, lq)?;
        let angles = (floats("picture_attention", "cos", cos, lc)?, floats("picture_attention", "sin", sin, ls)?);
        let shape = (self.patches, self.heads * self.head_dim);
        let mut out = vec![0.0; shape.0 * shape.1];
        let heads = (self.heads, self.head_dim);
        crate::picture_attention(self.pool, qkv, heads, angles, self.scale, &mut out).map_err(refused)?;
        Ok((CpuStorage::F32(out), Shape::from(shape)))
    }
}
