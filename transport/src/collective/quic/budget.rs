//! How much may be on its way to a peer: congestion control, moved from inside QUIC to before the write.
//!
//! quinn-proto paces packets below its window, by timers that nobody serves while the thread computes, and a packet that
//! waits for its turn would wait until the next step. So its own window is out of reach, and a rank writes to a stream
//! only what the budget allows: what is written leaves at once. The budget starts at what the peer's socket buffer holds,
//! halves with a loss and grows by acknowledged bytes (additive increase, RFC 9002's appendix B in spirit).

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory};

/// Below this a budget never falls, bytes.
const BUDGET_MIN: u64 = 128 << 10;
/// QUIC's own window, out of reach: above u32::MAX it does not pace either.
const WINDOW: u64 = 1 << 40;

/// Shared by a connection's congestion controller, which reports, and its link, which asks.
#[derive(Debug)]
pub(super) struct Budget {
    in_flight: AtomicU64,
    allowed: AtomicU64,
    max: u64,
}

impl Budget {
    /// At most `max` bytes on their way.
    pub(super) fn new(max: u64) -> Arc<Self> {
        let max = max.max(BUDGET_MIN);
        Arc::new(Self { in_flight: AtomicU64::new(0), allowed: AtomicU64::new(max), max })
    }

    /// Bytes that may be sent on top of those on their way.
    pub(super) fn left(&self) -> u64 {
        self.allowed.load(Ordering::Relaxed).saturating_sub(self.in_flight.load(Ordering::Relaxed))
    }
}

impl ControllerFactory for Budget {
    fn build(self: Arc<Self>, _now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Meter { budget: self, mtu: u64::from(current_mtu), recovery_since: None })
    }
}

/// quinn's controller: it meters and limits nothing.
#[derive(Debug, Clone)]
struct Meter {
    budget: Arc<Budget>,
    mtu: u64,
    recovery_since: Option<Instant>,
}

impl Meter {
    fn in_recovery(&self, sent: Instant) -> bool {
        self.recovery_since.is_some_and(|since| sent <= since)
    }
}

impl Controller for Meter {
    fn on_sent(&mut self, _now: Instant, bytes: u64, _last_packet_number: u64) {
        self.budget.in_flight.fetch_add(bytes, Ordering::Relaxed);
    }

    fn on_ack(&mut self, _now: Instant, sent: Instant, bytes: u64, _app_limited: bool, _rtt: &RttEstimator) {
        let allowed = self.budget.allowed.load(Ordering::Relaxed);
        if allowed < self.budget.max && !self.in_recovery(sent) {
            let more = (self.mtu * bytes).div_ceil(allowed);
            self.budget.allowed.store((allowed + more).min(self.budget.max), Ordering::Relaxed);
        }
    }

    fn on_end_acks(&mut self, _now: Instant, in_flight: u64, _app_limited: bool, _largest: Option<u64>) {
        self.budget.in_flight.store(in_flight, Ordering::Relaxed);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        let in_flight = self.budget.in_flight.load(Ordering::Relaxed);
        self.budget.in_flight.store(in_flight.saturating_sub(lost_bytes), Ordering::Relaxed);
        if self.in_recovery(sent) {
            return;
        }
        self.recovery_since = Some(now);
        let half = self.budget.allowed.load(Ordering::Relaxed) / 2;
        let allowed = if is_persistent_congestion { BUDGET_MIN } else { half.max(BUDGET_MIN) };
        self.budget.allowed.store(allowed, Ordering::Relaxed);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = u64::from(new_mtu);
    }

    fn window(&self) -> u64 {
        WINDOW
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        WINDOW
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_loss_halves_the_budget_once_a_round_trip_and_acknowledgements_give_it_back() {
        let budget = Budget::new(4 << 20);
        let start = Instant::now();
        let mut meter = budget.clone().build(start, 1200);
        meter.on_sent(start, 1 << 20, 0);
        assert_eq!(budget.left(), 3 << 20);
        let later = start + Duration::from_millis(1);
        meter.on_congestion_event(later, start, false, 1 << 20);
        meter.on_congestion_event(later, start, false, 0);
        assert_eq!(
            budget.left(),
            2 << 20,
            "two losses of one round trip count once, and lost bytes are not on their way"
        );
        for _ in 0..10 {
            meter.on_congestion_event(later + Duration::from_secs(1), later + Duration::from_secs(1), true, 0);
        }
        assert_eq!(budget.left(), BUDGET_MIN);
        assert!(meter.window() > u64::from(u32::MAX), "above it quinn does not pace");
    }
}
