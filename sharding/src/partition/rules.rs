//! The tensors of a dense GLM model, its vision tower included, and the rule that cuts each.
//!
//! Not here: numbers of one rank (`slice`). Invariant: this list is what the checkpoint check, the byte budget and the
//! layers all go by; a tensor that is not in it is not read.

use super::vision::vision_tensors;
use crate::spec::ModelSpec;

/// Along what a tensor is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Column-parallel: output rows of the rank's query heads.
    QueryHeads,
    /// Column-parallel: output rows of the KV heads that the rank's query heads read. Ranks share a KV head where its
    /// query heads are spread over them.
    KvHeads,
    /// Column-parallel: two matrices in one tensor, gate above up; the same rows of each half.
    GateUp,
    /// Row-parallel: input columns of the rank's query heads.
    HeadInputs,
    /// Row-parallel: input columns of the rank's part of the MLP.
    MlpInputs,
    /// Vocabulary-parallel: rows of the rank's tokens.
    Vocabulary,
    /// Whole on every rank.
    Replicated,
    /// Whole on every rank and kept as f32, for reading between its rows.
    Table,
}

/// One tensor that the model needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its shape by the configuration: `[out, in]`, `[n]`, or `[out]` and the axes of a convolution's input.
    pub shape: Vec<u32>,
    /// How it is cut.
    pub rule: Rule,
}

/// Every tensor of the model, from the embedding to the LM head, then the vision tower's. A tied LM head is not listed: it
/// is the embedding.
#[must_use]
pub fn tensors(spec: &ModelSpec) -> Vec<TensorSpec> {
    let prefix = spec.family.text_prefix();
    let hidden = spec.hidden_size;
    let mut out = Vec::new();
    let mut push = |name: String, shape: Vec<u32>, rule| out.push(TensorSpec { name, shape, rule });
    push(format!("{prefix}.embed_tokens.weight"), vec![spec.vocab_size, hidden], Rule::Vocabulary);
    for layer in 0..spec.num_layers {
        layer_tensors(spec, |name, shape, rule| push(format!("{prefix}.layers.{layer}.{name}"), shape, rule));
    }
    push(format!("{prefix}.norm.weight"), vec![hidden], Rule::Replicated);
    if !spec.tie_word_embeddings {
        push("lm_head.weight".to_owned(), vec![spec.vocab_size, hidden], Rule::Vocabulary);
    }
    if let Some(vision) = &spec.vision {
        vision_tensors(vision, push);
    }
    out
}

fn layer_tensors(spec: &ModelSpec, mut push: impl FnMut(&str, Vec<u32>, Rule)) {
    let hidden = spec.hidden_size;
    let q = spec.num_heads * spec.head_dim;
    let kv = spec.num_kv_heads * spec.head_dim;
    push("input_layernorm.weight", vec![hidden], Rule::Replicated);
    for (name, rows, rule) in
        [("q_proj", q, Rule::QueryHeads), ("k_proj", kv, Rule::KvHeads), ("v_proj", kv, Rule::KvHeads)]
    {
        push(&format!("self_attn.{name}.weight"), vec![rows, hidden], rule);
        if spec.qkv_bias {
            push(&format!("self_attn.{name}.bias"), vec![rows], rule);
        }
    }
    push("self_attn.o_proj.weight", vec![hidden, q], Rule::HeadInputs);
    push("post_self_attn_layernorm.weight", vec![hidden], Rule::Replicated);
    push("post_attention_layernorm.weight", vec![hidden], Rule::Replicated);
    push("mlp.gate_up_proj.weight", vec![2 * spec.intermediate_size, hidden], Rule::GateUp);
    push("mlp.down_proj.weight", vec![hidden, spec.intermediate_size], Rule::MlpInputs);
    push("post_mlp_layernorm.weight", vec![hidden], Rule::Replicated);
}
