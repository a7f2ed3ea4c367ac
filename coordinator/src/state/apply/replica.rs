//! Commands about replicas: the transitions drawn at [`Phase`].

use protocol::plan::RankAddr;
use protocol::{Epoch, Generation, Plan, Rank, ReplicaId};

use super::deployment;
use super::node;
use crate::state::{Applied, ClusterState, Phase, Refused, Replica, ReplicaCommand, Standing};

pub(super) fn apply(state: &mut ClusterState, command: ReplicaCommand) -> Result<Applied, Refused> {
    match command {
        ReplicaCommand::Create { deployment, generation } => return create(state, &deployment, generation),
        ReplicaCommand::Form { replica, epoch, plan } => form(state, replica, epoch, plan)?,
        ReplicaCommand::CommitReady { replica, epoch, addrs } => commit_ready(state, replica, epoch, addrs)?,
        ReplicaCommand::Lose { replica, epoch, reason } => {
            let r = at_epoch(state, replica, epoch)?;
            match r.phase {
                Phase::Forming { .. } => r.failed_formings = r.failed_formings.saturating_add(1),
                Phase::Ready { .. } | Phase::Draining { .. } => {}
                Phase::Waiting { .. } | Phase::Failed { .. } => return Err(phase(replica, r)),
            }
            r.phase = Phase::Waiting { reason: Some(reason) };
        }
        ReplicaCommand::Fail { replica, epoch, reason } => {
            let r = at_epoch(state, replica, epoch)?;
            if !matches!(r.phase, Phase::Forming { .. } | Phase::Ready { .. }) {
                return Err(phase(replica, r));
            }
            r.phase = Phase::Failed { reason };
        }
        ReplicaCommand::Drain { replica, epoch, reason } => {
            let r = at_epoch(state, replica, epoch)?;
            let Phase::Ready { plan, .. } = &r.phase else { return Err(phase(replica, r)) };
            r.phase = Phase::Draining { plan: plan.clone(), reason };
        }
        ReplicaCommand::Remove { replica, epoch } => {
            at_epoch(state, replica, epoch)?;
            state.replicas.remove(&replica);
        }
    }
    Ok(Applied::Done)
}

fn create(state: &mut ClusterState, name: &str, generation: Generation) -> Result<Applied, Refused> {
    let spec = deployment::find(state, name, generation)?.spec.clone();
    let have = state.replicas_of(name).filter(|(_, r)| r.runs(&spec)).count();
    if have >= usize::from(spec.replicas) {
        return Err(Refused::EnoughReplicas { name: name.to_owned(), wanted: spec.replicas });
    }
    let id = state.next_replica;
    state.next_replica = ReplicaId(id.0 + 1);
    let phase = Phase::Waiting { reason: None };
    state.replicas.insert(id, Replica { spec, epoch: Epoch(0), failed_formings: 0, phase });
    Ok(Applied::Replica(id))
}

fn form(state: &mut ClusterState, id: ReplicaId, epoch: Epoch, plan: Plan) -> Result<(), Refused> {
    let r = find(state, id)?;
    if r.epoch.next() != epoch {
        return Err(Refused::Epoch { replica: id, expected: Epoch(epoch.0.saturating_sub(1)), found: r.epoch });
    }
    if !matches!(r.phase, Phase::Waiting { .. }) {
        return Err(phase(id, r));
    }
    if plan.world_size != r.spec.tp {
        return Err(Refused::PlanSize { replica: id, expected: r.spec.tp, found: plan.world_size });
    }
    plan.validate().map_err(|reason| Refused::PlanMalformed { replica: id, reason })?;
    for rank in &plan.ranks {
        let record = state.nodes.get(&rank.node).ok_or_else(|| Refused::UnknownNode { node: rank.node.clone() })?;
        if record.standing != Standing::Up {
            return Err(node::standing(&rank.node, record));
        }
        if record.cordon.is_set {
            return Err(Refused::Cordoned { node: rank.node.clone() });
        }
    }
    let r = find(state, id)?;
    r.epoch = epoch;
    r.phase = Phase::Forming { plan };
    Ok(())
}

fn commit_ready(state: &mut ClusterState, id: ReplicaId, epoch: Epoch, addrs: Vec<RankAddr>) -> Result<(), Refused> {
    let r = at_epoch(state, id, epoch)?;
    let Phase::Forming { plan } = &r.phase else { return Err(phase(id, r)) };
    for planned in &plan.ranks {
        let fits =
            |a: &RankAddr| a.rank == planned.rank && a.node == planned.node && a.group().is_ok() && a.serve().is_ok();
        if !addrs.get(planned.rank.index()).is_some_and(fits) {
            return Err(Refused::Address { replica: id, rank: planned.rank });
        }
    }
    if addrs.len() > plan.ranks.len() {
        return Err(Refused::Address { replica: id, rank: Rank(plan.world_size.get()) });
    }
    r.phase = Phase::Ready { plan: plan.clone(), addrs };
    r.failed_formings = 0;
    Ok(())
}

fn find(state: &mut ClusterState, id: ReplicaId) -> Result<&mut Replica, Refused> {
    state.replicas.get_mut(&id).ok_or(Refused::UnknownReplica { replica: id })
}

fn at_epoch(state: &mut ClusterState, id: ReplicaId, epoch: Epoch) -> Result<&mut Replica, Refused> {
    let r = find(state, id)?;
    if r.epoch != epoch {
        return Err(Refused::Epoch { replica: id, expected: epoch, found: r.epoch });
    }
    Ok(r)
}

fn phase(replica: ReplicaId, r: &Replica) -> Refused {
    Refused::Phase { replica, found: r.phase.name().to_owned() }
}
