//! One admin: reads, writes and compares-and-sets at any coordinator, one call after the other, and remembers all of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::caller::{Caller, Ended};
use super::register::Register;
use crate::history::{Moment, Operation, Revision, Version, What};

/// Pause of an admin between two calls, ms.
const THINK_MS: (u64, u64) = (20, 120);
/// Surprises that are kept.
const SURPRISES_MAX: usize = 20;

/// What all admins share.
#[derive(Debug)]
pub(super) struct Shared {
    started: Instant,
    /// Set: no further call begins.
    pub(super) stop: AtomicBool,
    /// When the last acknowledged write was asked for, as [`Moment`].
    acknowledged: AtomicU64,
    told: Mutex<Told>,
}

/// Everything that admins were told.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// One history a register, in the order of the registers.
    pub(super) histories: Vec<Vec<Operation>>,
    /// Calls that certainly did nothing: how often, by kind and code.
    pub(super) nothing: BTreeMap<String, u64>,
    /// Answers that should not be.
    pub(super) surprises: Vec<String>,
}

impl Shared {
    pub(super) fn new(num_registers: usize) -> Self {
        let told = Told { histories: vec![Vec::new(); num_registers], ..Told::default() };
        let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { started: Instant::now(), stop, acknowledged, told: Mutex::new(told) }
    }

    pub(super) fn now(&self) -> Moment {
        self.moment(Instant::now())
    }

    pub(super) fn moment(&self, at: Instant) -> Moment {
        let since = at.saturating_duration_since(self.started);
        Moment(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Whether a write that was asked for after `moment` is acknowledged.
    pub(super) fn acknowledged_since(&self, moment: Moment) -> bool {
        self.acknowledged.load(Ordering::Relaxed) > moment.0
    }

    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        // Whoever panicked has at most left out an operation, and the run has failed by then.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn remember(&self, register: usize, operation: Operation) {
        if matches!(operation.what, What::Wrote { .. }) {
            self.acknowledged.fetch_max(operation.called.0, Ordering::Relaxed);
        }
        self.told().histories[register].push(operation);
    }
}

/// One admin.
#[derive(Debug)]
pub(super) struct Admin {
    pub(super) number: u32,
    pub(super) caller: Caller,
    pub(super) coordinators: Arc<Vec<SocketAddr>>,
    pub(super) registers: Arc<Vec<Register>>,
    pub(super) draws: fastrand::Rng,
    pub(super) shared: Arc<Shared>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Read,
    Write { value: u16, expected: Option<Revision> },
}

impl Admin {
    /// Goes on until it is told to stop.
    pub(super) async fn run(mut self) {
        let mut known = vec![None; self.registers.len()];
        while !self.shared.stop.load(Ordering::Relaxed) {
            let register = self.draws.usize(..self.registers.len());
            let at = self.coordinators[self.draws.usize(..self.coordinators.len())];
            let asked = self.draw(register, known[register]);
            if let Some(found) = self.call(register, at, asked).await {
                known[register] = Some(found);
            }
            let think = self.draws.u64(THINK_MS.0..=THINK_MS.1);
            tokio::time::sleep(Duration::from_millis(think)).await;
        }
    }

    fn draw(&mut self, register: usize, known: Option<Revision>) -> Asked {
        let to = &self.registers[register];
        let value = to.value(self.draws.u16(..to.num_values()));
        match self.draws.u8(..10) {
            0..4 => Asked::Read,
            4..7 => Asked::Write { value, expected: known },
            _ => Asked::Write { value, expected: None },
        }
    }

    /// One call; the revision that it showed.
    async fn call(&mut self, register: usize, at: SocketAddr, asked: Asked) -> Option<Revision> {
        let to = &self.registers[register];
        let called = self.shared.now();
        let ended = match asked {
            Asked::Read => self.caller.read(at, to).await,
            Asked::Write { value, expected } => self.caller.write(at, to, value, expected).await,
        };
        let returned = self.shared.now();
        let kind = if matches!(asked, Asked::Read) { "read" } else { "write" };
        let what = match (ended, asked) {
            (Ended::Done(version), Asked::Read) => What::Read(version),
            (Ended::Done(version), Asked::Write { value, expected }) if version.value == value => {
                What::Wrote { expected, version }
            }
            (Ended::Refused(found), Asked::Write { expected: Some(expected), .. }) => What::Refused { expected, found },
            (Ended::Unknown, Asked::Write { value, expected }) => What::Unknown { expected, value },
            (Ended::Nothing(code), _) => {
                *self.shared.told().nothing.entry(format!("{kind}: {code}")).or_default() += 1;
                return None;
            }
            (ended, asked) => {
                let mut told = self.shared.told();
                if told.surprises.len() < SURPRISES_MAX {
                    told.surprises.push(format!("{to} at {at}: {asked:?} ended with {ended:?}"));
                }
                return None;
            }
        };
        self.shared.remember(register, Operation { client: self.number, called, returned, what });
        match what {
            What::Read(Version { revision, .. }) | What::Wrote { version: Version { revision, .. }, .. } => {
                Some(revision)
            }
            What::Refused { found, .. } => Some(found),
            What::Unknown { .. } => None,
        }
    }
}
