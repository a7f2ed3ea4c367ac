//! Which replicas there should be: as many as wanted of what is wanted, and none else.

use std::cmp::Reverse;

use protocol::ReplicaId;

use crate::state::{ClusterState, Deployment, Phase, Replica, ReplicaCommand};

pub(super) fn plan(state: &ClusterState) -> Vec<ReplicaCommand> {
    let unwanted = state.replicas.iter().filter_map(|(id, r)| {
        let reason = unwanted(state, *id, r)?;
        let (replica, epoch) = (*id, r.epoch);
        match r.phase {
            Phase::Ready { .. } => Some(ReplicaCommand::Drain { replica, epoch, reason }),
            Phase::Draining { .. } => None,
            _ => Some(ReplicaCommand::Remove { replica, epoch }),
        }
    });
    let missing = state.deployments.values().flat_map(|d| {
        let have = state.replicas.values().filter(|r| r.runs(&d.spec)).count();
        let create = ReplicaCommand::Create { deployment: d.spec.name.clone(), generation: d.spec.generation };
        std::iter::repeat_n(create, usize::from(d.spec.replicas).saturating_sub(have))
    });
    unwanted.chain(missing).collect()
}

/// Why this replica should not be; `None` when it should.
pub(super) fn unwanted(state: &ClusterState, id: ReplicaId, replica: &Replica) -> Option<String> {
    let Some(deployment) = state.deployments.get(&replica.spec.name) else {
        return Some(format!("deployment `{}` is gone", replica.spec.name));
    };
    let another_try =
        matches!(replica.phase, Phase::Failed { .. }) && replica.spec.generation < deployment.spec.generation;
    if another_try || !replica.runs(&deployment.spec) {
        return Some(format!("generation {} replaces it", deployment.spec.generation));
    }
    if !kept(state, deployment).contains(&id) {
        return Some(format!("{} replicas are wanted", deployment.spec.replicas));
    }
    None
}

/// The replicas that stay when there are more than wanted: those that serve, then the oldest.
fn kept(state: &ClusterState, deployment: &Deployment) -> Vec<ReplicaId> {
    let running = state.replicas.iter().filter(|(_, r)| r.runs(&deployment.spec));
    let mut all: Vec<_> = running.map(|(id, r)| (Reverse(matches!(r.phase, Phase::Ready { .. })), *id)).collect();
    all.sort_unstable();
    all.into_iter().take(usize::from(deployment.spec.replicas)).map(|(_, id)| id).collect()
}
