//! One GLM-4 layer: attention and MLP, each between two norms.
//!
//! Not here: the KV cache. Invariant: the norms after attention and MLP stand after their all-reduce, on whole rows.

use std::sync::Mutex;

use candle_core::Tensor;
use kernels::KvLayer;
use protocol::{Plan, Rank, ReductionTree};

use super::{Attention, LoadError, Loader, Mlp, Point, RmsNorm, Step, StepError, Tap};
use crate::spec::ModelSpec;

/// A decoder layer with GLM-4's sandwich norms.
#[derive(Debug)]
pub struct DecoderLayer {
    layer: usize,
    input_norm: RmsNorm,
    attention: Attention,
    post_attention_norm: RmsNorm,
    mlp_norm: RmsNorm,
    mlp: Mlp,
    post_mlp_norm: RmsNorm,
}

impl DecoderLayer {
    /// Loads layer number `layer`; `trees` are those of the attention output and of the MLP's down product.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(
        loader: &mut Loader<'_>,
        layer: usize,
        spec: &ModelSpec,
        plan: &Plan,
        rank: Rank,
        (heads, mlp): (&ReductionTree, &ReductionTree),
    ) -> Result<Self, LoadError> {
        let name = format!("{}.layers.{layer}", spec.family.text_prefix());
        let norm =
            |loader: &mut Loader<'_>, which: &str| RmsNorm::load(loader, &format!("{name}.{which}"), spec.rms_norm_eps);
        Ok(Self {
            layer,
            input_norm: norm(loader, "input_layernorm")?,
            attention: Attention::load(loader, &format!("{name}.self_attn"), layer, spec, plan, rank, heads)?,
            post_attention_norm: norm(loader, "post_self_attn_layernorm")?,
            // The checkpoint's `post_attention_layernorm` is the norm *before* the MLP.
            mlp_norm: norm(loader, "post_attention_layernorm")?,
            mlp: Mlp::load(loader, &format!("{name}.mlp"), spec, plan, rank, mlp)?,
            post_mlp_norm: norm(loader, "post_mlp_layernorm")?,
        })
    }

    /// `x` `[tokens, hidden]` → the residual stream after this layer.
    ///
    /// # Errors
    /// [`StepError`].
    pub fn forward(&self, step: &mut Step<'_>, kv: &Mutex<KvLayer>, x: &Tensor) -> Result<Tensor, StepError> {
        let at = |tap| Point::Layer(self.layer, tap);
        let normed = self.input_norm.forward(step.pool, x)?;
        step.see(at(Tap::InputNorm), &normed);
        let attention = self.attention.forward(step, kv, &normed)?;
        step.see(at(Tap::Attention), &attention);
        let attention = self.post_attention_norm.forward(step.pool, &attention)?;
        step.see(at(Tap::PostAttentionNorm), &attention);
        let x = kernels::ops::add(x, &attention)?;
        let normed = self.mlp_norm.forward(step.pool, &x)?;
        step.see(at(Tap::MlpNorm), &normed);
        let mlp = self.mlp.forward(step, &normed)?;
        step.see(at(Tap::Mlp), &mlp);
        let mlp = self.post_mlp_norm.forward(step.pool, &mlp)?;
        step.see(at(Tap::PostMlpNorm), &mlp);
        Ok(kernels::ops::add(&x, &mlp)?)
    }
}
