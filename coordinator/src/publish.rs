//! Turns applied state into the one value that the gateway reads.
//!
//! Not here: what the gateway does with it. Invariant: what is routed by was committed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use protocol::CoordinatorId;
use protocol::ReplicaId;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::raft::{AppliedState, Consensus, Leadership};
use crate::state::{Deployment, Phase, Replica};
use crate::view::{ClusterView, Coming, Control, ReadyReplica, ServedDeployment, UnreadyReplica};

/// How often it is looked which other coordinators are connected.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Publishes after each applied entry, each change of leader and each change of who is reached, until cancelled.
pub(crate) async fn follow(consensus: Consensus, view: watch::Sender<Arc<ClusterView>>, cancel: CancellationToken) {
    let mut applied = consensus.applied();
    let mut leadership = consensus.leadership();
    let mut control = Control::default();
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let failed = consensus.failed();
    tokio::pin!(failed);
    loop {
        let Leadership { leader, leaderless_since, .. } = *leadership.borrow_and_update();
        control.leaderless_since = leaderless_since;
        let members = Arc::clone(&consensus.members().borrow());
        let others = members.list.iter().map(|m| m.addrs.id).filter(|id| *id != consensus.id());
        let others: BTreeSet<CoordinatorId> = others.collect();
        control.others = others.len();
        control.unreached = others.difference(&consensus.reached()).copied().collect();
        let fresh = view_of(&applied.borrow_and_update(), leader, control.clone());
        view.send_if_modified(|old| {
            let changed = **old != fresh;
            if changed {
                *old = Arc::new(fresh);
            }
            changed
        });
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = applied.changed() => if changed.is_err() { return },
            changed = leadership.changed() => if changed.is_err() { return },
            reason = &mut failed, if control.fatal.is_none() => control.fatal = Some(reason),
            _ = ticks.tick() => {}
        }
    }
}

fn view_of(applied: &AppliedState, leader: Option<CoordinatorId>, control: Control) -> ClusterView {
    let state = &applied.state;
    let serve = |d: &Deployment| {
        let running = || state.replicas.iter().filter(|(_, r)| r.runs(&d.spec));
        let replicas = running().filter_map(|(id, r)| ready(*id, r)).collect();
        let coming = coming(d, running().map(|(_, r)| &r.phase));
        Arc::new(ServedDeployment { spec: d.spec.clone(), replicas, coming })
    };
    let deployments: Vec<_> = state.deployments.values().map(serve).collect();
    // A group that is not wanted any more is Ready until the leader has said that it drains.
    let draining = state.replicas.iter().filter(|(id, r)| {
        let listed = |d: &Arc<ServedDeployment>| d.replicas.iter().any(|ready| ready.replica == **id);
        match r.phase {
            Phase::Draining { .. } => true,
            Phase::Ready { .. } => !deployments.iter().any(listed),
            Phase::Waiting { .. } | Phase::Forming { .. } | Phase::Failed { .. } => false,
        }
    });
    let draining = draining.map(|(id, r)| (*id, r.epoch)).collect();
    let unready = state.replicas.iter().filter_map(|(id, r)| unready(*id, r)).collect();
    ClusterView { applied_index: applied.index, leader, deployments, draining, unready, control }
}

/// `phases`: of the replicas that run what is wanted. Of several that wait, one that was just lost may have the place that another one
/// lacks.
fn coming<'a>(deployment: &Deployment, phases: impl Iterator<Item = &'a Phase>) -> Coming {
    let wanted = usize::from(deployment.spec.replicas);
    let (mut settled, mut waiting, mut forming) = (0, 0, None);
    for phase in phases {
        match phase {
            Phase::Forming { plan } => forming = forming.max(Some(plan.context_tokens)),
            Phase::Ready { .. } | Phase::Failed { .. } => settled += 1,
            Phase::Waiting { .. } => waiting += 1,
            Phase::Draining { .. } => {}
        }
    }
    match forming {
        _ if wanted == 0 => Coming::No,
        Some(context_tokens) => Coming::Forming { context_tokens },
        None if settled >= wanted || deployment.blocked.is_some() && waiting <= 1 => Coming::No,
        None => Coming::Soon,
    }
}

fn unready(id: ReplicaId, replica: &Replica) -> Option<UnreadyReplica> {
    let reason = match &replica.phase {
        Phase::Ready { .. } => return None,
        Phase::Waiting { reason } => reason.clone(),
        Phase::Forming { .. } => None,
        Phase::Draining { reason, .. } | Phase::Failed { reason } => Some(reason.clone()),
    };
    let (deployment, phase) = (replica.spec.name.clone(), replica.phase.name());
    Some(UnreadyReplica { deployment, group: (id, replica.epoch), phase, reason })
}

fn ready(id: ReplicaId, replica: &Replica) -> Option<ReadyReplica> {
    let Phase::Ready { plan, addrs } = &replica.phase else { return None };
    let leader = addrs.first()?.clone();
    let (context_tokens, kv_tokens) = (plan.context_tokens, plan.kv_tokens);
    Some(ReadyReplica { replica: id, epoch: replica.epoch, context_tokens, kv_tokens, leader })
}

#[cfg(test)]
mod tests {
    use protocol::{Epoch, Generation};

    use super::*;
    use crate::state::fixtures::{addr, inventory, node, plan, spec};
    use crate::state::{ClusterState, Command, DeploymentCommand, NodeCommand, ReplicaCommand};

    fn view(state: &ClusterState) -> ClusterView {
        view_of(&AppliedState { index: 7, state: Arc::new(state.clone()) }, Some(CoordinatorId(1)), Control::default())
    }

    #[test]
    fn only_ready_groups_of_what_is_wanted_are_routed_to() {
        let mut state = ClusterState::default();
        let mut apply = |command| {
            state.apply(command).expect("legal");
            view(&state).deployments.first().map_or(0, |d| d.replicas.len())
        };
        let (replica, epoch) = (ReplicaId(0), Epoch(1));
        let register = NodeCommand::Register { node: node(1), incarnation: 1, inventory: inventory(1) };
        apply(Command::Node(register));
        let put = |expected, tp| Command::Deployment(DeploymentCommand::Put { expected, spec: Box::new(spec(tp, 1)) });
        apply(put(None, 1));
        let create = ReplicaCommand::Create { deployment: "nano".into(), generation: Generation(1) };
        assert_eq!(apply(Command::Replica(create)), 0);
        let form = ReplicaCommand::Form { replica, epoch, plan: plan(&[node(1)]) };
        assert_eq!(apply(Command::Replica(form)), 0);
        let ready = ReplicaCommand::CommitReady { replica, epoch, addrs: vec![addr(0, node(1))] };
        assert_eq!(apply(Command::Replica(ready)), 1);
        assert_eq!(apply(put(Some(Generation(1)), 2)), 0, "the old generation is routed to under the new one's name");
        assert_eq!(apply(put(Some(Generation(2)), 1)), 1);
        let drain = ReplicaCommand::Drain { replica, epoch, reason: "test".into() };
        assert_eq!(apply(Command::Replica(drain)), 0);
    }

    #[test]
    fn a_replica_is_expected_as_long_as_one_is_wanted_and_has_a_place() {
        let mut state = ClusterState::default();
        let (replica, epoch, generation) = (ReplicaId(0), Epoch(1), Generation(1));
        let mut coming = |command| {
            state.apply(command).expect("legal");
            view(&state).deployments.first().map(|d| d.coming)
        };
        let register = NodeCommand::Register { node: node(1), incarnation: 1, inventory: inventory(1) };
        assert_eq!(coming(Command::Node(register)), None);
        let put = |expected, replicas| {
            Command::Deployment(DeploymentCommand::Put { expected, spec: Box::new(spec(1, replicas)) })
        };
        let block = |generation, reason: Option<&str>| {
            let (name, reason) = ("nano".to_owned(), reason.map(str::to_owned));
            Command::Deployment(DeploymentCommand::Block { name, generation, reason })
        };
        assert_eq!(coming(put(None, 1)), Some(Coming::Soon));
        let create = ReplicaCommand::Create { deployment: "nano".into(), generation };
        assert_eq!(coming(Command::Replica(create)), Some(Coming::Soon));
        assert_eq!(coming(block(generation, Some("it does not fit"))), Some(Coming::No));
        assert_eq!(coming(block(generation, None)), Some(Coming::Soon));
        let plan = plan(&[node(1)]);
        let forming = Coming::Forming { context_tokens: plan.context_tokens };
        assert_eq!(coming(Command::Replica(ReplicaCommand::Form { replica, epoch, plan })), Some(forming));
        let ready = ReplicaCommand::CommitReady { replica, epoch, addrs: vec![addr(0, node(1))] };
        assert_eq!(coming(Command::Replica(ready)), Some(Coming::No), "there is one, and no other is wanted");
        let reason = || "test".to_owned();
        assert_eq!(
            coming(Command::Replica(ReplicaCommand::Lose { replica, epoch, reason: reason() })),
            Some(Coming::Soon)
        );
        assert_eq!(coming(put(Some(generation), 0)), Some(Coming::No), "scaled to none");
        assert_eq!(coming(put(Some(Generation(2)), 1)), Some(Coming::Soon));
        let form = ReplicaCommand::Form { replica, epoch: Epoch(2), plan: crate::state::fixtures::plan(&[node(1)]) };
        assert_eq!(coming(Command::Replica(form)), Some(forming));
        let ready = ReplicaCommand::CommitReady { replica, epoch: Epoch(2), addrs: vec![addr(0, node(1))] };
        assert_eq!(coming(Command::Replica(ready)), Some(Coming::No));

        // Another one is wanted and has no place. When the one that had its place is lost, that is there again.
        assert_eq!(coming(put(Some(Generation(3)), 2)), Some(Coming::Soon));
        let create = ReplicaCommand::Create { deployment: "nano".into(), generation: Generation(4) };
        assert_eq!(coming(Command::Replica(create)), Some(Coming::Soon));
        assert_eq!(coming(block(Generation(4), Some("replica 1: it does not fit"))), Some(Coming::No));
        let lose = ReplicaCommand::Lose { replica, epoch: Epoch(2), reason: reason() };
        assert_eq!(coming(Command::Replica(lose)), Some(Coming::Soon));
        assert_eq!(coming(put(Some(Generation(4)), 1)), Some(Coming::Soon));
        let form = ReplicaCommand::Form { replica, epoch: Epoch(3), plan: crate::state::fixtures::plan(&[node(1)]) };
        assert_eq!(coming(Command::Replica(form)), Some(forming));
        let fail = ReplicaCommand::Fail { replica, epoch: Epoch(3), reason: reason() };
        assert_eq!(coming(Command::Replica(fail)), Some(Coming::No));
    }

    #[test]
    fn streams_go_on_until_their_group_is_lost() {
        let mut state = ClusterState::default();
        let (replica, epoch) = (ReplicaId(0), Epoch(1));
        let mut has_group = |command| {
            state.apply(command).expect("legal");
            view(&state).has_group(replica, epoch)
        };
        let register = NodeCommand::Register { node: node(1), incarnation: 1, inventory: inventory(1) };
        has_group(Command::Node(register));
        let put = |expected, tp| Command::Deployment(DeploymentCommand::Put { expected, spec: Box::new(spec(tp, 1)) });
        has_group(put(None, 1));
        let create = ReplicaCommand::Create { deployment: "nano".into(), generation: Generation(1) };
        has_group(Command::Replica(create));
        let form = ReplicaCommand::Form { replica, epoch, plan: plan(&[node(1)]) };
        assert!(!has_group(Command::Replica(form)));
        let ready = ReplicaCommand::CommitReady { replica, epoch, addrs: vec![addr(0, node(1))] };
        assert!(has_group(Command::Replica(ready)));
        assert!(has_group(put(Some(Generation(1)), 2)), "not wanted any more, and not told so yet");
        let drain = ReplicaCommand::Drain { replica, epoch, reason: "test".into() };
        assert!(has_group(Command::Replica(drain)));
        assert!(!view(&state).has_group(replica, epoch.next()));
        let mut has_group = |command| {
            state.apply(command).expect("legal");
            view(&state).has_group(replica, epoch)
        };
        let lose = ReplicaCommand::Lose { replica, epoch, reason: "test".into() };
        assert!(!has_group(Command::Replica(lose)));
    }
}
