//! What happens to a frame on its way from one port to another. The fate of a frame is a pure function of the link, the
//! moment and the draws.
//!
//! Not here: frames and clocks. Invariant: frames of one direction keep their order unless jitter is wanted.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Port;

/// Longest queue before a link of limited rate, as time: what comes then is dropped.
const QUEUE_MAX: Duration = Duration::from_millis(200);

/// One direction between two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LinkState {
    /// Nothing gets through.
    pub cut: bool,
    /// Share of frames that are lost, per mille.
    pub loss_permille: u16,
    /// How long each frame is on its way.
    pub delay: Duration,
    /// At most so much more, drawn for each frame: frames may overtake each other.
    pub jitter: Duration,
    /// Bits a second; 0: no limit.
    pub rate_bits: u64,
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Lost,
    /// Delivered then.
    At(Instant),
}

/// What a direction remembers: when its wire is free again.
#[derive(Debug, Clone, Copy, Default)]
struct Wire {
    free_at: Option<Instant>,
}

#[derive(Debug)]
struct Inner {
    links: Vec<Vec<LinkState>>,
    wires: Vec<Vec<Wire>>,
    draws: fastrand::Rng,
}

/// All directions.
#[derive(Debug)]
pub struct Weather {
    inner: Mutex<Inner>,
}

impl Weather {
    pub(super) fn new(num_ports: usize, seed: u64) -> Self {
        let links = vec![vec![LinkState::default(); num_ports]; num_ports];
        let wires = vec![vec![Wire::default(); num_ports]; num_ports];
        Self { inner: Mutex::new(Inner { links, wires, draws: fastrand::Rng::with_seed(seed) }) }
    }

    /// Changes one direction.
    ///
    /// # Panics
    /// For a port that the switch does not have.
    pub fn change(&self, from: Port, to: Port, change: impl FnOnce(&mut LinkState)) {
        change(&mut self.lock().links[index(from)][index(to)]);
    }

    /// Changes every direction, or only those for which `which` holds.
    pub fn change_all(&self, which: impl Fn(Port, Port) -> bool, change: impl Fn(&mut LinkState)) {
        let mut inner = self.lock();
        for (i, row) in inner.links.iter_mut().enumerate() {
            for (j, link) in row.iter_mut().enumerate() {
                if which(port(i), port(j)) {
                    change(link);
                }
            }
        }
    }

    /// Fair weather everywhere.
    pub fn clear(&self) {
        self.change_all(|_, _| true, |link| *link = LinkState::default());
    }

    pub(super) fn fate(&self, from: Port, to: Port, bytes: usize, now: Instant) -> Fate {
        let inner = &mut *self.lock();
        let (link, draws) = (inner.links[index(from)][index(to)], &mut inner.draws);
        inner.wires[index(from)][index(to)].fate(&link, bytes, now, || draws.f64())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Plain values: whoever panicked has left them whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn index(port: Port) -> usize {
    usize::from(port.0) - 1
}

fn port(index: usize) -> Port {
    Port(u8::try_from(index + 1).unwrap_or(u8::MAX))
}

impl Wire {
    /// `draw` gives numbers in 0..1.
    fn fate(&mut self, link: &LinkState, bytes: usize, now: Instant, mut draw: impl FnMut() -> f64) -> Fate {
        if link.cut || (link.loss_permille > 0 && draw() * 1000.0 < f64::from(link.loss_permille)) {
            return Fate::Lost;
        }
        let mut at = now;
        if link.rate_bits > 0 {
            let sent = self.free_at.map_or(now, |free| free.max(now));
            let sent = sent + Duration::from_secs_f64(bytes as f64 * 8.0 / link.rate_bits as f64);
            if sent - now > QUEUE_MAX {
                return Fate::Lost;
            }
            self.free_at = Some(sent);
            at = sent;
        }
        Fate::At(at + link.delay + link.jitter.mul_f64(draw()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(link: LinkState, frames: usize, seed: u64) -> (usize, Vec<Duration>) {
        let (mut wire, mut draws, now) = (Wire::default(), fastrand::Rng::with_seed(seed), Instant::now());
        let fates: Vec<Fate> = (0..frames).map(|_| wire.fate(&link, 1250, now, || draws.f64())).collect();
        let at = fates.iter().filter_map(|f| if let Fate::At(at) = f { Some(*at - now) } else { None });
        let at: Vec<Duration> = at.collect();
        (frames - at.len(), at)
    }

    #[test]
    fn a_link_does_what_its_state_says_and_the_same_for_the_same_seed() {
        let fair = LinkState::default();
        assert_eq!(fates(fair, 10, 1), (0, vec![Duration::ZERO; 10]));
        assert_eq!(fates(LinkState { cut: true, ..fair }, 10, 1), (10, vec![]));
        let lossy = LinkState { loss_permille: 50, ..fair };
        let (lost, _) = fates(lossy, 10_000, 7);
        assert!((400..600).contains(&lost), "{lost} of 10000");
        assert_eq!(fates(lossy, 1000, 3), fates(lossy, 1000, 3));
        assert_ne!(fates(lossy, 1000, 3).0, 0);
        let far = LinkState { delay: Duration::from_millis(200), ..fair };
        assert_eq!(fates(far, 3, 1).1, [Duration::from_millis(200); 3]);
        let (_, at) = fates(LinkState { jitter: Duration::from_millis(10), ..far }, 100, 1);
        assert!(at.iter().all(|at| (200..=210).contains(&at.as_millis())) && !at.is_sorted(), "{at:?}");
    }

    #[test]
    fn a_slow_link_sends_one_frame_after_the_other_and_drops_what_would_wait_too_long() {
        // 1250 bytes at 1 Mbit/s: 10 ms each, and 200 ms of them wait.
        let (lost, at) = fates(LinkState { rate_bits: 1_000_000, ..LinkState::default() }, 50, 1);
        let expected: Vec<Duration> = (1..=20).map(|n| Duration::from_millis(10 * n)).collect();
        assert_eq!((lost, at), (30, expected));
    }

    #[test]
    fn a_change_of_one_direction_leaves_the_other() {
        let (weather, now) = (Weather::new(3, 1), Instant::now());
        weather.change(Port(1), Port(2), |link| link.cut = true);
        assert_eq!(weather.fate(Port(1), Port(2), 100, now), Fate::Lost);
        assert_eq!(weather.fate(Port(2), Port(1), 100, now), Fate::At(now));
        weather.change_all(|from, to| from == Port(3) || to == Port(3), |link| link.cut = true);
        let lost = |from, to| weather.fate(Port(from), Port(to), 100, now) == Fate::Lost;
        assert!(lost(1, 3) && lost(3, 2) && !lost(2, 1));
        weather.clear();
        assert!(!lost(1, 3) && !lost(1, 2));
    }
}
