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
