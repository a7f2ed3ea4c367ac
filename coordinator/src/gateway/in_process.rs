//! A gateway without a listener, for the simulator: requests are put to its routes, and answers read, in the same process.
//!
//! Not here: connections. Invariant: from the routes on it is the gateway that listens.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::Request;
use http_body_util::BodyExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::dispatch::Dispatch;
use super::server::{GatewayConfig, GatewayError, assemble};
use crate::config::GatewayLimits;
use crate::gateway::routes;
use crate::journal::Journal;
use crate::view::ClusterView;

/// A gateway without a listener.
#[derive(Debug, Clone)]
pub struct InProcess {
    router: Router,
}

/// An answer, as it comes.
#[derive(Debug)]
pub struct Answer {
    /// Its HTTP status.
    pub status: u16,
    body: Body,
}

impl InProcess {
    /// Serves the replicas of `view` over `dispatch`, by tasks of the runtime that this is called on.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub fn start(view: watch::Receiver<Arc<ClusterView>>, dispatch: Arc<dyn Dispatch>) -> Result<Self, GatewayError> {
        let config = GatewayConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            limits: GatewayLimits::default(),
            picture_hosts: Vec::new(),
            metrics: None,
            observed: None,
            journal: Journal::default(),
        };
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let app = assemble(&config, view, dispatch, (stop.child_token(), stop), &tasks)?;
        Ok(Self { router: routes::router(app) })
    }

    /// Puts a request of JSON.
    ///
    /// # Panics
    /// When `path` is none.
    ///
    /// # Cancel safety
    /// As when a client goes.
    pub async fn post(&self, path: &str, body: String) -> Answer {
        let request = Request::post(path).header("content-type", "application/json").body(Body::from(body));
        let request = request.expect("a path that the caller wrote");
        match self.router.clone().oneshot(request).await {
            Ok(response) => Answer { status: response.status().as_u16(), body: response.into_body() },
            Err(never) => match never {},
        }
    }
}

impl Answer {
    /// The next bytes of its body; `None` after the last.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            let frame = self.body.frame().await?;
            // A body that breaks ends for its reader.
            if let Ok(data) = frame.ok()?.into_data() {
                return Some(data);
            }
        }
    }
}
