//! `GET /health/{startup,live,ready}`.
//!
//! Invariant: ready is 200 only when a request for every deployment would be taken now.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::bundles::BundleState;
use super::reply::json;
use super::state::App;
use crate::view::ServedDeployment;

/// How long a replica may take to be reached: ready must follow what is so within two seconds.
const REACH_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Health {
    status: &'static str,
    deployments: Vec<DeploymentHealth>,
    /// Why not, one line each.
    reasons: Vec<String>,
}

#[derive(Serialize)]
struct DeploymentHealth {
    name: String,
    generation: u64,
    replicas_wanted: u16,
    replicas_ready: usize,
}

/// The process answers.
pub(super) async fn live() -> Response {
    answer(&Health { status: "ok", deployments: Vec::new(), reasons: Vec::new() })
}

/// The cluster's state has been read once.
pub(super) async fn startup(State(app): State<Arc<App>>) -> Response {
    let started = app.view.borrow().applied_index > 0;
    let reasons = if started { Vec::new() } else { vec!["no cluster state has been applied yet".to_owned()] };
    answer(&health(&app, reasons))
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
    for deployment in &view.deployments {
        reasons.extend(missing(&app, deployment));
        reasons.extend(unreachable(&app, deployment).await);
    }
    answer(&health(&app, reasons))
}

fn missing(app: &App, deployment: &ServedDeployment) -> Vec<String> {
    let name = &deployment.spec.name;
    let mut reasons = Vec::new();
    if deployment.replicas.is_empty() {
        reasons.push(format!("deployment `{name}`: no replica is ready, {} wanted", deployment.spec.replicas));
    }
    match app.bundles.get(&deployment.spec.model) {
        BundleState::Loaded(_) => {}
        BundleState::Loading => reasons.push(format!("deployment `{name}`: its tokenizer is loading")),
        BundleState::Failed(reason, _) => reasons.push(format!("deployment `{name}`: {reason}")),
    }
    reasons
}

/// Why none of the replicas that are committed Ready can be reached; `None` where one can, or where there is none.
async fn unreachable(app: &App, deployment: &ServedDeployment) -> Option<String> {
    let mut last = None;
    for replica in &deployment.replicas {
        match app.dispatch.reach(replica, Instant::now() + REACH_TIMEOUT).await {
            Ok(()) => return None,
            Err(error) => last = Some(error),
        }
    }
    last.map(|error| format!("deployment `{}`: {error}", deployment.spec.name))
}

fn health(app: &App, reasons: Vec<String>) -> Health {
    let view = app.view.borrow().clone();
    let deployments = view.deployments.iter().map(|d| DeploymentHealth {
        name: d.spec.name.clone(),
        generation: d.spec.generation.0,
        replicas_wanted: d.spec.replicas,
        replicas_ready: d.replicas.len(),
    });
    let status = if reasons.is_empty() { "ok" } else { "unavailable" };
    Health { status, deployments: deployments.collect(), reasons }
}

fn answer(health: &Health) -> Response {
    let status = if health.reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let json_type = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (status, json_type, json(health)).into_response()
}
