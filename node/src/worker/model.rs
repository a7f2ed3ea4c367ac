//! What the step loop needs of a model: one forward pass over a planned batch, and what the plan wants done for pictures
//! before it.
//!
//! Not here: the model itself (`sharding::layers`), keeping pictures ([`super::seeing`]).

use std::time::Duration;

use protocol::PictureId;
use protocol::step::StepPlan;
use sharding::layers::{Group, GroupError, Logits, StepError, VisionError};
use sharding::picture::{PatchError, PositionError};

/// Why a rank could not do what a step plan asks.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The forward pass failed.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The tower failed.
    #[error("picture {picture}: {source}")]
    Vision {
        /// Which picture.
        picture: PictureId,
        /// Why.
        source: VisionError,
    },
    /// A picture whose sides are not whole tokens.
    #[error("picture {picture}: {source}")]
    Patches {
        /// Which picture.
        picture: PictureId,
        /// Why.
        source: PatchError,
    },
    /// A picture that is not where the plan takes it to be.
    #[error("picture {picture} is {found}, expected {expected}")]
    Stage {
        /// Which picture.
        picture: PictureId,
        /// Where it should be.
        expected: &'static str,
        /// Where it is.
        found: &'static str,
    },
    /// Pictures that do not fit their prompt.
    #[error(transparent)]
    Place(#[from] PositionError),
    /// A plan with pictures for a model without a tower.
    #[error("step {step} has pictures, the model reads text alone")]
    Blind {
        /// Which step.
        step: u64,
    },
}

impl From<GroupError> for ModelError {
    fn from(e: GroupError) -> Self {
        Self::Step(e.into())
    }
}

/// What a rank's tower did in a step, and how long that took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TowerWork {
    /// Patches of the picture.
    pub(super) patches: u32,
    /// Blocks it ran through.
    pub(super) blocks: u16,
    /// Time of these blocks.
    pub(super) took: Duration,
}

/// One rank's share of a model, with its KV cache.
pub(super) trait StepModel {
    /// Computes one step. `Some` on rank 0 only: the rows of logits that the plan's sequences want, in the plan's order.
    ///
    /// # Errors
    /// [`ModelError`]: the group is broken, or the plan does not fit the cache.
    fn step(&mut self, group: &mut dyn Group, plan: &StepPlan) -> Result<Option<Logits>, ModelError>;

    /// What this rank's tower did in the last step, where it ran blocks.
    fn tower_work(&self) -> Option<TowerWork> {
        None
    }
}
