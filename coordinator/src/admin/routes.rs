//! The routes of the admin API.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::Uri;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Json, Router};
use protocol::admin::{Listing, Single};
use protocol::join::JoinRequest;
use protocol::{Identity, Role};
use serde::{Deserialize, Serialize};

use super::error::CallFailed;
use super::server::AdminParts;
use super::{listings, members, writes};
use crate::raft::AppliedState;
use crate::reconcile::Heard;

/// Largest body, bytes: a certificate signing request in JSON.
pub(super) const BODY_BYTES_MAX: usize = 64 << 10;
/// How long one call may take; longer than a write and a read together.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Characters of a name from outside that an error repeats.
pub(super) const NAME_SHOWN_MAX: usize = 200;
/// How long a majority may take to confirm a read.
const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// Who is at the other end; `None` without a certificate.
#[derive(Debug, Clone)]
pub(super) struct Caller(pub(super) Option<Identity>);

pub(super) fn router(parts: Arc<AdminParts>) -> Router {
    let for_admins = Router::new()
        .route("/v1/nodes", get(nodes))
        .route("/v1/members", get(members::list).post(members::add))
        .route("/v1/members/{id}", delete(members::remove))
        .route("/v1/deployments", get(deployments))
        .route("/v1/nodes/{name}", get(node))
        .route("/v1/deployments/{name}", get(deployment))
        .route("/v1/nodes/{name}/cordon", post(writes::cordon))
        .route("/v1/nodes/{name}/uncordon", post(writes::uncordon))
        .route("/v1/deployments/{name}/scale", post(writes::scale))
        .layer(from_fn(admins_only));
    Router::new()
        .route("/v1/join", post(join))
        .merge(for_admins)
        .fallback(async |uri: Uri| CallFailed::NotFound(uri.path().chars().take(NAME_SHOWN_MAX).collect()))
        .method_not_allowed_fallback(async || CallFailed::MethodNotAllowed)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state((), in_time))
        .with_state(parts)
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(CALL_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => CallFailed::Timeout(CALL_TIMEOUT).into_response(),
    }
}

async fn admins_only(Extension(caller): Extension<Caller>, request: Request, next: Next) -> Response {
    match caller.0 {
        Some(identity) if identity.role == Role::Admin => next.run(request).await,
        _ => CallFailed::Unauthorized.into_response(),
    }
}

/// How fresh an answer must be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Consistency {
    /// As of now, wherever it was changed.
    #[default]
    Linearizable,
    /// What this coordinator has.
    Stale,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    #[serde(default)]
    consistency: Consistency,
}

pub(super) type ListArgs = Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>;

/// The state as fresh as was asked for, what is heard of workers, and how fresh it is.
async fn read(parts: &AdminParts, args: ListArgs) -> Result<(AppliedState, Arc<Heard>, String), CallFailed> {
    let Query(query) = args.map_err(|e| CallFailed::BadRequest(e.body_text()))?;
    let (state, consistency) = match query.consistency {
        Consistency::Linearizable => {
            let read = parts.consensus.read(READ_TIMEOUT).await;
            (read.map_err(|source| CallFailed::Read { source, reach: Box::new(parts.reach()) })?, "linearizable")
        }
        Consistency::Stale => (parts.consensus.applied().borrow().clone(), "stale"),
    };
    let heard = parts.consensus.heard().await.unwrap_or_default();
    Ok((state, heard, consistency.to_owned()))
}

/// Reads the state as asked for, and makes a listing of it.
pub(super) async fn list<T>(
    parts: &AdminParts,
    args: ListArgs,
    items: impl FnOnce(&AppliedState, &Heard) -> Vec<T>,
) -> Result<Json<Listing<T>>, CallFailed> {
    let (state, heard, consistency) = read(parts, args).await?;
    let items = items(&state, &heard);
    Ok(Json(Listing { consistency, applied_index: state.index, items }))
}

/// Reads the state as asked for, and takes one thing from it.
async fn single<T>(
    parts: &AdminParts,
    args: ListArgs,
    (what, name): (&'static str, String),
    item: impl FnOnce(&AppliedState, &Heard, &str) -> Option<T>,
) -> Result<Json<Single<T>>, CallFailed> {
    let (state, heard, consistency) = read(parts, args).await?;
    match item(&state, &heard, &name) {
        Some(item) => Ok(Json(Single { consistency, applied_index: state.index, item })),
        None => Err(CallFailed::Unknown { what, name: name.chars().take(NAME_SHOWN_MAX).collect() }),
    }
}

async fn node(State(parts): State<Arc<AdminParts>>, Path(name): Path<String>, args: ListArgs) -> impl IntoResponse {
    single(&parts, args, ("node", name), |s, heard, name| listings::node(&s.state, heard, name)).await
}

async fn deployment(
    State(parts): State<Arc<AdminParts>>,
    Path(name): Path<String>,
    args: ListArgs,
) -> impl IntoResponse {
    let named = |s: &AppliedState, heard: &Heard, name: &str| listings::deployment_named(&s.state, heard, name);
    single(&parts, args, ("deployment", name), named).await
}

async fn nodes(State(parts): State<Arc<AdminParts>>, args: ListArgs) -> impl IntoResponse {
    list(&parts, args, |s, heard| listings::nodes(&s.state, heard)).await
}

async fn deployments(State(parts): State<Arc<AdminParts>>, args: ListArgs) -> impl IntoResponse {
    list(&parts, args, |s, heard| listings::deployments(&s.state, heard)).await
}

async fn join(
    State(parts): State<Arc<AdminParts>>,
    body: Result<Json<JoinRequest>, axum::extract::rejection::JsonRejection>,
) -> Result<Response, CallFailed> {
    let Json(request) = body.map_err(|e| match e.status().as_u16() {
        413 => CallFailed::TooLarge(BODY_BYTES_MAX),
        _ => CallFailed::BadRequest(e.body_text()),
    })?;
    let state = Arc::clone(&parts.consensus.applied().borrow().state);
    Ok(Json(parts.joins.join(&request, &state)?).into_response())
}
