//! `GET /v1/models` and `GET /v1/models/{id}`: every name that a request may use, aliases among them.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::bundles::BundleState;
use super::errors::{ApiError, quote};
use super::reply::json;
use super::state::App;
use crate::view::ServedDeployment;

#[derive(Serialize)]
struct List {
    object: &'static str,
    data: Vec<Model>,
}

#[derive(Serialize)]
struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// The model version's own name.
    root: String,
    parent: Option<()>,
    /// Longest context, tokens; null while nothing is known of it.
    max_model_len: Option<u32>,
}

/// The list.
pub(super) async fn list(State(app): State<Arc<App>>) -> Response {
    let data = models(&app).collect();
    answer(&List { object: "list", data })
}

/// One of them.
pub(super) async fn one(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let found = models(&app).find(|model| model.id == id);
    found.map(|model| answer(&model)).ok_or_else(|| ApiError::UnknownModel { model: quote(&id) })
}

fn answer(value: &impl Serialize) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], json(value)).into_response()
}

fn models(app: &App) -> impl Iterator<Item = Model> {
    let view = app.view.borrow().clone();
    let named = |d: &Arc<ServedDeployment>| {
        let max_model_len = context_of(app, d);
        let root = d.spec.model.name.clone();
        let names = d.spec.served_names.clone();
        names.into_iter().map(move |id| Model {
            id,
            object: "model",
            created: app.started,
            owned_by: "shardglm",
            root: root.clone(),
            parent: None,
            max_model_len,
        })
    };
    view.deployments.iter().flat_map(named).collect::<Vec<_>>().into_iter()
}

/// What a ready replica takes; before there is one, what it will take at most.
fn context_of(app: &App, deployment: &ServedDeployment) -> Option<u32> {
    deployment.context_tokens().or(deployment.spec.context_tokens).or_else(|| {
        match app.bundles.get(&deployment.spec.model) {
            BundleState::Loaded(bundle) => Some(bundle.context_tokens),
            BundleState::Loading | BundleState::Failed(..) => None,
        }
    })
}
