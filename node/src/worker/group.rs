//! The transport's collectives as the model's layers and the step loop want them.
//!
//! Not here: how they work (transport).

use std::time::Instant;

use protocol::{Rank, ReductionTree, WorldSize};
use sharding::layers::{Group, GroupError};
use transport::{Collective, CollectiveError};

/// A collective as a model's [`Group`].
pub(super) struct Ranks<'a, C>(pub(super) &'a mut C);

impl<C: Collective> Group for Ranks<'_, C> {
    fn rank(&self) -> Rank {
        self.0.rank()
    }

    fn world_size(&self) -> WorldSize {
        self.0.world_size()
    }

    fn all_reduce(&mut self, tree: &ReductionTree, mine: &[f32], out: &mut [f32]) -> Result<(), GroupError> {
        self.0.all_reduce(tree, mine, out).map_err(GroupError::new)
    }

    fn all_gather(&mut self, counts: &[usize], mine: &[f32], out: &mut [f32]) -> Result<(), GroupError> {
        self.0.all_gather(counts, mine, out).map_err(GroupError::new)
    }
}

/// A collective whose rank 0 can sleep until it has something to do.
pub(super) trait LeadingGroup: Collective {
    /// Waits for `command` without using the processor; `None` when it did not come before `until`, if there is such an
    /// end.
    ///
    /// # Errors
    /// [`CollectiveError`] when the group breaks, or is aborted, meanwhile.
    fn idle<F: Future>(&mut self, command: F, until: Option<Instant>) -> Result<Option<F::Output>, CollectiveError>;
}
