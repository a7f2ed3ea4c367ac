//! `GET /health/{startup,live,ready}`: what is committed, and what this gateway sees of it.
//!
//! Not here: asking replicas (`attention`). Invariants: ready is 200 only when a request for every deployment would be taken
//! now, and follows within two seconds; an answer costs reading what is known already, whoever asks and however often.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::NodeId;
use protocol::lease::{WorkerPhase, WorkerStatus};
use serde::Serialize;

use super::bundles::BundleState;
use super::reply::json;
use super::state::App;
use crate::view::{ClusterView, Control, ReadyReplica, ServedDeployment};

/// What the leader last heard of a rank counts for so long: without a leader nobody collects it.
const REPORT_AGE_MAX: Duration = Duration::from_secs(3);

#[derive(Serialize)]
struct Health {
    status: &'static str,
    deployments: Vec<DeploymentHealth>,
    /// Why not, one line each.
    reasons: Vec<String>,
    /// What is wrong with the cluster while requests are taken all the same, one line each.
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct DeploymentHealth {
    name: String,
    generation: u64,
    replicas_wanted: u16,
    replicas_ready: usize,
    replicas: Vec<ReplicaHealth>,
}

#[derive(Serialize)]
struct ReplicaHealth {
    replica: u64,
    epoch: u64,
    /// As committed.
    phase: &'static str,
    /// Whether a request would be taken by it.
    ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// The process can do its work.
pub(super) async fn live(State(app): State<Arc<App>>) -> Response {
    let mut reasons = Vec::new();
    // A gateway that drains asks nobody any more.
    if let Some(age) = app.attention.stuck(Instant::now()).filter(|_| !app.draining.is_cancelled()) {
        reasons.push(format!("the process has not come round to its work for {} s", age.as_secs()));
    }
    let control = app.view.borrow().control.clone();
    reasons.extend(control.fatal.map(|why| format!("the coordinator cannot go on: {why}")));
    answer(&health(Vec::new(), reasons, Vec::new()))
}

/// The cluster's state has been read once.
pub(super) async fn startup(State(app): State<Arc<App>>) -> Response {
    let view = app.view.borrow().clone();
    let reasons =
        if view.applied_index > 0 { vec![] } else { vec!["no cluster state has been applied yet".to_owned()] };
    answer(&health(deployments(&app, &view), reasons, Vec::new()))
}

/// Every deployment serves.
pub(super) async fn ready(State(app): State<Arc<App>>) -> Response {
    let view = app.view.borrow().clone();
    let mut reasons = Vec::new();
    if app.draining.is_cancelled() {
        reasons.push("the gateway is shutting down".to_owned());
    }
    if view.deployments.is_empty() {
        reasons.push("no deployment is known".to_owned());
    }
    let deployments = deployments(&app, &view);
    let mut warnings = warnings(&view.control, Instant::now());
    for (served, told) in view.deployments.iter().zip(&deployments) {
        reasons.extend(missing(&app, served, told));
        let (ready, wanted) = (told.replicas_ready, usize::from(told.replicas_wanted));
        if (1..wanted).contains(&ready) {
            warnings.push(format!("deployment `{}`: {ready} of {wanted} replicas are ready", told.name));
        }
    }
    answer(&health(deployments, reasons, warnings))
}

/// Why a request for the deployment would not be taken. One that is scaled to nothing lacks nothing.
fn missing(app: &App, served: &ServedDeployment, told: &DeploymentHealth) -> Vec<String> {
    let name = &told.name;
    let mut reasons = Vec::new();
    if served.replicas.is_empty() && told.replicas_wanted > 0 {
        reasons.push(format!("deployment `{name}`: no replica is ready, {} wanted", told.replicas_wanted));
    } else if told.replicas_ready == 0 {
        let committed = told.replicas.iter().filter(|r| r.phase == READY);
        let why = |r: &ReplicaHealth| {
            format!("deployment `{name}`: replica {}: {}", r.replica, r.reason.as_deref().unwrap_or("not ready"))
        };
        reasons.extend(committed.map(why));
    }
    match app.bundles.get(&served.spec.model) {
        BundleState::Loaded(_) => {}
        BundleState::Loading => reasons.push(format!("deployment `{name}`: its tokenizer is loading")),
        BundleState::Failed(reason, _) => reasons.push(format!("deployment `{name}`: {reason}")),
    }
    reasons
}

/// The phase of a replica that is routed to.
const READY: &str = "ready";

fn deployments(app: &App, view: &ClusterView) -> Vec<DeploymentHealth> {
    let now = Instant::now();
    let told = |served: &Arc<ServedDeployment>| {
        let spec = &served.spec;
        let routed = served.replicas.iter().map(|r| replica(app, r, now));
        let others = view.unready.iter().filter(|r| r.deployment == spec.name).map(|r| ReplicaHealth {
            replica: r.group.0.0,
            epoch: r.group.1.0,
            phase: r.phase,
            ready: false,
            reason: r.reason.clone(),
        });
        let replicas: Vec<_> = routed.chain(others).collect();
        DeploymentHealth {
            name: spec.name.clone(),
            generation: spec.generation.0,
            replicas_wanted: spec.replicas,
            replicas_ready: replicas.iter().filter(|r| r.ready).count(),
            replicas,
        }
    };
    view.deployments.iter().map(told).collect()
}

/// A replica that is committed Ready, as it is seen from here.
fn replica(app: &App, replica: &ReadyReplica, now: Instant) -> ReplicaHealth {
    let reason = app.attention.wrong(replica.group(), now).or_else(|| reported(app, replica, now));
    ReplicaHealth { replica: replica.replica.0, epoch: replica.epoch.0, phase: READY, ready: reason.is_none(), reason }
}

/// What its nodes have lately told the leader that speaks against it.
fn reported(app: &App, replica: &ReadyReplica, now: Instant) -> Option<String> {
    let picture = app.observed.as_ref()?.borrow().clone();
    let workers = picture.workers_of(replica.group(), now, REPORT_AGE_MAX);
    workers.into_iter().find_map(|(node, worker)| against(node, worker))
}

/// What a rank's node says of it that keeps its replica from being ready: that it failed, or that its group's ranks have not
/// answered each other for longer than is good. No proof yet is none against it: the first step comes with the first report.
fn against(node: &NodeId, worker: &WorkerStatus) -> Option<String> {
    let rank = worker.rank;
    match (&worker.phase, worker.proof) {
        (WorkerPhase::Failed { reason, .. }, _) => Some(format!("rank {rank} on {node}: {reason}")),
        (_, Some(proof)) if !proof.is_good() => {
            let s = |ms: u32| f64::from(ms) / 1e3;
            let (age, good) = (s(proof.age_ms), s(proof.good_ms));
            Some(format!(
                "rank {rank} on {node}: its ranks have not all answered for {age:.1} s, at most {good:.1} s is good"
            ))
        }
        _ => None,
    }
}

fn warnings(control: &Control, now: Instant) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(since) = control.leaderless_since {
        let seconds = now.saturating_duration_since(since).as_secs();
        warnings.push(format!("no leader for {seconds} s: changes wait, replicas serve on"));
    }
    warnings.extend(control.unreached.iter().map(|id| format!("coordinator {id} is not reached")));
    let (unreached, all) = (control.unreached.len(), control.others + 1);
    if unreached * 2 >= all {
        warnings.push(format!("{unreached} of {all} coordinators are not reached: changes wait"));
    }
    warnings
}

fn health(deployments: Vec<DeploymentHealth>, reasons: Vec<String>, warnings: Vec<String>) -> Health {
    let status = if reasons.is_empty() { "ok" } else { "unavailable" };
    Health { status, deployments, reasons, warnings }
}

fn answer(health: &Health) -> Response {
    let status = if health.reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let json_type = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (status, json_type, json(health)).into_response()
}

#[cfg(test)]
mod tests {
    use protocol::worker::Proof;
    use protocol::{CoordinatorId, Epoch, Rank, ReplicaId};

    use super::*;

    #[test]
    fn a_replica_is_not_ready_whose_rank_failed_or_whose_ranks_do_not_answer() {
        let node = NodeId::new("node-1").expect("a label");
        let against = |phase, proof: Option<(u32, u32)>| {
            let proof = proof.map(|(age_ms, good_ms)| Proof { age_ms, good_ms });
            let (replica, epoch, rank) = (ReplicaId(0), Epoch(1), Rank(0));
            let worker =
                WorkerStatus { replica, epoch, rank, pid: 1, phase, bytes_read: 1, load: None, stats: None, proof };
            against(&node, &worker)
        };
        for proof in [None, Some((0, 15_000)), Some((15_000, 15_000)), Some((90_000, 100_000))] {
            assert_eq!(against(WorkerPhase::Serving, proof), None, "{proof:?}");
        }
        let old = against(WorkerPhase::Serving, Some((15_001, 15_000))).expect("too old");
        assert!(old.contains("rank 0 on node-1") && old.contains("15.0 s"), "{old}");
        let failed = WorkerPhase::Failed { reason: "signal 9".into(), retryable: true };
        assert!(against(failed, Some((0, 15_000))).is_some_and(|why| why.contains("signal 9")));
    }

    #[test]
    fn the_cluster_warns_of_a_lost_leader_and_of_a_lost_majority() {
        let now = Instant::now();
        let ids = |ids: &[u64]| ids.iter().map(|id| CoordinatorId(*id)).collect::<Vec<_>>();
        let control = |unreached: &[u64], leaderless_since| Control {
            leaderless_since,
            others: 2,
            unreached: ids(unreached),
            fatal: None,
        };
        assert!(warnings(&control(&[], None), now).is_empty());
        assert_eq!(warnings(&control(&[3], None), now), ["coordinator 3 is not reached"]);
        assert_eq!(
            warnings(&control(&[2, 3], Some(now)), now + Duration::from_secs(12)),
            [
                "no leader for 12 s: changes wait, replicas serve on",
                "coordinator 2 is not reached",
                "coordinator 3 is not reached",
                "2 of 3 coordinators are not reached: changes wait",
            ]
        );
        assert!(warnings(&Control::default(), now).is_empty(), "one that is alone by design");
    }
}
