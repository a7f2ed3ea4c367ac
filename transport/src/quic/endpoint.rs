//! A UDP port with an identity: connects to peers and accepts them.
//!
//! ```text
//!  connecting side                    listening side
//!     │ ── ClientHello ──────────────▶ │
//!     │ ◀─ certificate, Finished ───── │   connecting side checks role, name, cluster
//!     │ ── certificate, Finished ────▶ │   listening side checks role, cluster
//!     │ ◀─ welcome (one Ping frame) ── │   only now does `connect` return: both have accepted
//! ```
//! In TLS 1.3 the connecting side is done before its own certificate is looked at; without the welcome a refused peer
//! would believe itself connected.

use std::net::SocketAddr;
use std::sync::Arc;

use protocol::frame::Ping;
use protocol::{Epoch, Frame, Role};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::CertificateDer;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::error::StreamError;
use super::{BindError, ConnectError, Connection, ConnectionLost, EndpointConfig, Expect, RecvStream, bind_udp};
use crate::Deadline;
use crate::identity::{NodeIdentity, identity_of};
use crate::tls::{self, TlsError};

/// A QUIC endpoint of one identity. Cheap to clone; clones share the socket.
#[derive(Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

struct Inner {
    quinn: quinn::Endpoint,
    local_addr: SocketAddr,
    identity: NodeIdentity,
    config: EndpointConfig,
    transport: Arc<quinn::TransportConfig>,
    /// Handshakes of incoming connections, run while somebody waits in `accept`.
    handshakes: Mutex<JoinSet<Option<Connection>>>,
}

impl Endpoint {
    /// Listens on `addr` for peers of `accept_roles` (none: connects only), with default limits. To be called on a tokio
    /// runtime.
    ///
    /// # Errors
    /// [`BindError`]; a port in use is named.
    pub fn bind(addr: SocketAddr, identity: &NodeIdentity, accept_roles: &[Role]) -> Result<Self, BindError> {
        Self::bind_with(addr, identity, accept_roles, EndpointConfig::default())
    }

    /// As [`Self::bind`], with limits and timings of the caller's.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind_with(
        addr: SocketAddr,
        identity: &NodeIdentity,
        accept_roles: &[Role],
        config: EndpointConfig,
    ) -> Result<Self, BindError> {
        let transport = config.transport();
        let server = if accept_roles.is_empty() {
            None
        } else {
            let crypto = tls::internal_server(identity, accept_roles)?;
            let crypto = QuicServerConfig::try_from(crypto).map_err(no_initial_suite)?;
            let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
            server.transport_config(transport.clone()).migration(false);
            Some(server)
        };
        let socket = bind_udp(addr)?;
        let local_addr = socket.local_addr().map_err(|e| BindError::new(addr, e))?;
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint_config = config.endpoint(identity, local_addr);
        let quinn =
            quinn::Endpoint::new(endpoint_config, server, socket, runtime).map_err(|e| BindError::new(addr, e))?;
        let identity = identity.clone();
        let handshakes = Mutex::new(JoinSet::new());
        Ok(Self { inner: Arc::new(Inner { quinn, local_addr, identity, config, transport, handshakes }) })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr
    }

    /// Who it is to its peers.
    #[must_use]
    pub fn identity(&self) -> &NodeIdentity {
        &self.inner.identity
    }

    /// Connects to the peer at `addr`, which must be the one expected, and waits until it has accepted us too.
    ///
    /// # Errors
    /// [`ConnectError`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the attempt.
    pub async fn connect(
        &self,
        addr: SocketAddr,
        expect: Expect,
        deadline: impl Into<Deadline>,
    ) -> Result<Connection, ConnectError> {
        let deadline = deadline.into();
        let waited = deadline.remaining();
        match deadline.bound(self.connect_unbounded(addr, &expect, deadline)).await {
            Some(done) => done,
            None => Err(ConnectError::Deadline { addr, waited }),
        }
    }

    async fn connect_unbounded(
        &self,
        addr: SocketAddr,
        expect: &Expect,
        deadline: Deadline,
    ) -> Result<Connection, ConnectError> {
        let crypto = tls::internal_client(&self.inner.identity, expect.clone())?;
        let crypto = QuicClientConfig::try_from(crypto).map_err(no_initial_suite)?;
        let mut client = quinn::ClientConfig::new(Arc::new(crypto));
        client.transport_config(self.inner.transport.clone());
        // The verifier checks the identity; a name must be sent all the same.
        let connecting = self
            .inner
            .quinn
            .connect_with(client, addr, "shardglm.internal")
            .map_err(|e| ConnectError::Unreachable { addr, reason: e.to_string() })?;
        let quinn = connecting.await.map_err(|e| ConnectError::new(addr, expect, e))?;
        let lost = |e: quinn::ConnectionError| ConnectError::new(addr, expect, e);
        let welcome = quinn.accept_uni().await.map_err(lost)?;
        match RecvStream::new(welcome).recv_message::<Ping>(Epoch(0), deadline).await {
            Ok(_) => {}
            Err(StreamError::Lost(_)) => return Err(lost(quinn.closed().await)),
            Err(e) => return Err(ConnectError::Unreachable { addr, reason: format!("no welcome: {e}") }),
        }
        authenticated(quinn)
            .ok_or_else(|| ConnectError::Unreachable { addr, reason: "the connection has no peer identity".to_owned() })
    }

    /// The next peer that has passed the handshake; `None` once the endpoint is closed. Handshakes of other peers go on
    /// while it waits, and those that fail are logged, not returned. One caller at a time makes progress.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped; handshakes then wait for the next call.
    pub async fn accept(&self) -> Option<Connection> {
        let mut handshakes = self.inner.handshakes.lock().await;
        loop {
            tokio::select! {
                incoming = self.inner.quinn.accept() => {
                    let incoming = incoming?;
                    if handshakes.len() >= self.inner.config.handshakes_max {
                        tracing::warn!(peer = %incoming.remote_address(), "too many handshakes at once, peer refused");
                        incoming.refuse();
                        continue;
                    }
                    let deadline = Deadline::after(self.inner.config.handshake_timeout);
                    handshakes.spawn(async move { deadline.bound(handshake(incoming)).await.flatten() });
                }
                Some(done) = handshakes.join_next() => {
                    if let Ok(Some(connection)) = done {
                        return Some(connection);
                    }
                }
            }
        }
    }

    /// Closes every connection at once, tells the peers, and waits until that is on its way or the deadline has passed.
    /// `accept` returns `None` from now on.
    pub async fn close(&self, reason: &str, deadline: impl Into<Deadline>) {
        self.inner.quinn.close(0u32.into(), reason.as_bytes());
        // Past the deadline the peers find out by their idle timeout.
        let _ = deadline.into().bound(self.inner.quinn.wait_idle()).await;
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Endpoint({} at {})", self.inner.identity.identity(), self.inner.local_addr)
    }
}

fn no_initial_suite(e: quinn::crypto::rustls::NoInitialCipherSuite) -> TlsError {
    TlsError::Config(rustls::Error::General(e.to_string()))
}

async fn handshake(incoming: quinn::Incoming) -> Option<Connection> {
    let peer = incoming.remote_address();
    let refused = |e: quinn::ConnectionError| {
        tracing::info!(%peer, reason = %e, "handshake refused");
    };
    let quinn = match incoming.accept() {
        Ok(connecting) => connecting.await.map_err(refused).ok()?,
        Err(e) => {
            refused(e);
            return None;
        }
    };
    let connection = authenticated(quinn.clone())?;
    let welcome = Frame::bytes_of(Epoch(0), &Ping { nonce: 0 }).expect("a ping is short");
    let mut stream = quinn.open_uni().await.map_err(refused).ok()?;
    stream.write_all(&welcome).await.ok()?;
    stream.finish().ok()?;
    Some(connection)
}

/// The connection with its peer's identity; the verifiers have let nobody pass who has none.
fn authenticated(quinn: quinn::Connection) -> Option<Connection> {
    let certs = quinn.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let identity = identity_of(certs.first()?).ok()?;
    Some(Connection::new(quinn, identity))
}

impl ConnectionLost {
    /// The reason a closed quinn connection has.
    pub(super) fn of(quinn: &quinn::Connection) -> Self {
        quinn.close_reason().map_or(Self::ClosedHere, Self::from)
    }
}
