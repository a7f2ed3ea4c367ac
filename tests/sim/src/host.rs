//! One simulated machine: a process on a tokio runtime of its own, with a clock of its own that only the world turns.
//!
//! ```text
//!            start                 pause
//!  Down ───────────────▶ Up ◀──────────────▶ Paused      a paused process gets no turn while time goes on, and then has
//!   ▲                    │      resume         │         all of that time at once, as after SIGCONT
//!   └────────────────────┴─────── kill ────────┘
//! ```
//! Not here: what runs on it. Invariant: what a killed process had in memory is gone before anything else happens.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::runtime::Runtime;

/// Which machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostId {
    /// A coordinator's.
    Coordinator(u64),
    /// A node's.
    Node(u16),
    /// A client's, admin or other.
    Client(u16),
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator(id) => write!(f, "c{id}"),
            Self::Node(n) => write!(f, "n{n}"),
            Self::Client(n) => write!(f, "w{n}"),
        }
    }
}

/// Its process.
#[derive(Debug)]
enum Process {
    Down,
    Up(Runtime),
    Paused {
        runtime: Runtime,
        /// How much time it has not seen.
        missed: Duration,
    },
}

/// A machine.
#[derive(Debug)]
pub struct Host {
    process: Process,
    /// How fast its clock goes, per mille of true time.
    rate: u32,
}

impl Default for Host {
    fn default() -> Self {
        Self { process: Process::Down, rate: 1000 }
    }
}

impl Host {
    /// Starts an empty process; what should run on it is spawned then. A process that was there is killed.
    ///
    /// # Panics
    /// When the system has no room for another runtime.
    pub fn start(&mut self) {
        self.kill();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        self.process = Process::Up(runtime.expect("a runtime without I/O needs nothing but memory"));
    }

    /// Ends the process without a word.
    pub fn kill(&mut self) {
        self.process = Process::Down;
    }

    /// Gives it no turn until it is resumed.
    pub fn pause(&mut self) {
        self.process = match std::mem::replace(&mut self.process, Process::Down) {
            Process::Up(runtime) => Process::Paused { runtime, missed: Duration::ZERO },
            other => other,
        };
    }

    /// Lets it go on; all the time that it missed is there at once.
    pub fn resume(&mut self) {
        self.process = match std::mem::replace(&mut self.process, Process::Down) {
            Process::Paused { runtime, missed } => {
                runtime.block_on(async { tokio::time::advance(missed).await });
                Process::Up(runtime)
            }
            other => other,
        };
    }

    /// Lets its clock go at `rate` per mille of true time.
    pub fn set_rate(&mut self, rate: u32) {
        self.rate = rate;
    }

    /// Whether there is a process, paused or not.
    #[must_use]
    pub fn is_up(&self) -> bool {
        !matches!(self.process, Process::Down)
    }

    /// Whether its process gets turns.
    #[must_use]
    pub fn runs(&self) -> bool {
        matches!(self.process, Process::Up(_))
    }

    /// Has it do `task` in its next turns; nothing happens where there is no process.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Process::Up(runtime) | Process::Paused { runtime, .. } = &self.process {
            runtime.spawn(task);
        }
    }

    /// One turn: everything that it does in `tick` of true time.
    pub fn turn(&mut self, tick: Duration) {
        let elapsed = tick * self.rate / 1000;
        match &mut self.process {
            Process::Down => {}
            Process::Up(runtime) => runtime.block_on(async { tokio::time::sleep(elapsed).await }),
            Process::Paused { missed, .. } => *missed += elapsed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const TICK: Duration = Duration::from_millis(5);

    /// Counts every 10 ms of its host's clock.
    fn counting(host: &mut Host) -> Arc<AtomicU32> {
        let count = Arc::new(AtomicU32::new(0));
        host.start();
        let counter = Arc::clone(&count);
        host.spawn(async move {
            let mut every = tokio::time::interval(Duration::from_millis(10));
            loop {
                every.tick().await;
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        count
    }

    fn turns(host: &mut Host, num: u32) {
        (0..num).for_each(|_| host.turn(TICK));
    }

    #[test]
    fn a_paused_process_does_nothing_and_then_has_the_time_at_once() {
        let mut host = Host::default();
        let count = counting(&mut host);
        turns(&mut host, 20);
        let before = count.load(Ordering::Relaxed);
        assert!((10..=11).contains(&before), "{before}");
        host.pause();
        turns(&mut host, 20);
        assert_eq!(count.load(Ordering::Relaxed), before);
        host.resume();
        turns(&mut host, 1);
        assert!(count.load(Ordering::Relaxed) >= before + 10);
    }

    #[test]
    fn a_fast_clock_counts_more_and_a_killed_process_nothing() {
        let mut host = Host::default();
        let count = counting(&mut host);
        host.set_rate(1500);
        turns(&mut host, 20);
        let fast = count.load(Ordering::Relaxed);
        assert!((15..=16).contains(&fast), "{fast}");
        host.kill();
        turns(&mut host, 20);
        assert_eq!(count.load(Ordering::Relaxed), fast);
        assert_eq!(Arc::strong_count(&count), 1, "its memory is gone");
    }
}
