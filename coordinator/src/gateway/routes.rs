//! The table of routes.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::routing::{get, post};

use super::chat::Chat;
use super::completions::Completions;
use super::errors::{ApiError, quote};
use super::handler::handle;
use super::state::App;
use super::{body, counters, health, metrics, models, pick_up, request_id};

/// Every route of the public endpoint. The API stands under `/v1` and, for GLM's own clients, under `/api/paas/v4`.
pub(super) fn router(app: Arc<App>) -> Router {
    let api = Router::new()
        .route("/chat/completions", post(handle::<Chat>))
        .route("/completions", post(handle::<Completions>))
        .route("/requests/{id}/stream", get(pick_up::stream))
        .route("/models", get(models::list))
        .route("/models/{*id}", get(models::one));
    let metrics = app.metrics.is_some().then(|| Router::new().route("/metrics", get(metrics::tell)));
    metrics
        .unwrap_or_default()
        .nest("/v1", api.clone())
        .nest("/api/paas/v4", api)
        .route("/health/startup", get(health::startup))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .fallback(unknown_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(axum::middleware::from_fn(request_id::layer))
        .layer(axum::middleware::from_fn_with_state(app.clone(), counters::layer))
        .with_state(app)
}

async fn unknown_route(request: Request) -> ApiError {
    let error = ApiError::UnknownRoute { method: request.method().to_string(), path: quote(request.uri().path()) };
    body::discard(request.into_body()).await;
    error
}

async fn method_not_allowed(request: Request) -> ApiError {
    ApiError::MethodNotAllowed { method: request.method().to_string(), path: quote(request.uri().path()) }
}
