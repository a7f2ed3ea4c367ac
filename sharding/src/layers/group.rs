//! What a layer needs from the other ranks of its replica.
//!
//! Not here: how it gets there. Invariant: after a call every rank holds the same bits in `out`.

use std::error::Error;

use protocol::{Rank, ReductionTree, WorldSize};

/// A rank's place in its tensor-parallel group, and the two exchanges that a forward pass is made of. Every rank calls
/// the same exchanges in the same order with the same lengths.
pub trait Group {
    /// This rank.
    fn rank(&self) -> Rank;

    /// How many ranks there are.
    fn world_size(&self) -> WorldSize;

    /// Adds everybody's partial sums in the order of `tree`: `mine` `[tree.sent_by(rank).len(), n]`, `out` `[n]`.
    ///
    /// # Errors
    /// [`GroupError`] when a peer is lost, late or of another epoch.
    fn all_reduce(&mut self, tree: &ReductionTree, mine: &[f32], out: &mut [f32]) -> Result<(), GroupError>;

    /// Gathers everybody's part in rank order: `mine` `[counts[rank]]`, `out` `[sum of counts]`.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    fn all_gather(&mut self, counts: &[usize], mine: &[f32], out: &mut [f32]) -> Result<(), GroupError>;
}

/// A group that cannot go on; the replica must be formed again.
#[derive(Debug, thiserror::Error)]
#[error("the group is broken: {0}")]
pub struct GroupError(#[source] Box<dyn Error + Send + Sync>);

impl GroupError {
    /// Wraps the transport's own error.
    pub fn new(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}
