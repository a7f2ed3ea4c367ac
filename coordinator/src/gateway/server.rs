//! The listener: accepts connections, bounds them, and ends them in order.
//!
//! Every task is one of this gateway's tracker; [`Gateway::shutdown`] returns when all of them have ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::{Bounds, Gate, Places};
use super::attention::Attention;
use super::bundles::Bundles;
use super::counters::{Counters, GatewayStats};
use super::dispatch::Dispatch;
use super::pictures::{Decoders, PictureMemory, Remote, RemoteError};
use super::quic::QuicDispatch;
use super::routes;
use super::state::{App, unix_now};
use super::unstalled::Unstalled;
use super::watched::Watched;
use crate::config::GatewayLimits;
use crate::journal::Journal;
use crate::metrics::Picture;
use crate::view::ClusterView;

/// Most connections at a time; further ones wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 2048;
/// Longest that a connection may take to its first request.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest that a request's head may take, or a connection may idle between requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Most requests at a time on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// How often an HTTP/2 peer is asked whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Pause after a failed accept (no more file descriptors, for instance).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest that cancelled requests may take to tell their clients so.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Where to listen and what to take.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The public address; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Bounds.
    pub limits: GatewayLimits,
    /// Hosts that pictures are fetched from, each a name, with a port where it is not the scheme's own; none: pictures come in
    /// requests alone.
    pub picture_hosts: Vec<String>,
    /// What the leader has heard of workers, for health; `None`: nothing is known of that.
    pub observed: Option<watch::Receiver<Arc<Picture>>>,
    /// What `/metrics` tells of the cluster; `None`: there is no such route.
    pub metrics: Option<watch::Receiver<Arc<Picture>>>,
    /// What keeps named streams; carried by the gateway's own tasks.
    pub journal: Journal,
}

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The address cannot be had.
    #[error("cannot listen on {addr} for the public endpoint: {source}")]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Pictures cannot be fetched from the listed hosts.
    #[error("cannot fetch pictures for clients: {0}")]
    Pictures(#[from] RemoteError),
}

/// A running gateway. Dropped without [`Gateway::shutdown`], it ends at once.
pub struct Gateway {
    addr: SocketAddr,
    draining: CancellationToken,
    stop: CancellationToken,
    tasks: TaskTracker,
    app: Arc<App>,
}

impl Gateway {
    /// Listens, and serves the replicas of `view` through `endpoint` until `cancel`.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub async fn start(
        config: GatewayConfig,
        view: watch::Receiver<Arc<ClusterView>>,
        endpoint: transport::Endpoint,
        cancel: CancellationToken,
    ) -> Result<Self, GatewayError> {
        Self::start_over(config, view, Arc::new(QuicDispatch::new(endpoint)), cancel).await
    }

    /// As [`Gateway::start`], over another way to replicas.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub async fn start_over(
        config: GatewayConfig,
        view: watch::Receiver<Arc<ClusterView>>,
        dispatch: Arc<dyn Dispatch>,
        cancel: CancellationToken,
    ) -> Result<Self, GatewayError> {
        let refused = |source| GatewayError::Listen { addr: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(refused)?;
        let addr = listener.local_addr().map_err(refused)?;
        let stop = cancel.child_token();
        let draining = stop.child_token();
        let tasks = TaskTracker::new();
        let app = assemble(&config, view, dispatch, (draining.clone(), stop.clone()), &tasks)?;
        let server = Server {
            router: routes::router(app.clone()),
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            draining: draining.clone(),
            stop: stop.clone(),
            tasks: tasks.clone(),
        };
        tasks.spawn(config.journal.carry(draining.clone(), stop.clone()));
        tasks.spawn(server.accept(listener));
        tracing::info!(%addr, "public endpoint listens");
        Ok(Self { addr, draining, stop, tasks, app })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it has done so far, and what it holds now.
    #[must_use]
    pub fn stats(&self) -> GatewayStats {
        self.app.stats()
    }

    /// Admits nothing new, lets what runs finish for at most `drain`, then ends it with an error to its client. Returns
    /// when every task has ended.
    pub async fn shutdown(self, drain: Duration) {
        self.draining.cancel();
        self.tasks.close();
        if tokio::time::timeout(drain, self.tasks.wait()).await.is_err() {
            tracing::warn!(drain_ms = drain.as_millis(), "streams were still running when the drain ended");
        }
        self.stop.cancel();
        self.tasks.wait().await;
        tracing::info!(addr = %self.addr, "public endpoint closed");
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What every request is served by; what keeps it up to date runs on `tasks`.
pub(super) fn assemble(
    config: &GatewayConfig,
    view: watch::Receiver<Arc<ClusterView>>,
    dispatch: Arc<dyn Dispatch>,
    (draining, stop): (CancellationToken, CancellationToken),
    tasks: &TaskTracker,
) -> Result<Arc<App>, GatewayError> {
    let bundles = Arc::new(Bundles::default());
    tasks.spawn(bundles.clone().follow(view.clone(), draining.clone()));
    let bounds = Bounds {
        tokens: config.limits.queue_tokens_max,
        bytes: config.limits.queue_bytes_max,
        replica_wait: Duration::from_millis(u64::from(config.limits.replica_wait_ms)),
    };
    let gate = Gate::new(bounds, view.clone());
    tasks.spawn(gate.clone().follow(draining.clone()));
    let attention = Attention::new();
    tasks.spawn(Arc::clone(&attention).follow(view.clone(), Arc::clone(&dispatch), draining.clone()));
    let dispatch = Arc::new(Watched { inner: dispatch, attention: Arc::clone(&attention) });
    Ok(Arc::new(App {
        view,
        bundles,
        dispatch,
        attention,
        observed: config.observed.clone(),
        places: Places::new(config.limits.requests_max),
        gate,
        remote: Remote::new(&config.picture_hosts)?,
        decoders: Decoders::new(),
        picture_memory: PictureMemory::new(config.limits.picture_bytes_max),
        counters: Counters::default(),
        limits: config.limits,
        metrics: config.metrics.clone(),
        journal: config.journal.clone(),
        draining,
        stop,
        started: unix_now(),
    }))
}

struct Server {
    router: Router,
    places: Arc<Semaphore>,
    draining: CancellationToken,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    async fn accept(self, listener: TcpListener) {
        loop {
            let place = tokio::select! {
                () = self.draining.cancelled() => return,
                place = self.places.clone().acquire_owned() => place.expect("the semaphore is never closed"),
            };
            let accepted = tokio::select! {
                () = self.draining.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let connection = self.connection(stream);
                    self.tasks.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn connection(&self, stream: TcpStream) -> impl Future<Output = ()> + Send + use<> {
        let (draining, stop) = (self.draining.clone(), self.stop.clone());
        let started = CancellationToken::new();
        let first = started.clone();
        let router =
            self.router.clone().layer(axum::middleware::from_fn(move |request, next: axum::middleware::Next| {
                first.cancel();
                next.run(request)
            }));
        let mut builder = auto::Builder::new(Tracked(self.tasks.clone()));
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_INTERVAL);
        async move {
            // Small chunks are the rule here, and each should leave at once.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
            let service = TowerToHyperService::new(router);
            let connection = builder.serve_connection(TokioIo::new(Unstalled::new(stream)), service);
            tokio::pin!(connection);
            let idle_too_long = async {
                tokio::select! {
                    () = started.cancelled() => std::future::pending().await,
                    () = tokio::time::sleep(FIRST_REQUEST_TIMEOUT) => {}
                }
            };
            tokio::select! {
                ended = connection.as_mut() => return log_end(ended),
                () = idle_too_long => return tracing::debug!("a connection brought no request"),
                () = draining.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            tokio::select! {
                ended = connection.as_mut() => return log_end(ended),
                () = stop.cancelled() => {}
            }
            // The generations see the same token and tell their clients; whoever does not read is cut off.
            if tokio::time::timeout(LAST_WORDS, connection).await.is_err() {
                tracing::debug!("a connection was cut off");
            }
        }
    }
}

fn log_end(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}

/// HTTP/2 runs each request as a task: one of the gateway's.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F: Future<Output: Send + 'static> + Send + 'static> hyper::rt::Executor<F> for Tracked {
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
