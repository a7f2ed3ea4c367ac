//! A fault for tests of whole processes: a compute thread that does not come back from a step, while all others of its
//! process live.

use protocol::step::StepPlan;
use sharding::layers::{Group, Logits};

use super::model::{ModelError, StepModel, TowerWork};

/// `RANK:STEP`.
pub(crate) const VARIABLE: &str = "SHARDGLM_TEST_HANG";

/// A model, and the step that it hangs in.
pub(super) struct Hanging<M> {
    model: M,
    hangs_in: Option<(u16, u64)>,
}

impl<M> Hanging<M> {
    /// As the environment asks.
    pub(super) fn if_asked(model: M) -> Self {
        let asked = std::env::var(VARIABLE).ok();
        let hangs_in = asked.as_deref().and_then(|asked| {
            let (rank, step) = asked.split_once(':')?;
            Some((rank.parse().ok()?, step.parse().ok()?))
        });
        Self { model, hangs_in }
    }
}

impl<M: StepModel> StepModel for Hanging<M> {
    fn step(&mut self, group: &mut dyn Group, plan: &StepPlan) -> Result<Option<Logits>, ModelError> {
        while self.hangs_in == Some((group.rank().0, plan.step)) {
            std::thread::park();
        }
        self.model.step(group, plan)
    }

    fn tower_work(&self) -> Option<TowerWork> {
        self.model.tower_work()
    }
}
