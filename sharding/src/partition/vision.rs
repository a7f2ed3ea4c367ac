//! The tensors of a vision tower.
//!
//! Not here: how many ranks encode. Invariant: each is whole on every rank, whatever the world size, so that any rank
//! can encode any picture and gets the same bits.

use super::rules::Rule;
use crate::spec::VisionSpec;

/// What stands before a tower's tensor names.
pub const VISION_PREFIX: &str = "model.visual";

/// Calls `push(name, shape, rule)` for every tensor, from the patches to the merger.
pub(super) fn vision_tensors(spec: &VisionSpec, mut push: impl FnMut(String, Vec<u32>, Rule)) {
    let (hidden, out) = (spec.hidden_size, spec.out_hidden_size);
    let mut whole =
        |name: &str, shape: &[u32]| push(format!("{VISION_PREFIX}.{name}"), shape.to_vec(), Rule::Replicated);
    whole("patch_embed.proj.weight", &[hidden, 3, spec.temporal_patch_size, spec.patch_size, spec.patch_size]);
    whole("patch_embed.proj.bias", &[hidden]);
    whole("post_conv_layernorm.weight", &[hidden]);
    for block in 0..spec.depth {
        let mut whole = |name: &str, shape: &[u32]| whole(&format!("blocks.{block}.{name}.weight"), shape);
        whole("norm1", &[hidden]);
        whole("attn.qkv", &[3 * hidden, hidden]);
        whole("attn.proj", &[hidden, hidden]);
        whole("norm2", &[hidden]);
        whole("mlp.gate_proj", &[out, hidden]);
        whole("mlp.up_proj", &[out, hidden]);
        whole("mlp.down_proj", &[hidden, out]);
    }
    whole("post_layernorm.weight", &[hidden]);
    whole("downsample.weight", &[out, hidden, spec.merge_size, spec.merge_size]);
    whole("downsample.bias", &[out]);
    whole("merger.proj.weight", &[out, out]);
    whole("merger.post_projection_norm.weight", &[out]);
    whole("merger.post_projection_norm.bias", &[out]);
    whole("merger.gate_proj.weight", &[spec.merger_size, out]);
    whole("merger.up_proj.weight", &[spec.merger_size, out]);
    whole("merger.down_proj.weight", &[out, spec.merger_size]);
    let table = vec![spec.table_side * spec.table_side, hidden];
    push(format!("{VISION_PREFIX}.embeddings.position_embedding.weight"), table, Rule::Table);
}
