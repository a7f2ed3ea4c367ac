//! When the planner must look again although nothing happens.

use std::time::Instant;

use super::observed::Observed;
use super::planner::{CONNECT_STALL, DRAIN_MAX, FLEET_SETTLE, FORMING_STALL, REVIVAL_STALL, backoff};
use crate::state::{ClusterState, Phase};

/// The next moment after `now` at which time alone changes what [`super::planner::plan`] says.
pub(super) fn next(state: &ClusterState, observed: &Observed, now: Instant) -> Option<Instant> {
    let leases = state.nodes.iter().filter(|(_, r)| r.is_alive());
    let leases = leases.filter_map(|(n, _)| observed.nodes.get(n)).map(|s| s.lease_until);
    let groups = state.replicas.iter().filter_map(|(id, replica)| {
        let group = observed.groups.get(&(*id, replica.epoch))?;
        match replica.phase {
            Phase::Waiting { .. } => {
                let late = observed.unaware((*id, replica.epoch)).into_values();
                late.chain([group.since + backoff(replica.failed_formings)]).filter(|at| *at > now).min()
            }
            Phase::Forming { .. } => {
                [CONNECT_STALL, FORMING_STALL].into_iter().map(|stall| group.progress + stall).find(|at| *at > now)
            }
            Phase::Draining { .. } => Some(group.since + DRAIN_MAX),
            Phase::Ready { .. } => Some(group.progress + REVIVAL_STALL),
            Phase::Failed { .. } => None,
        }
    });
    let fleet = observed.fleet_grew.map(|at| at + FLEET_SETTLE);
    leases.chain(groups).chain(fleet).filter(|at| *at > now).min()
}
