//! Small states to show to the invariants.

use std::sync::Arc;

use coordinator::raft::AppliedState;
use coordinator::state::{ClusterState, Deployment, Phase, Replica};
use protocol::{
    AtomRun, ByteBudget, CoordinatorId, Epoch, NodeId, Plan, Rank, RankCut, RankPlan, ReplicaId, Span, WorldSize,
};

use crate::fact::Fact;
use crate::operator::{DEPLOYMENT, spec};

/// A plan whose rank `i` is on node `nodes[i]`.
pub(super) fn plan(nodes: &[u16]) -> Plan {
    let (span, run) = (Span { start: 0, end: 1 }, AtomRun { start: 0, end: 1 });
    let cut =
        RankCut { head_atoms: run, heads: span, kv_heads: span, mlp_atoms: run, mlp_cols: span, vocab_rows: span };
    let budget = ByteBudget { weights: 1, kv_cache: 0, activations: 0 };
    let rank = |(i, n): (usize, &u16)| RankPlan {
        rank: Rank(i as u16),
        node: NodeId::new(format!("node-{n}")).expect("a label"),
        cut: cut.clone(),
        budget,
    };
    Plan {
        world_size: WorldSize::new(nodes.len() as u16).expect("in range"),
        kv_tokens: 256,
        context_tokens: 128,
        ranks: nodes.iter().enumerate().map(rank).collect(),
    }
}

/// Ready on these nodes.
pub(super) fn ready(nodes: &[u16]) -> Phase {
    Phase::Ready { plan: plan(nodes), addrs: Vec::new() }
}

/// What a coordinator has applied at `index`: so many replicas wanted, and these there, each with its epoch.
pub(super) fn applied(index: u64, wanted: u16, replicas: Vec<(u64, Phase)>) -> AppliedState {
    let mut state = ClusterState::default();
    state.deployments.insert(DEPLOYMENT.to_owned(), Deployment { spec: spec(wanted), blocked: None, configured: None });
    for (id, (epoch, phase)) in (1..).zip(replicas) {
        let replica = Replica { spec: spec(wanted), epoch: Epoch(epoch), failed_formings: 0, phase };
        state.replicas.insert(ReplicaId(id), replica);
    }
    AppliedState { index, state: Arc::new(state) }
}

/// The same as a fact.
pub(super) fn seen(index: u64, wanted: u16, replicas: Vec<(u64, Phase)>) -> Fact {
    Fact::Applied { coordinator: CoordinatorId(1), applied: applied(index, wanted, replicas) }
}
