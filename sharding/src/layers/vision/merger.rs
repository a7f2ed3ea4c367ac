//! From patches to tokens: each square of patches becomes one vector as wide as the text model's.
//!
//! Invariant: a token's patches stand one after the other, so that the convolution over them is one product over their
//! concatenation.

use candle_core::Tensor;
use kernels::{PackedLinear, Pool};

use super::VisionError;
use crate::layers::observer::{Observer, Point, VisionTap};
use crate::layers::{LoadError, Loader};
use crate::partition::VISION_PREFIX;
use crate::spec::VisionSpec;

/// The layer norm's own, whatever the configuration says of the RMS norms: PyTorch's default.
const LAYER_NORM_EPS: f32 = 1e-5;

/// Convolution with a stride of its own size, projection, norm, GELU and a gated MLP.
#[derive(Debug)]
pub(super) struct Merger {
    /// `[out, patches of a token * hidden]`, patch by patch.
    downsample: PackedLinear,
    downsample_bias: Tensor,
    proj: PackedLinear,
    norm_weight: Tensor,
    norm_bias: Tensor,
    gate: PackedLinear,
    up: PackedLinear,
    down: PackedLinear,
    merged_patches: usize,
}

impl Merger {
    pub(super) fn load(loader: &mut Loader<'_>, spec: &VisionSpec) -> Result<Self, LoadError> {
        let name = |which: &str| format!("{VISION_PREFIX}.{which}");
        let merged = spec.merged_patches() as usize;
        let hidden = spec.hidden_size as usize;
        // Stored channel by channel with the patches of a token inside; the input has it the other way round.
        let downsample = loader.whole_in_order(&name("downsample.weight"), |stored, to| {
            for (channel, of_patches) in stored.chunks_exact(merged).enumerate() {
                for (patch, weight) in of_patches.iter().enumerate() {
                    to[patch * hidden + channel] = *weight;
                }
            }
        })?;
        Ok(Self {
            downsample,
            downsample_bias: loader.vector(&name("downsample.bias"))?,
            proj: loader.whole(&name("merger.proj.weight"))?,
            norm_weight: loader.vector(&name("merger.post_projection_norm.weight"))?,
            norm_bias: loader.vector(&name("merger.post_projection_norm.bias"))?,
            gate: loader.whole(&name("merger.gate_proj.weight"))?,
            up: loader.whole(&name("merger.up_proj.weight"))?,
            down: loader.whole(&name("merger.down_proj.weight"))?,
            merged_patches: merged,
        })
    }

    /// `x` `[patches, hidden]` → `[tokens, out]`.
    pub(super) fn forward(&self, pool: &Pool, x: &Tensor, observer: &mut dyn Observer) -> Result<Tensor, VisionError> {
        let mut see = |tap: VisionTap, value: &Tensor| observer.see(Point::Vision(tap), value);
        let (patches, hidden) = x.dims2()?;
        let x = x.reshape((patches / self.merged_patches, self.merged_patches * hidden))?;
        let x = kernels::ops::linear(&self.downsample, pool, &x, Some(&self.downsample_bias))?;
        see(VisionTap::Downsample, &x);
        let x = kernels::ops::linear(&self.proj, pool, &x, None)?;
        see(VisionTap::MergerProjection, &x);
        let x = kernels::ops::layer_norm(pool, &x, &self.norm_weight, &self.norm_bias, LAYER_NORM_EPS)?;
        see(VisionTap::MergerNorm, &x);
        let x = kernels::ops::gelu(pool, &x)?;
        let gate = kernels::ops::linear(&self.gate, pool, &x, None)?;
        let up = kernels::ops::linear(&self.up, pool, &x, None)?;
        let x = kernels::ops::linear(&self.down, pool, &kernels::ops::silu_mul_split(pool, &gate, &up)?, None)?;
        see(VisionTap::Merger, &x);
        Ok(x)
    }
}
