//! Looking at values inside a forward pass, to hold them to a reference layer by layer.
//!
//! Not here: changing them. Invariant: an observer costs nothing where nobody looks.

use candle_core::Tensor;

/// A place in the model whose value can be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Point {
    /// The residual stream after this many layers, `[tokens, hidden]`; 0 is the embedding.
    Hidden(usize),
    /// Inside a layer.
    Layer(usize, Tap),
    /// After the final norm, `[rows that want logits, hidden]`.
    Norm,
    /// Inside the vision tower.
    Vision(VisionTap),
}

/// A place inside the vision tower, whole on whichever rank encodes; a number is that of the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VisionTap {
    /// Each patch by itself, `[patches, hidden]`.
    PatchEmbed,
    /// After `post_conv_layernorm`.
    PostConvNorm,
    /// With the learned positions.
    Embeddings,
    /// After `norm1`.
    AttentionNorm(usize),
    /// The fused product, before the rotation, `[patches, 3 * hidden]`.
    QueryKeyValue(usize),
    /// Attention after its output product.
    Attention(usize),
    /// After `norm2`.
    MlpNorm(usize),
    /// The MLP.
    Mlp(usize),
    /// The stream after the block.
    Block(usize),
    /// After `post_layernorm`.
    PostNorm,
    /// Tokens instead of patches, `[tokens, hidden of the text]`.
    Downsample,
    /// The merger's first product.
    MergerProjection,
    /// Its layer norm.
    MergerNorm,
    /// The embeddings.
    Merger,
}

/// A place inside a layer. `q`, `k` and `v` are this rank's heads; all else is whole on every rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tap {
    /// After `input_layernorm`, `[tokens, hidden]`.
    InputNorm,
    /// Query with bias, before the rotation, `[tokens, my heads * head_dim]`.
    Query,
    /// Key with bias, before the rotation, `[tokens, my KV heads * head_dim]`.
    Key,
    /// Value with bias, `[tokens, my KV heads * head_dim]`.
    Value,
    /// Query after the rotation, `[tokens, my heads, head_dim]`.
    QueryRotated,
    /// Key after the rotation, `[tokens, my KV heads, head_dim]`.
    KeyRotated,
    /// Attention after the output product and the all-reduce, `[tokens, hidden]`.
    Attention,
    /// After `post_self_attn_layernorm`.
    PostAttentionNorm,
    /// After `post_attention_layernorm`, which stands before the MLP.
    MlpNorm,
    /// The MLP after the all-reduce.
    Mlp,
    /// After `post_mlp_layernorm`.
    PostMlpNorm,
}

/// Sees the values of one step.
pub trait Observer {
    /// The value at `point`.
    fn see(&mut self, point: Point, value: &Tensor);
}

/// Nobody looks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn see(&mut self, _: Point, _: &Tensor) {}
}

impl<F: FnMut(Point, &Tensor)> Observer for F {
    fn see(&mut self, point: Point, value: &Tensor) {
        self(point, value);
    }
}
