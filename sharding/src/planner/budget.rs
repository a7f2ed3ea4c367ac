//! How many bytes a rank will hold.
//!
//! Not here: what is free. Invariant: the weights are counted from the very slices that the layers load, so the number
//! before loading is the number after it.

use protocol::{ByteBudget, Dtype, Plan, Rank, RankCut, ReductionTree};

use super::request::{BLOCK_TOKENS, PlanRequest};
use super::seeing::seeing_bytes;
use crate::partition::{Rule, TensorSlice, slices};
use crate::spec::ModelSpec;

/// Bytes of an activation, a KV element, a norm or a bias: all f32.
const F32_BYTES: u64 = 4;
/// Packed matrices are filled up to whole tiles of this many rows, and a head's values to as many elements.
const TILE_ROWS: u64 = 16;
/// What a worker process takes besides: code, runtime, connections, buffers of the transport.
const OVERHEAD_BYTES: u64 = 48 << 20;

/// Most logits of prompts' own rows in one step, 64 MiB of f32.
const PROMPT_LOGITS_MAX: u32 = 1 << 24;

/// Most rows of logits that a step may give besides one for each sequence: a prompt whose own logits are wanted enters in
/// chunks of as many tokens. At least one.
#[must_use]
pub fn prompt_rows_max(spec: &ModelSpec, step_tokens: u32) -> u32 {
    (PROMPT_LOGITS_MAX / spec.vocab_size.max(1)).min(step_tokens).max(1)
}

/// The KV block beyond those that sequences are given: what rank 0's canaries write and read, and nobody else.
#[must_use]
pub fn canary_block(plan: &Plan) -> u32 {
    plan.kv_tokens / BLOCK_TOKENS
}

/// Budget of `rank`, whose cut stands at its place in `cuts`, for contexts of `context_tokens` in a KV cache of `kv_tokens`
/// tokens.
///
/// # Panics
/// When `rank` is not below the number of cuts, or the cuts do not cover the model ([`super::cuts`] gives ones that do).
#[must_use]
pub fn budget(
    spec: &ModelSpec,
    request: &PlanRequest<'_>,
    cuts: &[RankCut],
    rank: Rank,
    (context_tokens, kv_tokens): (u32, u32),
) -> ByteBudget {
    let cut = &cuts[rank.index()];
    ByteBudget {
        weights: weight_bytes(spec, cut, request.dtype, request.stored_f32),
        kv_cache: kv_bytes_per_token(spec, cut) * (u64::from(kv_tokens) + u64::from(BLOCK_TOKENS)),
        activations: activation_bytes(spec, request, cuts, rank)
            .saturating_add(spec.vision.as_ref().map_or(0, |vision| seeing_bytes(vision, context_tokens, rank)))
            .saturating_add(OVERHEAD_BYTES),
    }
}

/// Bytes of the weights that a rank with this cut holds in memory. A tied LM head is held twice: packed for the
/// product and by rows for the look-up.
#[must_use]
pub fn weight_bytes(spec: &ModelSpec, cut: &RankCut, dtype: Dtype, stored_f32: bool) -> u64 {
    let width = if stored_f32 && dtype == Dtype::F32 { F32_BYTES } else { 2 };
    let hidden = u64::from(spec.hidden_size);
    let rows = u64::from(cut.vocab_rows.len());
    let embedding = rows * hidden * width;
    let lm_head = rows.next_multiple_of(TILE_ROWS) * hidden * width;
    let of = |slice: &TensorSlice| match (slice.rule, slice.local_shape().as_slice()) {
        (Rule::Vocabulary, _) => 0,
        (Rule::Table, _) | (_, [_]) => slice.elements() * F32_BYTES,
        // What follows the first axis of a convolution is one long row of a matrix.
        (_, shape) => match shape {
            [] => F32_BYTES,
            [rows, cols @ ..] => {
                u64::from(*rows).next_multiple_of(TILE_ROWS)
                    * cols.iter().map(|d| u64::from(*d)).product::<u64>()
                    * width
            }
        },
    };
    slices(spec, cut).iter().map(of).sum::<u64>() + embedding + lm_head
}

/// Bytes of KV cache that one token takes on a rank with this cut: K and V of every layer, f32.
#[must_use]
pub fn kv_bytes_per_token(spec: &ModelSpec, cut: &RankCut) -> u64 {
    let head = u64::from(spec.head_dim);
    let elements = head + head.next_multiple_of(TILE_ROWS);
    u64::from(spec.num_layers) * u64::from(cut.kv_heads.len()) * elements * F32_BYTES
}

/// A bound on what the largest step holds at once.
fn activation_bytes(spec: &ModelSpec, request: &PlanRequest<'_>, cuts: &[RankCut], rank: Rank) -> u64 {
    let cut = &cuts[rank.index()];
    let hidden = u64::from(spec.hidden_size);
    let head = u64::from(spec.head_dim);
    let heads = ReductionTree::new(
        cuts.last().map_or(0, |c| c.head_atoms.end),
        &cuts.iter().map(|c| c.head_atoms).collect::<Vec<_>>(),
    );
    let mlp = ReductionTree::new(
        cuts.last().map_or(0, |c| c.mlp_atoms.end),
        &cuts.iter().map(|c| c.mlp_atoms).collect::<Vec<_>>(),
    );
    let sent = [heads, mlp]
        .iter()
        .map(|tree| tree.as_ref().expect("cuts cover the atoms in rank order").sent_by(rank.index()).len())
        .max()
        .unwrap_or(0);
    // The residual stream, a normed copy and a sum, what the all-reduce sends and what its peers send.
    let residual = hidden * (3 + 2 * sent as u64);
    let attention = head * u64::from(2 * cut.heads.len() + 2 * cut.kv_heads.len());
    let mlp = 3 * u64::from(cut.mlp_cols.len());
    let rows = u64::from(request.step_tokens) * (residual + attention.max(mlp));
    // A rank's own logits, everybody's as gathered, and on rank 0 once more in the order of the rows.
    let vocab = u64::from(cut.vocab_rows.len()) + u64::from(spec.vocab_size) * if rank == Rank(0) { 2 } else { 1 };
    let logit_rows = u64::from(request.max_seqs) + u64::from(prompt_rows_max(spec, request.step_tokens));
    let logits = logit_rows * (hidden + vocab);
    rows.saturating_add(logits).saturating_mul(F32_BYTES)
}
