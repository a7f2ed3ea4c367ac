//! Timings and sizes of a group's connections, and quinn's view of them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn_proto::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use super::budget::Budget;
use crate::quic::MTU_MIN;

/// Timings and sizes of a [`super::QuicGroup`].
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// How long a wait spins before it sleeps. A sleeping rank takes some 20 µs to wake; a spinning one keeps a core busy.
    pub spin: Duration,
    /// A peer whose process is silent for so long is lost. Longer than any step: nobody answers while it computes.
    pub idle_timeout: Duration,
    /// How often an idle connection shows that it lives; and so how soon an idle rank learns that a peer's process was replaced.
    pub keep_alive: Duration,
    /// UDP payload between ranks of one host, bytes (1200 to 16000).
    pub mtu_local: u16,
    /// Largest UDP payload that is tried between hosts, bytes (1200 to 16000); discovery starts at 1200.
    pub mtu_max: u16,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            spin: Duration::from_micros(50),
            idle_timeout: Duration::from_secs(300),
            keep_alive: Duration::from_secs(2),
            mtu_local: 8972,
            mtu_max: 8952,
        }
    }
}

/// The length of a handshake packet has two bytes, of which 14 bits count (RFC 9000, 16 and 17.2).
const MTU_MAX: u16 = 16_000;
/// Unread bytes that a link may hold at the receiver, and unacknowledged ones at the sender.
const WINDOW_BYTES: u32 = 16 << 20;
/// Round trip assumed before the first is measured: within a rack.
const INITIAL_RTT: Duration = Duration::from_micros(200);
/// Packets after which an acknowledgement is sent on its own; below, it rides on the peer's next values.
const ACK_PACKETS: u32 = 20;

impl GroupConfig {
    /// quinn's parameters of one connection, whose sending `budget` governs.
    pub(super) fn transport(&self, local: IpAddr, remote: IpAddr, budget: &Arc<Budget>) -> Arc<TransportConfig> {
        let idle = IdleTimeout::try_from(self.idle_timeout).unwrap_or_else(|_| VarInt::MAX.into());
        let mut acks = AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(VarInt::from_u32(ACK_PACKETS));
        let mut t = TransportConfig::default();
        t.max_idle_timeout(Some(idle))
            .keep_alive_interval(Some(self.keep_alive))
            // One stream a pair, opened by the higher rank.
            .max_concurrent_bidi_streams(VarInt::from_u32(1))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .stream_receive_window(VarInt::from_u32(WINDOW_BYTES))
            .receive_window(VarInt::from_u32(WINDOW_BYTES))
            .send_window(u64::from(WINDOW_BYTES))
            .send_fairness(false)
            .initial_rtt(INITIAL_RTT)
            .ack_frequency_config(Some(acks))
            .datagram_receive_buffer_size(None)
            .congestion_controller_factory(budget.clone());
        if remote.is_loopback() || remote == local {
            let mtu = self.mtu_local.clamp(MTU_MIN, MTU_MAX);
            t.initial_mtu(mtu).min_mtu(mtu).mtu_discovery_config(None);
        } else {
            let mut discovery = MtuDiscoveryConfig::default();
            discovery.upper_bound(self.mtu_max.clamp(MTU_MIN, MTU_MAX));
            t.mtu_discovery_config(Some(discovery));
        }
        Arc::new(t)
    }
}
