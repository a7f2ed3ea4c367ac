//! Which node takes which rank.
//!
//! Not here: how large a rank is. Invariant: no node is given more than it has free; the same question has one answer.

use protocol::{ByteBudget, NodeId, Rank};

use super::error::PlanError;
use super::request::NodeCapacity;

/// A node for every rank, in rank order: the one with fewest ranks among those with room, then the one with most room,
/// then the first by name. So ranks spread over nodes while memory allows it and share them where it must be.
pub(super) fn place(budgets: &[ByteBudget], nodes: &[NodeCapacity]) -> Result<Vec<NodeId>, PlanError> {
    let mut taken: Vec<Taken<'_>> = nodes.iter().map(|capacity| Taken { capacity, ranks: 0, bytes: 0 }).collect();
    taken.sort_by(|a, b| a.capacity.node.cmp(&b.capacity.node));
    let mut placed = Vec::with_capacity(budgets.len());
    for (rank, budget) in budgets.iter().enumerate() {
        let needed = budget.total();
        let roomy = taken.iter_mut().filter(|t| t.room() >= needed);
        // `min_by_key` takes the first of equals, which is the first by name.
        match roomy.min_by_key(|t| (t.ranks, u64::MAX - t.room())) {
            Some(node) => {
                node.ranks += 1;
                node.bytes += needed;
                placed.push(node.capacity.node.clone());
            }
            None => return Err(does_not_fit(rank, budget, &taken, budgets.len())),
        }
    }
    Ok(placed)
}

/// A node and what was put on it.
struct Taken<'a> {
    capacity: &'a NodeCapacity,
    ranks: usize,
    bytes: u64,
}

impl Taken<'_> {
    fn room(&self) -> u64 {
        self.capacity.memory_free.saturating_sub(self.bytes)
    }
}

fn does_not_fit(rank: usize, budget: &ByteBudget, taken: &[Taken<'_>], ranks: usize) -> PlanError {
    match taken.iter().max_by_key(|t| t.room()) {
        None => PlanError::NoNodes { ranks },
        Some(node) => PlanError::DoesNotFit {
            rank: Rank(u16::try_from(rank).unwrap_or(u16::MAX)),
            node: node.capacity.node.clone(),
            needed: node.bytes.saturating_add(budget.total()),
            kv_bytes: budget.kv_cache,
            available: node.capacity.memory_free,
        },
    }
}
