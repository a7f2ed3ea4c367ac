//! Turns applied state into the one value that the gateway reads.
//!
//! Not here: what the gateway does with it. Invariant: what is published was committed.

use std::sync::Arc;

use protocol::CoordinatorId;
use protocol::ReplicaId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::raft::{AppliedState, Consensus};
use crate::state::{Deployment, Phase, Replica};
use crate::view::{ClusterView, ReadyReplica, ServedDeployment};

/// Publishes after each applied entry and each change of leader, until cancelled.
pub(crate) async fn follow(consensus: Consensus, view: watch::Sender<Arc<ClusterView>>, cancel: CancellationToken) {
    let mut applied = consensus.applied();
    let mut leadership = consensus.leadership();
    loop {
        let leader = leadership.borrow_and_update().leader;
        let fresh = view_of(&applied.borrow_and_update(), leader);
        view.send_replace(Arc::new(fresh));
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = applied.changed() => if changed.is_err() { return },
            changed = leadership.changed() => if changed.is_err() { return },
        }
    }
}

fn view_of(applied: &AppliedState, leader: Option<CoordinatorId>) -> ClusterView {
    let state = &applied.state;
    let serve = |d: &Deployment| {
        let running = state.replicas.iter().filter(|(_, r)| r.runs(&d.spec));
        let replicas = running.filter_map(|(id, r)| ready(*id, r)).collect();
        Arc::new(ServedDeployment { spec: d.spec.clone(), replicas })
    };
    ClusterView { applied_index: applied.index, leader, deployments: state.deployments.values().map(serve).collect() }
}

fn ready(id: ReplicaId, replica: &Replica) -> Option<ReadyReplica> {
    let Phase::Ready { plan, addrs } = &replica.phase else { return None };
    let leader = addrs.first()?.clone();
    Some(ReadyReplica { replica: id, epoch: replica.epoch, context_tokens: plan.context_tokens, leader })
}

#[cfg(test)]
mod tests {
    use protocol::{Epoch, Generation};

    use super::*;
    use crate::state::fixtures::{addr, inventory, node, plan, spec};
    use crate::state::{ClusterState, Command, DeploymentCommand, NodeCommand, ReplicaCommand};

    fn view(state: &ClusterState) -> ClusterView {
        view_of(&AppliedState { index: 7, state: Arc::new(state.clone()) }, Some(CoordinatorId(1)))
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
}
