//! `GET /metrics`, in Prometheus' text format: of the cluster as last heard, and of this gateway.
//!
//! Not here: names and values (`crate::metrics`). Invariant: a scrape waits for nobody.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::state::App;
use crate::metrics::{self, Families, TEXT_FORMAT};

/// What is known now.
pub(super) async fn tell(State(app): State<Arc<App>>) -> Response {
    let mut families = Families::default();
    if let Some(pictures) = &app.metrics {
        let picture = pictures.borrow().clone();
        metrics::cluster(&picture, Instant::now(), &mut families);
    }
    metrics::gateway(&app.stats(), &mut families);
    ([(header::CONTENT_TYPE, HeaderValue::from_static(TEXT_FORMAT))], families.text()).into_response()
}
