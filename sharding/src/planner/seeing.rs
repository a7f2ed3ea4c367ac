//! How many bytes seeing takes besides the weights of the tower.
//!
//! Not here: who keeps to it (the worker). Invariant: whatever pictures fit a context fit here too, so no prompt that the
//! engine takes is one that it cannot see.

use protocol::Rank;

use super::request::PICTURE_PATCHES_MAX;
use crate::spec::VisionSpec;

/// Bytes of an activation, f32.
const F32_BYTES: u64 = 4;
/// Packed values of a head are filled up to as many elements.
const TILE_ROWS: u64 = 16;
/// Contexts of pictures whose levels may wait at rank 0: one that is served next, and one that arrives meanwhile.
const LEVELS_CONTEXTS: u64 = 2;

/// Bytes of embeddings that every rank keeps: those of one context full of pictures. Pictures of requests that run are among
/// them, and what is left remembers pictures that may come again.
#[must_use]
pub fn picture_cache_bytes(vision: &VisionSpec, context_tokens: u32) -> u64 {
    u64::from(context_tokens) * embedding_bytes(vision)
}

/// Bytes of levels that may wait at rank 0 for their turn, for requests that have arrived or are arriving.
#[must_use]
pub fn picture_levels_bytes(vision: &VisionSpec, context_tokens: u32) -> u64 {
    LEVELS_CONTEXTS * u64::from(context_tokens) * u64::from(vision.merged_patches()) * patch_levels(vision)
}

/// Bytes of one token's embedding.
#[must_use]
pub fn embedding_bytes(vision: &VisionSpec) -> u64 {
    u64::from(vision.out_hidden_size) * F32_BYTES
}

/// Bytes of the 8-bit RGB levels of one patch.
fn patch_levels(vision: &VisionSpec) -> u64 {
    3 * u64::from(vision.patch_size) * u64::from(vision.patch_size)
}

/// A bound on all of it on one rank.
pub(super) fn seeing_bytes(vision: &VisionSpec, context_tokens: u32, rank: Rank) -> u64 {
    let patches = u64::from(PICTURE_PATCHES_MAX);
    let levels = if rank == Rank(0) { picture_levels_bytes(vision, context_tokens) } else { 0 };
    // The plan that begins a picture brings its levels as a message and as bytes.
    let in_plan = 2 * patches * patch_levels(vision);
    // The embeddings of a finished picture, as they come out, in pieces, and as they are kept.
    let exchange = 3 * patches / u64::from(vision.merged_patches()) * embedding_bytes(vision);
    encoding_bytes(vision).max(exchange) + picture_cache_bytes(vision, context_tokens) + levels + in_plan
}

/// A bound on what encoding one picture of [`PICTURE_PATCHES_MAX`] patches holds at once; a rank encodes one at a time.
fn encoding_bytes(vision: &VisionSpec) -> u64 {
    let (hidden, patch) = (u64::from(vision.hidden_size), u64::from(vision.patch_elements()));
    // In a block: the stream, its normed copy or what attention gives, the fused product, one head's packed keys and values,
    // the angles of half a head twice. Before it: pixels and the first stream.
    let head = u64::from(vision.head_dim());
    let block = 5 * hidden + 2 * head.next_multiple_of(TILE_ROWS) + head;
    u64::from(PICTURE_PATCHES_MAX) * block.max(patch + 2 * hidden) * F32_BYTES
}
