//! What the step loop needs of a model: one forward pass over a planned batch.
//!
//! Not here: the model itself (`sharding::layers`).

use protocol::step::StepPlan;
use sharding::layers::{Glm4Text, Group, Logits, StepError};

/// One rank's share of a model, with its KV cache.
pub(super) trait StepModel {
    /// Computes one step. `Some` on rank 0 only: the rows of logits that the plan's sequences want, in the plan's order.
    ///
    /// # Errors
    /// [`StepError`]: the group is broken, or the plan does not fit the cache.
    fn step(&mut self, group: &mut dyn Group, plan: &StepPlan) -> Result<Option<Logits>, StepError>;
}

impl StepModel for Glm4Text {
    fn step(&mut self, group: &mut dyn Group, plan: &StepPlan) -> Result<Option<Logits>, StepError> {
        Self::step(self, group, plan)
    }
}
