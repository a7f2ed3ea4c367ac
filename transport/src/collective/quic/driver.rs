//! The QUIC state machines of a group and their socket, turned by hand.
//!
//! Not here: what is said on the streams (`link`), who the peers should be (`form`). Invariant: after [`Driver::turn`]
//! everything that was written is handed to the kernel, unless the kernel's own buffer is full ([`Driver::unsent`]).

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use protocol::{Identity, WorldSize};
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ClientConfig, ConnectionHandle, DatagramEvent, EndpointConfig, Event, Incoming, ServerConfig, Transmit,
};
use rustls::pki_types::CertificateDer;

use super::GroupConfig;
use super::budget::Budget;
use super::socket::GroupSocket;
use crate::identity::identity_of;
use crate::quic::ConnectionLost;

/// Most connections at once: every other rank, and as many strangers before they are refused.
const CONNECTIONS_MAX: usize = 2 * WorldSize::MAX as usize;
/// Receive calls in one turn, so that a flood does not keep the caller from its deadline.
const RECEIVES_MAX: usize = 64;

/// A connection of this driver; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConnId(u64);

pub(super) struct Conn {
    pub(super) id: ConnId,
    pub(super) quic: quinn_proto::Connection,
    pub(super) budget: Arc<Budget>,
    /// Written since the last turn, bytes: not yet part of what the budget knows.
    pub(super) written: u64,
    pub(super) lost: Option<quinn_proto::ConnectionError>,
    handle: ConnectionHandle,
    connected: bool,
    incoming: bool,
    drained: bool,
}

impl Conn {
    /// Whether the handshake is through.
    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }

    /// Who the peer is, once it is connected.
    pub(super) fn peer(&self) -> Option<Identity> {
        let certs = self.quic.crypto_session().peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        identity_of(certs.first()?).ok()
    }
}

pub(super) struct Driver {
    socket: GroupSocket,
    endpoint: quinn_proto::Endpoint,
    conns: Vec<Conn>,
    next_id: u64,
    config: GroupConfig,
    server: Arc<QuicServerConfig>,
    /// A packet that the kernel had no room for.
    blocked: Option<(Transmit, Vec<u8>)>,
    buffer: Vec<u8>,
    /// Set while the state machines run: still set in a destructor, it tells that they panicked.
    turning: bool,
}

impl Driver {
    pub(super) fn new(
        socket: GroupSocket,
        server: QuicServerConfig,
        config: GroupConfig,
        mut endpoint_config: EndpointConfig,
    ) -> Self {
        endpoint_config
            .max_udp_payload_size(u16::MAX - 8)
            .expect("below the largest legal value, 65527, by construction");
        let server = Arc::new(server);
        let template = Arc::new(ServerConfig::with_crypto(server.clone()));
        let allow_mtud = !socket.may_fragment();
        let endpoint = quinn_proto::Endpoint::new(Arc::new(endpoint_config), Some(template), allow_mtud, None);
        Self {
            socket,
            endpoint,
            conns: Vec::new(),
            next_id: 0,
            config,
            server,
            blocked: None,
            buffer: Vec::new(),
            turning: false,
        }
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    pub(super) fn conn(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.iter_mut().find(|c| c.id == id)
    }

    /// Why a connection is of no more use; `None` while it lives.
    pub(super) fn lost(&self, id: ConnId) -> Option<ConnectionLost> {
        match self.conns.iter().find(|c| c.id == id) {
            Some(conn) => conn.lost.clone().map(ConnectionLost::from),
            None => Some(ConnectionLost::ClosedHere),
        }
    }

    /// The connections that peers have opened and whose handshake is through.
    pub(super) fn accepted(&self) -> Vec<ConnId> {
        self.conns.iter().filter(|c| c.incoming && c.connected && c.lost.is_none()).map(|c| c.id).collect()
    }

    /// Starts a connection.
    pub(super) fn connect(
        &mut self,
        addr: SocketAddr,
        crypto: QuicClientConfig,
        budget_bytes: u64,
        now: Instant,
    ) -> Result<ConnId, quinn_proto::ConnectError> {
        let budget = Budget::new(budget_bytes);
        let mut client = ClientConfig::new(Arc::new(crypto));
        client.transport_config(self.config.transport(self.socket.local_addr().ip(), addr.ip(), &budget));
        let (handle, quic) = self.endpoint.connect(now, client, addr, "shardglm.internal")?;
        Ok(self.add(handle, quic, budget, false))
    }

    /// What the peers' socket buffers can take of one sender, if they are like ours and `peers` send at once, bytes.
    pub(super) fn budget_bytes(&self, peers: usize) -> u64 {
        // Half, since the kernel counts its own bookkeeping too.
        (self.socket.recv_buffer_bytes() / 2 / peers.max(1)) as u64
    }

    fn add(
        &mut self,
        handle: ConnectionHandle,
        quic: quinn_proto::Connection,
        budget: Arc<Budget>,
        incoming: bool,
    ) -> ConnId {
        let id = ConnId(self.next_id);
        self.next_id += 1;
        self.conns.push(Conn {
            id,
            quic,
            budget,
            written: 0,
            lost: None,
            handle,
            connected: false,
            incoming,
            drained: false,
        });
        id
    }

    /// Receives, serves timers, sends; whether anything moved.
    ///
    /// # Errors
    /// When the socket fails.
    pub(super) fn turn(&mut self, now: Instant) -> io::Result<bool> {
        self.turning = true;
        let received = self.receive(now);
        self.serve(now);
        let sent = self.transmit(now);
        self.turning = false;
        Ok(received? || sent)
    }

    fn receive(&mut self, now: Instant) -> io::Result<bool> {
        let mut moved = false;
        let mut strangers: VecDeque<Incoming> = VecDeque::new();
        for _ in 0..RECEIVES_MAX {
            let Self { socket, endpoint, conns, .. } = self;
            let mut responses: Vec<(Transmit, Vec<u8>)> = Vec::new();
            let any = socket.receive(|meta, datagram| {
                let ecn = meta.ecn.and_then(|e| quinn_proto::EcnCodepoint::from_bits(e as u8));
                let mut response = Vec::new();
                let data = BytesMut::from(datagram);
                match endpoint.handle(now, meta.addr, meta.dst_ip, ecn, data, &mut response) {
                    Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                        if let Some(conn) = conns.iter_mut().find(|c| c.handle == handle && !c.drained) {
                            conn.quic.handle_event(event);
                        }
                    }
                    Some(DatagramEvent::NewConnection(incoming)) => strangers.push_back(incoming),
                    Some(DatagramEvent::Response(transmit)) => responses.push((transmit, response)),
                    None => {}
                }
            })?;
            for (transmit, bytes) in responses {
                // Whoever gets no answer asks again.
                let _ = self.socket.send(&transmit, &bytes);
            }
            while let Some(incoming) = strangers.pop_front() {
                self.accept(incoming, now);
            }
            if !any {
                break;
            }
            moved = true;
        }
        Ok(moved)
    }

    fn accept(&mut self, incoming: Incoming, now: Instant) {
        if self.conns.iter().filter(|c| !c.drained).count() >= CONNECTIONS_MAX {
            // The oldest stranger makes room: a peer that is expected must get through a crowd that is not.
            if let Some(stranger) = self.conns.iter_mut().find(|c| c.incoming && !c.connected && c.lost.is_none()) {
                stranger.quic.close(now, 0u32.into(), Bytes::new());
                stranger.lost = Some(quinn_proto::ConnectionError::LocallyClosed);
            }
            let mut response = Vec::new();
            let transmit = self.endpoint.refuse(incoming, &mut response);
            let _ = self.socket.send(&transmit, &response);
            return;
        }
        // Until the group is known, every peer gets a cautious share; a formed group has few peers.
        let budget = Budget::new(self.budget_bytes(2));
        let mut config = ServerConfig::with_crypto(self.server.clone());
        let remote = incoming.remote_address().ip();
        let transport = self.config.transport(self.socket.local_addr().ip(), remote, &budget);
        config.transport_config(transport).migration(false);
        let mut response = Vec::new();
        match self.endpoint.accept(incoming, now, &mut response, Some(Arc::new(config))) {
            Ok((handle, quic)) => {
                self.add(handle, quic, budget, true);
            }
            Err(e) => {
                tracing::info!(peer = %remote, reason = %e.cause, "handshake refused");
                if let Some(transmit) = e.response {
                    let _ = self.socket.send(&transmit, &response);
                }
            }
        }
    }

    /// Timers and events of every connection.
    fn serve(&mut self, now: Instant) {
        let Self { endpoint, conns, .. } = self;
        for conn in conns.iter_mut().filter(|c| !c.drained) {
            while conn.quic.poll_timeout().is_some_and(|at| at <= now) {
                conn.quic.handle_timeout(now);
            }
            while let Some(event) = conn.quic.poll_endpoint_events() {
                conn.drained |= event.is_drained();
                if let Some(event) = endpoint.handle_event(conn.handle, event) {
                    conn.quic.handle_event(event);
                }
            }
            while let Some(event) = conn.quic.poll() {
                match event {
                    Event::Connected => conn.connected = true,
                    Event::ConnectionLost { reason } => {
                        if conn.incoming && !conn.connected {
                            tracing::info!(peer = %conn.quic.remote_address(), %reason, "handshake refused");
                        }
                        conn.lost.get_or_insert(reason);
                    }
                    // Streams are asked directly, so their events say nothing new.
                    _ => {}
                }
            }
        }
        // A peer's connection that is gone keeps its reason; a stranger's is forgotten.
        conns.retain(|c| !(c.drained && c.incoming && !c.connected));
        self.forget_the_dead();
    }

    /// Keeps the reasons of the latest dead connections only.
    fn forget_the_dead(&mut self) {
        while self.conns.iter().filter(|c| c.drained).count() > CONNECTIONS_MAX / 2 {
            if let Some(oldest) = self.conns.iter().position(|c| c.drained) {
                self.conns.remove(oldest);
            }
        }
    }

    /// Sends all that can be sent; whether anything was.
    pub(super) fn transmit(&mut self, now: Instant) -> bool {
        let Self { socket, conns, blocked, buffer, .. } = self;
        let mut moved = false;
        if let Some((transmit, bytes)) = blocked.take() {
            if !socket.send(&transmit, &bytes) {
                *blocked = Some((transmit, bytes));
                return false;
            }
            moved = true;
        }
        for conn in conns.iter_mut().filter(|c| !c.drained) {
            let segments = socket.segments(conn.quic.current_mtu());
            loop {
                buffer.clear();
                let Some(transmit) = conn.quic.poll_transmit(now, segments, buffer) else { break };
                moved = true;
                if !socket.send(&transmit, buffer) {
                    *blocked = Some((transmit, std::mem::take(buffer)));
                    return moved;
                }
            }
            conn.written = 0;
        }
        moved
    }

    /// Whether something that was written is still here.
    pub(super) fn unsent(&self) -> bool {
        self.blocked.is_some() || self.conns.iter().any(|c| c.written > 0 && c.lost.is_none())
    }

    /// When a timer is due.
    pub(super) fn next_timeout(&mut self) -> Option<Instant> {
        self.conns.iter_mut().filter(|c| !c.drained).filter_map(|c| c.quic.poll_timeout()).min()
    }

    /// Waits for the socket: for datagrams, and for room where a packet waits for it.
    pub(super) async fn ready(&self) -> io::Result<()> {
        self.socket.ready(self.blocked.is_some()).await
    }

    /// Closes one connection; the peer is told with the next turn.
    pub(super) fn close(&mut self, id: ConnId, reason: &str, now: Instant) {
        if let Some(conn) = self.conn(id)
            && conn.lost.is_none()
        {
            conn.quic.close(now, 0u32.into(), Bytes::copy_from_slice(reason.as_bytes()));
            conn.lost = Some(quinn_proto::ConnectionError::LocallyClosed);
        }
    }

    /// Closes every connection and tells the peers, as far as the kernel has room.
    pub(super) fn close_all(&mut self, reason: &str) {
        if self.turning {
            return;
        }
        let now = Instant::now();
        let ids: Vec<ConnId> = self.conns.iter().map(|c| c.id).collect();
        ids.into_iter().for_each(|id| self.close(id, reason, now));
        self.transmit(now);
    }
}
