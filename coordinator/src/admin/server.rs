//! The listener: accepts, authenticates, bounds and ends connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use protocol::Identity;
use protocol::admin::Reach;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use transport::NodeIdentity;
use transport::identity::identity_of;
use transport::tls::{TlsError, admin_server_config};

use super::join::Joins;
use super::routes::{Caller, router};
use crate::raft::Consensus;

/// Most connections at once.
const CONNECTIONS_MAX: usize = 128;
/// How long a handshake, and the head of a request, may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may last.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);
/// Pause after a failed accept: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the admin listener did not start.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address cannot be had.
    #[error("cannot listen on {addr} for the admin API: {source}")]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The identity is of no use for TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What the routes work on.
#[derive(Debug)]
pub(crate) struct AdminParts {
    /// Raft.
    pub consensus: Consensus,
    /// Joining.
    pub joins: Joins,
}

impl AdminParts {
    /// What this coordinator sees of the others.
    pub(super) fn reach(&self) -> Reach {
        let (coordinator, up) = (self.consensus.id(), self.consensus.reached());
        let members = self.consensus.members().borrow().clone();
        let others = members.list.iter().map(|m| m.addrs.id).filter(|id| *id != coordinator);
        let (reached, unreached) = others.partition(|id| up.contains(id));
        Reach { coordinator, reached, unreached, led_last: self.consensus.leadership().borrow().led_last }
    }
}

/// A bound admin listener that does not serve yet.
pub(crate) struct Admin {
    listener: TcpListener,
    addr: SocketAddr,
    tls: TlsAcceptor,
}

impl Admin {
    /// Binds `addr`.
    ///
    /// # Errors
    /// [`AdminError`].
    pub(crate) async fn bind(addr: SocketAddr, identity: &NodeIdentity) -> Result<Self, AdminError> {
        // HTTP/2 would run requests on tasks of its own; an admin API needs no multiplexing.
        let mut config = admin_server_config(identity)?.as_ref().clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let refused = |source| AdminError::Listen { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(refused)?;
        let addr = listener.local_addr().map_err(refused)?;
        Ok(Self { listener, addr, tls: TlsAcceptor::from(Arc::new(config)) })
    }

    /// Where it listens.
    #[must_use]
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves on `tasks` until `cancel`.
    pub(crate) async fn serve(self, parts: Arc<AdminParts>, tasks: TaskTracker, cancel: CancellationToken) {
        let router = router(parts);
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let place = tokio::select! {
                () = cancel.cancelled() => return,
                place = Arc::clone(&places).acquire_owned() => place.expect("the semaphore is never closed"),
            };
            let accepted = tokio::select! {
                () = cancel.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let served = connection(stream, self.tls.clone(), router.clone(), cancel.clone());
                    tasks.spawn(async move {
                        if let Err(reason) = served.await {
                            tracing::debug!(%peer, %reason, "an admin connection broke");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an admin connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Admin({})", self.addr)
    }
}

/// How a connection broke; for the log.
#[derive(Debug, thiserror::Error)]
enum Broke {
    #[error("no handshake in time")]
    Slow,
    #[error("handshake: {0}")]
    Handshake(std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("open for {CONNECTION_TIMEOUT:?}")]
    Old,
}

async fn connection(
    stream: TcpStream,
    tls: TlsAcceptor,
    router: Router,
    cancel: CancellationToken,
) -> Result<(), Broke> {
    let handshake = tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream));
    let stream = handshake.await.map_err(|_| Broke::Slow)?.map_err(Broke::Handshake)?;
    let certificates = stream.get_ref().1.peer_certificates();
    let caller: Option<Identity> = certificates.and_then(|c| c.first()).and_then(|c| identity_of(c).ok());
    let service = TowerToHyperService::new(router.layer(Extension(Caller(caller))));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = tokio::time::sleep(CONNECTION_TIMEOUT) => return Err(Broke::Old),
        () = cancel.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    // A call has its own time limit.
    Ok(connection.await?)
}
