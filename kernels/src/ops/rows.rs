//! The kernels that work row by row, as custom ops.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::{dims, expect_dims, floats, refused};
use crate::{EmbeddingTable, KernelError, Pool, RotaryStyle};

/// `weight · (x / √(mean(x²) + eps))`: `x` `[tokens, width]`, `weight` `[width]` → `[tokens, width]`.
///
/// # Errors
/// Shapes that do not fit, operands that are not f32, contiguous and on the CPU.
pub fn rms_norm(pool: &Pool, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let [_, width] = dims("rms_norm", "x", x, [None, None])?;
    expect_dims("rms_norm", "weight", weight, &[width])?;
    x.apply_op2_no_bwd(weight, &RmsNorm { pool, eps })
}

struct RmsNorm<'a> {
    pool: &'a Pool,
    eps: f32,
}

impl CustomOp2 for RmsNorm<'_> {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, weight: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (floats("rms_norm", "x", x, lx)?, floats("rms_norm", "weight", weight, lw)?);
        let mut y = vec![0.0; x.len()];
        crate::rms_norm(self.pool, x, weight, self.eps, &mut y).map_err(refused)?;
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }
}

/// `up · silu(gate)` of `gate_up` `[tokens, 2 · width]`, the gate half first → `[tokens, width]`.
///
/// # Errors
/// An odd last dimension; an operand that is not f32, contiguous and on the CPU.
pub fn silu_mul(pool: &Pool, gate_up: &Tensor) -> Result<Tensor> {
    let [_, both] = dims("silu_mul", "gate_up", gate_up, [None, None])?;
    dims("silu_mul", "gate_up", gate_up, [None, Some(both / 2 * 2)])?;
    gate_up.apply_op1_no_bwd(&SiluMul { pool, width: both / 2 })
}

struct SiluMul<'a> {
    pool: &'a Pool,
    width: usize,
}

impl CustomOp1 for SiluMul<'_> {
    fn name(&self) -> &'static str {
        "silu_mul"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut y = vec![0.0; l.shape().elem_count() / 2];
        crate::silu_mul(self.pool, floats("silu_mul", "gate_up", x, l)?, self.width, &mut y).map_err(refused)?;
        Ok((CpuStorage::F32(y), Shape::from((l.dims()[0], self.width))))
    }
}

/// Turns the first `2 · pairs` dimensions of each head: `x` `[tokens, heads, head_dim]`, `cos` and `sin` `[tokens, pairs]`
/// → the shape of x.
///
/// # Errors
/// Shapes that do not fit, operands that are not f32, contiguous and on the CPU.
pub fn rotary(style: RotaryStyle, x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let [tokens, heads, head_dim] = dims("rotary", "x", x, [None, None, None])?;
    let [_, pairs] = dims("rotary", "cos", cos, [Some(tokens), None])?;
    expect_dims("rotary", "sin", sin, &[tokens, pairs])?;
    x.apply_op3_no_bwd(cos, sin, &Rotary { style, heads, head_dim, rot: 2 * pairs })
}

struct Rotary {
    style: RotaryStyle,
    heads: usize,
    head_dim: usize,
    rot: usize,
}

impl CustomOp3 for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        cos: &CpuStorage,
        lc: &Layout,
        sin: &CpuStorage,
        ls: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let mut y = floats("rotary", "x", x, lx)?.to_vec();
        let (cos, sin) = (floats("rotary", "cos", cos, lc)?, floats("rotary", "sin", sin, ls)?);
        let shape = (self.heads, self.head_dim, self.rot);
        crate::rotary(self.style, &mut y, shape, cos, sin).map_err(refused)?;
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }
}

/// Rows `first..first + rows` of an embedding, which other ranks hold the rest of.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// `[rows, width]`, f32 or bf16.
    pub table: Tensor,
    /// Token id of row 0.
    pub first: u32,
}

/// The row of each id → `[ids, width]` in f32; zeros for an id whose row is not here.
///
/// # Errors
/// A table that is not two-dimensional, contiguous, on the CPU, and f32 or bf16.
pub fn embed_rows(embedding: &Embedding, ids: &[u32]) -> Result<Tensor> {
    let [_, width] = dims("embed_rows", "table", &embedding.table, [None, None])?;
    embedding.table.apply_op1_no_bwd(&EmbedRows { first: embedding.first, width, ids })
}

struct EmbedRows<'a> {
    first: u32,
    width: usize,
    ids: &'a [u32],
}

impl CustomOp1 for EmbedRows<'_> {
    fn name(&self) -> &'static str {
        "embed_rows"
    }

    fn cpu_fwd(&self, table: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let table = match table {
            CpuStorage::BF16(all) => {
                let Some((start, end)) = l.contiguous_offsets() else {
                    let (shape, strides) = (l.dims().to_vec(), l.stride().to_vec());
                    return Err(refused(KernelError::Layout { op: "embed_rows", operand: "table", shape, strides }));
                };
                EmbeddingTable::Bf16(&all[start..end])
            }
            _ => EmbeddingTable::F32(floats("embed_rows", "table", table, l)?),
        };
        let mut y = vec![0.0; self.ids.len() * self.width];
        crate::embed_rows(table, self.first, self.width, self.ids, &mut y).map_err(refused)?;
        Ok((CpuStorage::F32(y), Shape::from((self.ids.len(), self.width))))
    }
}

/// `a + b` of one shape.
///
/// # Errors
/// Shapes that differ, operands that are not f32, contiguous and on the CPU.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    expect_dims("add", "b", b, a.dims())?;
    a.apply_op2_no_bwd(b, &Add)
}

struct Add;

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        let (a, b) = (floats("add", "a", a, la)?, floats("add", "b", b, lb)?);
        let mut y = vec![0.0; a.len()];
        crate::add(a, b, &mut y).map_err(refused)?;
        Ok((CpuStorage::F32(y), la.shape().clone()))
    }
}
