//! Limits and timings of an endpoint, and quinn's view of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::identity::NodeIdentity;

/// Limits and timings of an [`super::Endpoint`]. The default suits control connections: a silent peer is given up in
/// five seconds.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    /// A peer that says nothing for so long is lost.
    pub idle_timeout: Duration,
    /// How often an idle connection shows that it lives; below a third of `idle_timeout`.
    pub keep_alive: Duration,
    /// A handshake that takes longer is dropped by the listening side.
    pub handshake_timeout: Duration,
    /// Most streams that one peer may have open at once.
    pub streams_max: u32,
    /// Most handshakes that run at once; more are refused.
    pub handshakes_max: usize,
    /// Largest UDP payload that is tried on a path, bytes (1200 to 6500). Discovery starts at 1200.
    pub mtu_max: u16,
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(5),
            keep_alive: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(5),
            streams_max: 1024,
            handshakes_max: 64,
            mtu_max: MTU_MAX,
        }
    }
}

/// quinn sends ten segments at once (GSO), and a send above 65,507 bytes fails as if the path were broken.
const MTU_MAX: u16 = 6500;
/// Smallest UDP payload that every QUIC path carries, bytes (RFC 9000, 14).
pub(crate) const MTU_MIN: u16 = 1200;
/// Unread bytes that a stream and a connection may hold at the receiver.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// Unacknowledged bytes that a connection may hold at the sender.
const SEND_WINDOW_BYTES: u64 = 16 << 20;
/// Round trip assumed before the first is measured: within a rack, with room for a loaded host.
const INITIAL_RTT: Duration = Duration::from_millis(20);

impl EndpointConfig {
    fn mtu(&self) -> u16 {
        self.mtu_max.clamp(MTU_MIN, MTU_MAX)
    }

    pub(super) fn endpoint(&self, identity: &NodeIdentity, local: SocketAddr) -> quinn::EndpointConfig {
        let mut config = super::endpoint_config(identity, local);
        // What peers may send; by default it caps their discovery at an Ethernet frame.
        config.max_udp_payload_size(self.mtu()).expect("from 1200 to 6500, all of which are legal");
        config
    }

    pub(super) fn transport(&self) -> Arc<TransportConfig> {
        let idle = IdleTimeout::try_from(self.idle_timeout).unwrap_or_else(|_| VarInt::MAX.into());
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(self.mtu());
        let mut t = TransportConfig::default();
        t.max_idle_timeout(Some(idle))
            .keep_alive_interval(Some(self.keep_alive))
            .max_concurrent_bidi_streams(VarInt::from_u32(self.streams_max))
            // The listening side's welcome is the only one-way stream.
            .max_concurrent_uni_streams(VarInt::from_u32(1))
            .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
            .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
            .send_window(SEND_WINDOW_BYTES)
            .send_fairness(false)
            .initial_rtt(INITIAL_RTT)
            .datagram_receive_buffer_size(None)
            .mtu_discovery_config(Some(discovery));
        Arc::new(t)
    }
}
