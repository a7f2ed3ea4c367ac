//! The admin API's lists, from applied state and what the leader has heard. Pure.

use protocol::admin::{DeploymentInfo, NodeHealth, NodeInfo, RankInfo, ReplicaInfo, ReplicaPhase};
use protocol::lease::WorkerStatus;
use protocol::worker::EngineLoad;
use protocol::{DeploymentSpec, NodeId, Rank, RankPlan, ReplicaId};

use crate::reconcile::Heard;
use crate::state::{ClusterState, Deployment, NodeRecord, Phase, Replica};

pub(super) fn nodes(state: &ClusterState, heard: &Heard) -> Vec<NodeInfo> {
    state.nodes.iter().map(|(node, record)| node_info(state, heard, node, record)).collect()
}

/// One node, where it is known.
pub(super) fn node(state: &ClusterState, heard: &Heard, name: &str) -> Option<NodeInfo> {
    let (node, record) = state.nodes.iter().find(|(node, _)| node.as_str() == name)?;
    Some(node_info(state, heard, node, record))
}

fn node_info(state: &ClusterState, heard: &Heard, node: &NodeId, record: &NodeRecord) -> NodeInfo {
    NodeInfo {
        node: node.clone(),
        health: if record.is_alive() { NodeHealth::Up } else { NodeHealth::Down },
        cordoned: record.cordon.is_set,
        revision: record.cordon.revision,
        inventory: record.inventory.clone(),
        ranks: state
            .replicas
            .iter()
            .flat_map(|(id, r)| ranks(*id, r, heard))
            .filter(|rank| rank.node == *node)
            .collect(),
    }
}

pub(super) fn deployments(state: &ClusterState, heard: &Heard) -> Vec<DeploymentInfo> {
    let unreadable = |name: &str| state.unreadable.get(name).map(|r| format!("its model cannot be read: {r}"));
    let known = state.deployments.values().map(|d| {
        let mut info = deployment(state, heard, d);
        info.blocked = unreadable(&d.spec.name).or(info.blocked);
        info
    });
    let unknown = state.unreadable.keys().filter(|name| !state.deployments.contains_key(*name));
    known.chain(unknown.map(|name| unread(name, unreadable(name)))).collect()
}

/// One deployment, where it is known.
pub(super) fn deployment_named(state: &ClusterState, heard: &Heard, name: &str) -> Option<DeploymentInfo> {
    deployments(state, heard).into_iter().find(|d| d.name == name)
}

fn deployment(state: &ClusterState, heard: &Heard, deployment: &Deployment) -> DeploymentInfo {
    let spec = &deployment.spec;
    let plan = state.replicas_of(&spec.name).filter(|(_, r)| r.runs(spec)).find_map(|(_, r)| r.plan());
    DeploymentInfo {
        name: spec.name.clone(),
        generation: spec.generation,
        model: model(spec),
        served_names: spec.served_names.clone(),
        tp: spec.tp.get(),
        replicas_wanted: spec.replicas,
        dtype: spec.dtype.as_str().to_owned(),
        context_tokens: plan.map(|p| p.context_tokens),
        kv_tokens: plan.map(|p| p.kv_tokens),
        pictures: spec.pictures,
        blocked: deployment.blocked.clone(),
        replicas: state.replicas_of(&spec.name).map(|(id, r)| replica(id, r, heard)).collect(),
    }
}

/// A configured deployment of which nothing is known but why.
fn unread(name: &str, blocked: Option<String>) -> DeploymentInfo {
    DeploymentInfo {
        name: name.to_owned(),
        generation: protocol::Generation(0),
        model: "unknown".to_owned(),
        served_names: Vec::new(),
        tp: 0,
        replicas_wanted: 0,
        dtype: "unknown".to_owned(),
        context_tokens: None,
        kv_tokens: None,
        pictures: None,
        blocked,
        replicas: Vec::new(),
    }
}

fn model(spec: &DeploymentSpec) -> String {
    let version: String = spec.model.digest.chars().take(12).collect();
    format!("{}@{version}", spec.model.name)
}

fn replica(id: ReplicaId, replica: &Replica, heard: &Heard) -> ReplicaInfo {
    let (phase, reason) = match &replica.phase {
        Phase::Waiting { reason } => (ReplicaPhase::Forming, reason.clone()),
        Phase::Forming { .. } => (ReplicaPhase::Forming, None),
        Phase::Ready { .. } => (ReplicaPhase::Ready, None),
        Phase::Draining { reason, .. } => (ReplicaPhase::Draining, Some(reason.clone())),
        Phase::Failed { reason } => (ReplicaPhase::Failed, Some(reason.clone())),
    };
    ReplicaInfo {
        replica: id,
        epoch: replica.epoch,
        phase,
        reason,
        ranks: ranks(id, replica, heard),
        load: load(id, replica, heard),
    }
}

fn ranks(id: ReplicaId, replica: &Replica, heard: &Heard) -> Vec<RankInfo> {
    let info = |planned: &RankPlan| {
        let worker = worker(id, replica, planned, heard);
        RankInfo {
            replica: id,
            epoch: replica.epoch,
            rank: planned.rank,
            node: planned.node.clone(),
            budget: planned.budget,
            bytes_read: worker.map(|w| w.bytes_read),
            phase: worker.map(|w| w.phase.clone()),
        }
    };
    replica.plan().map(|p| p.ranks.iter().map(info).collect()).unwrap_or_default()
}

fn load(id: ReplicaId, replica: &Replica, heard: &Heard) -> Option<EngineLoad> {
    let first = replica.plan()?.ranks.iter().find(|r| r.rank == Rank(0))?;
    worker(id, replica, first, heard)?.load
}

fn worker<'a>(id: ReplicaId, replica: &Replica, planned: &RankPlan, heard: &'a Heard) -> Option<&'a WorkerStatus> {
    heard.workers(&planned.node).iter().find(|w| w.replica == id && w.epoch == replica.epoch && w.rank == planned.rank)
}
