//! What a node is told: its whole desired state, from the committed state and the ranks' addresses.

use std::time::Duration;

use protocol::lease::{NodeOrders, RankGoal, RankOrder, WorkerPhase};
use protocol::plan::RankAddr;
use protocol::{NodeId, Plan, Rank, RankPlan, ReplicaId, Term};

use super::groups::is_own;
use super::observed::Observed;
use crate::config::LeaseTimings;
use crate::state::{ClusterState, Phase, Replica};

/// Orders of `node`, for a leader of `term`; who the coordinators are is not in the state, and is added by whoever knows.
pub(super) fn orders(
    state: &ClusterState,
    observed: &Observed,
    node: &NodeId,
    term: Term,
    lease: LeaseTimings,
) -> NodeOrders {
    let mut ranks = Vec::new();
    for (id, replica) in state.replicas.iter().filter(|(_, r)| r.is_on(node)) {
        let Some(plan) = replica.plan() else { continue };
        for rank in plan.ranks.iter().filter(|r| r.node == *node) {
            ranks.push(RankOrder {
                replica: *id,
                epoch: replica.epoch,
                rank: rank.rank,
                deployment: replica.spec.clone(),
                plan: plan.clone(),
                goal: goal(observed, *id, replica, plan, rank.rank),
            });
        }
    }
    NodeOrders { term, lease_ms: lease.lease_ms, heartbeat_ms: lease.heartbeat_ms, ranks, coordinators: Vec::new() }
}

/// How long a leader waits for a node's first report in its term: two leases, since the node must first find it.
pub(super) fn grace(lease: LeaseTimings) -> Duration {
    Duration::from_millis(u64::from(lease.lease_ms) * 2)
}

fn goal(observed: &Observed, id: ReplicaId, replica: &Replica, plan: &Plan, rank: Rank) -> RankGoal {
    match &replica.phase {
        Phase::Ready { .. } => RankGoal::Serve,
        // Rank 0 admits and leads the steps: the others end when it has.
        Phase::Draining { .. } if rank == Rank(0) => RankGoal::Drain,
        Phase::Draining { .. } => RankGoal::Serve,
        Phase::Forming { .. } | Phase::Waiting { .. } | Phase::Failed { .. } => {
            let loaded = plan.ranks.iter().map(|r| loaded(observed, id, replica, r)).collect::<Option<Vec<_>>>();
            loaded.map_or(RankGoal::Load, |peers| RankGoal::Connect { peers })
        }
    }
}

/// The rank's address, once it holds its shard.
fn loaded(observed: &Observed, id: ReplicaId, replica: &Replica, rank: &RankPlan) -> Option<RankAddr> {
    let seen = observed.rank((id, replica.epoch), rank.rank, &rank.node)?;
    let listens = matches!(
        seen.phase,
        WorkerPhase::Loaded { .. } | WorkerPhase::Connected | WorkerPhase::Serving | WorkerPhase::Draining
    );
    seen.addr.clone().filter(|addr| listens && !seen.vanished && is_own(addr, rank))
}
