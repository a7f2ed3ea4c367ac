//! The step loop of every rank but 0: do what rank 0 plans, until it says that nothing follows.
//!
//! Not here: scheduling and sampling; this rank has no say.

use std::time::{Duration, Instant};

use transport::{Collective, Deadline};

use super::fault::StepFault;
use super::gauge::Gauge;
use super::group::Ranks;
use super::model::StepModel;

/// How long rank 0, once it has begun, may leave this rank without a plan: it has steps to plan or sends a canary. Far beyond
/// the longest pause between those ([`super::canary::PAUSE_MAX`]) and whatever rank 0 does between two steps: its own process
/// gives that up first.
pub(super) const PLAN_WAIT: Duration = Duration::from_secs(30);

/// Steps until rank 0 ends the group with an empty plan.
///
/// # Errors
/// [`StepFault`]: the group has to be formed anew.
pub(super) fn follow<G: Collective, M: StepModel>(
    group: &mut G,
    model: &mut M,
    gauge: &Gauge,
    plan_wait: Duration,
) -> Result<(), StepFault> {
    let mut step = 1;
    loop {
        let plan = group.recv_plan(Deadline::after(plan_wait)).map_err(|source| StepFault::Plan { step, source })?;
        let plan = match plan {
            Some(plan) => plan,
            // Rank 0 is told to serve when this rank may have been for long.
            None if step == 1 => continue,
            None => return Err(StepFault::NoPlan { step, waited: plan_wait }),
        };
        if plan.step != step {
            return Err(StepFault::OutOfOrder { expected: step, found: plan.step });
        }
        if plan.is_last() {
            return Ok(());
        }
        let within = Duration::from_millis(plan.within_ms.into());
        gauge.progress().begin(step, within, Instant::now());
        group.set_step_deadline(within.into());
        model.step(&mut Ranks(group), &plan).map_err(|source| StepFault::Model { step, source })?;
        gauge.progress().end();
        gauge.count_step();
        step += 1;
    }
}
