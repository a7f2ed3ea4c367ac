//! The switch: one thread that carries frames between the hosts' cards, as the [`Weather`] allows.
//!
//! Not here: what the weather does to a frame. Invariant: the thread ends with the [`Switch`], and holds at most
//! [`FRAMES_MAX`] frames.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tappers::linux::Tap;

use super::weather::{Fate, Weather};
use super::{NetError, Port};

/// Most frames under way; more are dropped, as a switch with full buffers does.
const FRAMES_MAX: usize = 65_536;
/// Largest frame, bytes.
const FRAME_BYTES_MAX: usize = 2048;
/// Most frames that are taken from one card before the others have their turn.
const BURST: usize = 64;
/// How often the thread looks whether it should end.
const LOOK: Duration = Duration::from_millis(100);

/// The running switch.
#[derive(Debug)]
pub(super) struct Switch {
    weather: Arc<Weather>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A frame under way; the earliest first, then in the order of coming.
type Flying = Reverse<(Instant, u64, usize, Vec<u8>)>;

struct Forwarder {
    taps: Vec<Tap>,
    weather: Arc<Weather>,
    flying: BinaryHeap<Flying>,
    num_taken: u64,
}

impl Switch {
    /// Port n is the n-th card.
    pub(super) fn start(taps: Vec<Tap>, seed: u64) -> Result<Self, NetError> {
        let weather = Arc::new(Weather::new(taps.len(), seed));
        let stop = Arc::new(AtomicBool::new(false));
        let mut forwarder = Forwarder { taps, weather: Arc::clone(&weather), flying: BinaryHeap::new(), num_taken: 0 };
        let stopped = Arc::clone(&stop);
        let run = move || {
            while !stopped.load(Ordering::Relaxed) {
                forwarder.turn();
            }
        };
        let thread = std::thread::Builder::new().name("switch".to_owned()).spawn(run).map_err(NetError::Switch)?;
        Ok(Self { weather, stop, thread: Some(thread) })
    }

    pub(super) fn weather(&self) -> Arc<Weather> {
        Arc::clone(&self.weather)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Whatever it panicked of was printed.
            let _ = thread.join();
        }
    }
}

impl Forwarder {
    /// Delivers what is due, waits for more, takes it.
    fn turn(&mut self) {
        self.deliver(Instant::now());
        let next = self.flying.peek().map(|Reverse((at, ..))| at.saturating_duration_since(Instant::now()));
        let wait = next.map_or(LOOK, |next| next.min(LOOK));
        let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        let mut cards: Vec<PollFd<'_>> =
            self.taps.iter().map(|tap| PollFd::from_borrowed_fd(tap.as_fd(), PollFlags::IN)).collect();
        if !matches!(poll(&mut cards, Some(&wait)), Ok(1..)) {
            return;
        }
        let readable: Vec<bool> = cards.iter().map(|card| card.revents().contains(PollFlags::IN)).collect();
        for (from, _) in readable.iter().enumerate().filter(|(_, readable)| **readable) {
            self.take(from);
        }
    }

    fn deliver(&mut self, now: Instant) {
        while self.flying.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            if let Some(Reverse((_, _, to, frame))) = self.flying.pop() {
                // A card whose queue is full drops frames, as cards do.
                let _ = self.taps[to].send(&frame);
            }
        }
    }

    fn take(&mut self, from: usize) {
        let mut buffer = [0; FRAME_BYTES_MAX];
        for _ in 0..BURST {
            let Ok(bytes) = self.taps[from].recv(&mut buffer) else { return };
            let frame = &buffer[..bytes];
            let Some(to) = self.destination(frame).filter(|to| *to != from) else { continue };
            let now = Instant::now();
            let Fate::At(at) = self.weather.fate(port(from), port(to), bytes, now) else { continue };
            if at <= now && self.flying.is_empty() {
                let _ = self.taps[to].send(frame);
            } else if self.flying.len() < FRAMES_MAX {
                self.num_taken += 1;
                self.flying.push(Reverse((at, self.num_taken, to, frame.to_vec())));
            }
        }
    }

    /// The card that a frame is for; nothing is flooded, since every host knows every other's address.
    fn destination(&self, frame: &[u8]) -> Option<usize> {
        let address = frame.get(..6)?;
        (0..self.taps.len()).find(|i| port(*i).mac() == address)
    }
}

fn port(index: usize) -> Port {
    Port(u8::try_from(index + 1).unwrap_or(u8::MAX))
}
