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
/// A group whose ranks hold their shards and do not reach each other for so long is given up where another node is there.
pub(super) const CONNECT_STALL: Duration = Duration::from_secs(5);
/// A committed group whose ranks come back by themselves, and none of which came further for so long, is formed anew.
pub(super) const REVIVAL_STALL: Duration = Duration::from_secs(10);
/// Longest time that a draining group may take to finish what runs.
pub(super) const DRAIN_MAX: Duration = Duration::from_secs(30);
/// With fewer nodes than ranks, a first group waits so long for another node to appear.
pub(super) const FLEET_SETTLE: Duration = Duration::from_millis(500);
/// Wait before the group after the first failed forming; doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
/// Longest wait between two formings.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// What to propose, in order. What one family says may be moot for the next, so only the first that has anything to say
/// is heard: groups before nodes (a group is lost before its node's new start is on record), both before desired state,
/// and that before placement.
pub(super) fn plan(state: &ClusterState, observed: &Observed, now: Instant) -> Vec<Command> {
    let groups = groups::plan(state, observed, now);
    if !groups.is_empty() {
        return groups.into_iter().map(Command::Replica).collect();
    }
    let nodes = nodes::plan(state, observed, now);
    if !nodes.is_empty() {
        return nodes.into_iter().map(Command::Node).collect();
    }
    let replicas = deployments::plan(state);
    if !replicas.is_empty() {
        return replicas.into_iter().map(Command::Replica).collect();
    }
    placement::plan(state, observed, now)
}

/// How long a replica stays Waiting after that many failed formings in a row.
pub(super) fn backoff(failed_formings: u32) -> Duration {
    match failed_formings {
        0 => Duration::ZERO,
        n => BACKOFF_FIRST.saturating_mul(1u32.checked_shl(n - 1).unwrap_or(u32::MAX)).min(BACKOFF_MAX),
    }
}
