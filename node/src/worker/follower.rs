//! The step loop of every rank but 0: do what rank 0 plans, until it says that nothing follows.
//!
//! Not here: scheduling and sampling; this rank has no say.

use std::time::Duration;

use transport::{Collective, Deadline};

use super::fault::StepFault;
use super::gauge::Gauge;
use super::group::Ranks;
use super::model::StepModel;
use super::patience::Patience;

/// How long one wait for a plan lasts; waiting on costs nothing.
const IDLE_WAIT: Duration = Duration::from_secs(30);

/// Steps until rank 0 ends the group with an empty plan.
///
/// # Errors
/// [`StepFault`]: the group has to be formed anew.
pub(super) fn follow<G: Collective, M: StepModel>(
    group: &mut G,
    model: &mut M,
    patience: Patience,
    gauge: &Gauge,
) -> Result<(), StepFault> {
    let mut step = 1;
    loop {
        let plan = group.recv_plan(Deadline::after(IDLE_WAIT)).map_err(|source| StepFault::Plan { step, source })?;
        // Rank 0 has nothing to do; a lost one would have been an error.
        let Some(plan) = plan else { continue };
        if plan.step != step {
            return Err(StepFault::OutOfOrder { expected: step, found: plan.step });
        }
        if plan.is_last() {
            return Ok(());
        }
        group.set_step_timeout(patience.for_step(&plan));
        model.step(&mut Ranks(group), &plan).map_err(|source| StepFault::Model { step, source })?;
        gauge.count_step();
        step += 1;
    }
}
