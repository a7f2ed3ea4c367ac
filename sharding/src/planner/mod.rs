//! Which rank holds which part of a model on which node, and how many bytes that is. Pure: same question, same plan.
//!
//! Not here: what is free on a node (the asker knows) and loading. Invariant: a plan that comes out fits the memory it
//! was given, covers the model exactly once, and is legal for any world size.

mod budget;
mod cut;
mod error;
mod placement;
mod request;
mod seeing;
mod table;

use protocol::{Plan, RankPlan};

pub use budget::{budget, canary_block, kv_bytes_per_token, prompt_rows_max, weight_bytes};
pub use cut::{CutError, Shares, check_plan, cuts, head_cols, mlp_atoms, mlp_cols};
pub use error::PlanError;
pub use request::{
    BLOCK_TOKENS, CONTEXT_TOKENS_DEFAULT_MAX, CONTEXT_TOKENS_SEEING_MAX, KV_TOKENS_DEFAULT_MAX, NodeCapacity,
    PICTURE_PATCHES_MAX, PlanRequest,
};
pub use seeing::{embedding_bytes, picture_cache_bytes, picture_levels_bytes};
pub use table::MemoryTable;

use crate::spec::ModelSpec;

/// Cuts the model for `request`, gives each rank a node and a byte budget.
///
/// # Errors
/// [`PlanError`]: a request that contradicts itself, or the node that would be short with the bytes needed and there.
pub fn plan(spec: &ModelSpec, request: &PlanRequest<'_>) -> Result<Plan, PlanError> {
    let sizes = request.sizes(spec)?;
    let cuts = cuts(spec, &Shares::even(request.world_size));
    let with_kv = |kv_tokens: u32| {
        let budgets: Vec<_> = request
            .world_size
            .ranks()
            .map(|rank| budget(spec, request, &cuts, rank, (sizes.context_tokens, kv_tokens)))
            .collect();
        placement::place(&budgets, request.nodes).map(|nodes| (budgets, nodes))
    };
    let (kv_tokens, (budgets, nodes)) = match with_kv(sizes.kv_tokens) {
        Ok(placed) => (sizes.kv_tokens, placed),
        Err(short) => match largest_that_fits(sizes.kv_tokens_min, sizes.kv_tokens, with_kv) {
            Some(found) => found,
            // Not even the least fits: that is the number to show.
            None => return Err(with_kv(sizes.kv_tokens_min).err().unwrap_or(short)),
        },
    };
    let ranks = request.world_size.ranks().zip(cuts).zip(budgets.into_iter().zip(nodes));
    Ok(Plan {
        world_size: request.world_size,
        kv_tokens,
        context_tokens: sizes.context_tokens,
        ranks: ranks.map(|((rank, cut), (budget, node))| RankPlan { rank, node, cut, budget }).collect(),
    })
}

/// The largest whole number of blocks in `min..max` tokens that fits; both are multiples of a block.
fn largest_that_fits<T, E>(min: u32, max: u32, fits: impl Fn(u32) -> Result<T, E>) -> Option<(u32, T)> {
    let mut best = None;
    let (mut low, mut high) = (min / BLOCK_TOKENS, max / BLOCK_TOKENS);
    while low < high {
        let middle = low.midpoint(high);
        match fits(middle * BLOCK_TOKENS) {
            Ok(found) => {
                best = Some((middle * BLOCK_TOKENS, found));
                low = middle + 1;
            }
            Err(_) => high = middle,
        }
    }
    best
}

#[cfg(test)]
mod tests;
