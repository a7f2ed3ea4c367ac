//! All-reduce, all-gather and step plans between the ranks of one group.
//!
//! Not here: models, schedules, who is in the group. Invariants: every rank adds the same numbers in the same order, the
//! one of [`ReductionTree::fold`], so all implementations give the same bits; ranks that disagree about what they are
//! doing get an error, never a wrong sum; a lost peer, an abort or a passed deadline ends every wait; after the first
//! error a group only gives errors and is formed again under a higher epoch.

mod abort;
mod error;
mod local;
#[cfg(feature = "nccl")]
mod nccl;
mod quic;
mod reduce;

use std::time::Duration;

use protocol::step::StepPlan;
use protocol::{Rank, ReductionTree, WorldSize};

use crate::Deadline;

pub use abort::AbortHandle;
pub use error::{CollectiveError, FormError};
pub use local::LocalCollective;
#[cfg(feature = "nccl")]
pub use nccl::{CudaOrdinal, NcclError, NcclGroup, NcclId, check_libraries};
pub use quic::{GroupConfig, LinkStats, QuicGroup};

/// One rank's end of a group. Every call blocks its thread; all ranks make the same collective calls in the same order.
pub trait Collective: Send {
    /// Which rank this is.
    fn rank(&self) -> Rank;

    /// How many ranks there are.
    fn world_size(&self) -> WorldSize;

    /// Adds what all ranks hold, in tree order. `mine`: `[tree.sent_by(rank).len(), n]`, the sums of this rank's subtrees
    /// from the lowest atom up (empty for a rank that owns none); `out`: `[n]`, the same bits on every rank. Zeros where
    /// the tree has no atoms.
    ///
    /// # Errors
    /// [`CollectiveError`].
    fn all_reduce(&mut self, tree: &ReductionTree, mine: &[f32], out: &mut [f32]) -> Result<(), CollectiveError>;

    /// Puts together what all ranks hold. `counts`: values of each rank, in rank order, the same on every rank; `mine`:
    /// `[counts[rank]]`; `out`: `[sum of counts]`, in rank order.
    ///
    /// # Errors
    /// [`CollectiveError`].
    fn all_gather(&mut self, counts: &[usize], mine: &[f32], out: &mut [f32]) -> Result<(), CollectiveError>;

    /// Rank 0 tells all others the next step. Does not wait until they have it.
    ///
    /// # Errors
    /// [`CollectiveError`]; [`CollectiveError::NotLeader`] on any other rank.
    fn send_plan(&mut self, plan: &StepPlan) -> Result<(), CollectiveError>;

    /// The next step from rank 0; `None` when none came before the deadline, which is no fault: call again. Waiting costs
    /// no processor time.
    ///
    /// # Errors
    /// [`CollectiveError`], at once when any peer is lost; [`CollectiveError::NotLeader`] on rank 0.
    fn recv_plan(&mut self, deadline: Deadline) -> Result<Option<StepPlan>, CollectiveError>;

    /// When every wait for peers within collectives, and for their taking a plan, ends at the latest, until it is set
    /// anew: the deadline of a step is the deadline of all of its collectives.
    fn set_step_deadline(&mut self, deadline: Deadline);

    /// A handle by which another thread ends every pending and later wait of this rank with
    /// [`CollectiveError::Aborted`].
    fn abort_handle(&self) -> AbortHandle;
}

/// Longest wait for peers within one collective of a group that was set no deadline.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// When the waits of a collective that begins now end.
fn step_deadline(set: Option<Deadline>) -> Deadline {
    set.unwrap_or_else(|| Deadline::after(STEP_TIMEOUT))
}

/// Checks the lengths that the caller gives to an all-reduce; returns `n`.
fn reduce_width(tree: &ReductionTree, rank: Rank, mine: &[f32], out: &[f32]) -> Result<usize, CollectiveError> {
    let expected = tree.sent_by(rank.index()).len() * out.len();
    if mine.len() != expected {
        return Err(CollectiveError::WrongLength { what: "partial sums", found: mine.len(), expected });
    }
    Ok(out.len())
}

/// Checks the world size of a tree or of a list of counts.
fn check_world(found: usize, world: WorldSize) -> Result<(), CollectiveError> {
    let expected = usize::from(world.get());
    if found == expected { Ok(()) } else { Err(CollectiveError::WrongLength { what: "ranks", found, expected }) }
}

/// Checks the lengths that the caller gives to an all-gather.
fn check_gather(
    counts: &[usize],
    world: WorldSize,
    rank: Rank,
    mine: &[f32],
    out: &[f32],
) -> Result<(), CollectiveError> {
    check_world(counts.len(), world)?;
    if mine.len() != counts[rank.index()] {
        return Err(CollectiveError::WrongLength { what: "values", found: mine.len(), expected: counts[rank.index()] });
    }
    let total: usize = counts.iter().sum();
    if out.len() != total {
        return Err(CollectiveError::WrongLength { what: "gathered values", found: out.len(), expected: total });
    }
    Ok(())
}
