//! One block of the tower: attention within the picture and a gated MLP, each behind a norm.
//!
//! Invariant: beside a few streams of `[patches, hidden]`, memory does not grow with the picture: the MLP takes
//! [`MLP_ROWS`] patches at a time.

use candle_core::Tensor;
use kernels::{PackedLinear, Pool};

use super::VisionError;
use crate::layers::observer::{Observer, Point, VisionTap};
use crate::layers::{LoadError, Loader, RmsNorm};
use crate::partition::VISION_PREFIX;
use crate::spec::VisionSpec;

/// Patches that go through the MLP together; a multiple of what one pass over packed weights takes.
const MLP_ROWS: usize = 384;

/// A transformer block.
#[derive(Debug)]
pub(super) struct VisionBlock {
    index: usize,
    attention_norm: RmsNorm,
    /// `[3 * hidden, hidden]`: queries, keys, values.
    qkv: PackedLinear,
    proj: PackedLinear,
    mlp_norm: RmsNorm,
    gate: PackedLinear,
    up: PackedLinear,
    down: PackedLinear,
    heads: usize,
    head_dim: usize,
    scale: f32,
}

impl VisionBlock {
    pub(super) fn load(loader: &mut Loader<'_>, spec: &VisionSpec, index: usize) -> Result<Self, LoadError> {
        let name = format!("{VISION_PREFIX}.blocks.{index}");
        let mut linear = |which: &str| loader.whole(&format!("{name}.{which}.weight"));
        let (qkv, proj) = (linear("attn.qkv")?, linear("attn.proj")?);
        let (gate, up, down) = (linear("mlp.gate_proj")?, linear("mlp.up_proj")?, linear("mlp.down_proj")?);
        Ok(Self {
            index,
            attention_norm: RmsNorm::load(loader, &format!("{name}.norm1"), spec.rms_norm_eps)?,
            qkv,
            proj,
            mlp_norm: RmsNorm::load(loader, &format!("{name}.norm2"), spec.rms_norm_eps)?,
            gate,
            up,
            down,
            heads: spec.num_heads as usize,
            head_dim: spec.head_dim() as usize,
            #[expect(clippy::cast_possible_truncation, reason = "scores are f32")]
            scale: f64::from(spec.head_dim()).powf(-0.5) as f32,
        })
    }

    /// `x` `[patches, hidden]` → the stream after this block; `angles` are cosine and sine, `[patches, head_dim / 2]` each.
    pub(super) fn forward(
        &self,
        pool: &Pool,
        x: &Tensor,
        angles: (&Tensor, &Tensor),
        observer: &mut dyn Observer,
    ) -> Result<Tensor, VisionError> {
        let mut see = |tap: VisionTap, value: &Tensor| observer.see(Point::Vision(tap), value);
        let normed = self.attention_norm.apply(pool, x)?;
        see(VisionTap::AttentionNorm(self.index), &normed);
        let qkv = kernels::ops::linear(&self.qkv, pool, &normed, None)?;
        drop(normed);
        see(VisionTap::QueryKeyValue(self.index), &qkv);
        let heads = (self.heads, self.head_dim);
        let attended = kernels::ops::picture_attention(pool, &qkv, heads, angles, self.scale)?;
        drop(qkv);
        let attended = kernels::ops::linear(&self.proj, pool, &attended, None)?;
        see(VisionTap::Attention(self.index), &attended);
        let x = kernels::ops::add(x, &attended)?;
        drop(attended);
        let normed = self.mlp_norm.apply(pool, &x)?;
        see(VisionTap::MlpNorm(self.index), &normed);
        let mlp = self.mlp(pool, &normed)?;
        see(VisionTap::Mlp(self.index), &mlp);
        let x = kernels::ops::add(&x, &mlp)?;
        see(VisionTap::Block(self.index), &x);
        Ok(x)
    }

    fn mlp(&self, pool: &Pool, x: &Tensor) -> Result<Tensor, VisionError> {
        let rows = x.dim(0)?;
        let mut parts = Vec::with_capacity(rows.div_ceil(MLP_ROWS));
        for first in (0..rows).step_by(MLP_ROWS) {
            let x = x.narrow(0, first, MLP_ROWS.min(rows - first))?;
            let gate = kernels::ops::linear(&self.gate, pool, &x, None)?;
            let up = kernels::ops::linear(&self.up, pool, &x, None)?;
            let gated = kernels::ops::silu_mul_split(pool, &gate, &up)?;
            parts.push(kernels::ops::linear(&self.down, pool, &gated, None)?);
        }
        Ok(Tensor::cat(&parts, 0)?)
    }
}
