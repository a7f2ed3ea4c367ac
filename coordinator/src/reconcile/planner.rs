//! The reconciler's decision: what to propose now. Pure.
//!
//! Not here: proposing. Invariant: planning again after the commands were applied, with nothing new seen, proposes
//! nothing more (each command makes its own reason go away).

use std::time::{Duration, Instant};

use super::observed::Observed;
use super::{deployments, groups, nodes, placement};
use crate::state::{ClusterState, Command};

/// A group none of whose ranks came further for so long is given up.
pub(super) const FORMING_STALL: Duration = Duration::from_secs(60);
/// Longest time that a draining group may take to finish what runs.
pub(super) const DRAIN_MAX: Duration = Duration::from_secs(30);
/// With fewer nodes than ranks, a first group waits so long for another node to appear.
pub(super) const FLEET_SETTLE: Duration = Duration::from_millis(500);
/// Wait before the group after the first failed forming; doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
/// Longest wait between two formings.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Everything to propose, in order: the first that is refused makes the rest moot.
pub(super) fn plan(state: &ClusterState, observed: &Observed, now: Instant) -> Vec<Command> {
    let mut commands = Vec::new();
    commands.extend(groups::plan(state, observed, now).into_iter().map(Command::Replica));
    commands.extend(nodes::plan(state, observed, now).into_iter().map(Command::Node));
    commands.extend(deployments::plan(state).into_iter().map(Command::Replica));
    commands.extend(placement::plan(state, observed, now));
    commands
}

/// How long a replica stays Waiting after that many failed formings in a row.
pub(super) fn backoff(failed_formings: u32) -> Duration {
    match failed_formings {
        0 => Duration::ZERO,
        n => BACKOFF_FIRST.saturating_mul(1u32.checked_shl(n - 1).unwrap_or(u32::MAX)).min(BACKOFF_MAX),
    }
}
