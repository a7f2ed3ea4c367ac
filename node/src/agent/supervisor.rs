//! Which workers should run, and what to tell them: the agent's decision core. `(state, event, now)` in, commands out.
//!
//! Not here: processes, pipes, the lease; no clock and no task.
//! Invariants: orders of a lower term, and ranks of a lower epoch of their replica, are never acted on; one
//! (replica, epoch, rank) is started at most once; a rank's memory is free before the next epoch's rank of the same
//! replica starts; a rank is taken for dead only when its pipe is empty (docs/design/0009-who-is-alive.md).
//!
//! ```text
//!             ordered                     Loaded, goal Connect      Connected, goal Serve
//!  (absent) ──────────▶ Running(Load) ───────────────────▶ (Connect) ──────────▶ (Serve)
//!                          │   ├──────────── not ordered, superseded, goal Drain, leaving ────┐
//!                          │   └── silent ─▶ Look ─▶ nothing in its pipe: Failed, Kill ───────┤
//!                          │       another rank of its group failed here: Failed, Drain ──────┤
//!                          │ exit                                                             ▼
//!                          ▼                                exit                          Stopping ── deadline ─▶ Kill
//!                        Ended (Failed, reported) ◀──────────────────── still ordered ────────┤
//!                          │ no longer ordered                          no longer ordered     │ exit
//!                          └──────────▶ (absent) ◀────────────────────────────────────────────┘
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use protocol::lease::{NodeOrders, RANKS_PER_NODE_MAX, RankGoal, RankOrder, WorkerPhase, WorkerStatus};
use protocol::stats::EngineStats;
use protocol::worker::{EngineLoad, FromWorker, ToWorker};
use protocol::{Epoch, Rank, ReplicaId, Term};

use super::hearing::{Ear, Hearing};

/// How long a rank that is no longer wanted may finish what it runs.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// As [`DRAIN_DEADLINE`], where there is nothing to finish: the rank does not serve yet, or it is not ordered any more. One
/// that may finish is ordered to drain; so its group is lost, and its streams wait to be told that they may be resumed.
pub const STOP_DEADLINE: Duration = Duration::ZERO;
/// From a worker's drain deadline to its being killed.
pub const KILL_MARGIN: Duration = Duration::from_secs(1);

/// One rank of one incarnation of a replica: what a worker process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RankKey {
    /// Its replica.
    pub replica: ReplicaId,
    /// The epoch of its group.
    pub epoch: Epoch,
    /// Its rank.
    pub rank: Rank,
}

impl fmt::Display for RankKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "replica {} epoch {} rank {}", self.replica, self.epoch, self.rank)
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The leader spoke.
    Orders(NodeOrders),
    /// A worker's process started.
    Started {
        /// Which.
        key: RankKey,
        /// Its process id.
        pid: u32,
    },
    /// A worker spoke.
    Said {
        /// Which.
        key: RankKey,
        /// What.
        message: FromWorker,
    },
    /// A worker's pipe was looked at after [`Command::Look`], and there was nothing in it.
    Silent(RankKey),
    /// A worker's process ended, or could not be started.
    Exited {
        /// Which.
        key: RankKey,
        /// How, in one line.
        how: String,
    },
    /// A deadline may have passed.
    Tick,
    /// The agent shuts down.
    Leave,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Start a worker for this order and send it its spec.
    Spawn(Box<RankOrder>),
    /// Pass a message on.
    Tell {
        /// To which worker.
        key: RankKey,
        /// What.
        message: ToWorker,
    },
    /// Look whether it has said anything: what it has said comes first, then [`Event::Silent`].
    Look(RankKey),
    /// End its process now.
    Kill(RankKey),
}

/// How far a worker has been told to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Load,
    Connect,
    Serve,
}

/// A worker's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Process {
    Running {
        told: Told,
    },
    /// Told to drain; `kill_at` is `None` once it was killed.
    Stopping {
        kill_at: Option<Instant>,
    },
    Ended,
}

#[derive(Debug)]
struct Worker {
    process: Process,
    pid: u32,
    phase: WorkerPhase,
    /// From the checkpoint, bytes; stays known when the phase has gone on.
    bytes_read: u64,
    load: Option<EngineLoad>,
    stats: Option<Box<EngineStats>>,
    hearing: Hearing,
}

impl Worker {
    fn lives(&self) -> bool {
        self.process != Process::Ended
    }

    /// Whether its silence is held against it: one that is on its way out has a deadline for that.
    fn is_judged(&self) -> bool {
        matches!(self.process, Process::Running { .. }) && !matches!(self.phase, WorkerPhase::Failed { .. })
    }
}

/// The desired and observed state of this node's ranks.
#[derive(Debug)]
pub struct Supervisor {
    term: Term,
    /// Highest epoch ever ordered of each replica.
    fences: BTreeMap<ReplicaId, Epoch>,
    orders: BTreeMap<RankKey, RankOrder>,
    workers: BTreeMap<RankKey, Worker>,
    leaving: bool,
    ear: Ear,
}

impl Supervisor {
    /// A supervisor that refuses terms below `term`, the highest one this node has obeyed before, and takes a worker for
    /// dead that says nothing for `silence`.
    #[must_use]
    pub fn new(term: Term, silence: Duration) -> Self {
        Self {
            term,
            fences: BTreeMap::new(),
            orders: BTreeMap::new(),
            workers: BTreeMap::new(),
            leaving: false,
            ear: Ear::new(silence),
        }
    }

    /// The highest term obeyed.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Whether the agent is shutting down.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Whether no worker's process is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.workers.values().any(Worker::lives)
    }

    /// When [`Event::Tick`] is due next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let kill_at = |w: &Worker| if let Process::Stopping { kill_at } = w.process { kill_at } else { None };
        let judged = self.workers.values().filter(|w| w.is_judged()).map(|w| &w.hearing);
        let listening = self.ear.next_deadline(judged);
        self.workers.values().filter_map(kill_at).chain(listening).min()
    }

    /// Every worker, for the report.
    #[must_use]
    pub fn statuses(&self) -> Vec<WorkerStatus> {
        let status = |(key, w): (&RankKey, &Worker)| WorkerStatus {
            replica: key.replica,
            epoch: key.epoch,
            rank: key.rank,
            pid: w.pid,
            phase: w.phase.clone(),
            bytes_read: w.bytes_read,
            load: w.load,
            stats: w.stats.clone(),
        };
        self.workers.iter().map(status).take(RANKS_PER_NODE_MAX).collect()
    }

    /// Takes one event in and says what to do.
    pub fn apply(&mut self, event: Event, now: Instant) -> Vec<Command> {
        if self.ear.was_away(now) {
            self.workers.values_mut().for_each(|w| w.hearing.afresh(now));
        }
        match event {
            Event::Orders(orders) => self.take_orders(orders),
            Event::Started { key, pid } => {
                if let Some(worker) = self.workers.get_mut(&key) {
                    worker.pid = pid;
                }
            }
            Event::Said { key, message } => self.hear(key, message, now),
            Event::Silent(key) => {
                let mut commands = self.give_up(key, now);
                commands.extend(self.reconcile(now));
                return commands;
            }
            Event::Exited { key, how } => self.bury(key, how),
            Event::Tick => {
                let mut commands = self.kill_overdue(now);
                commands.extend(self.look_at_the_silent(now));
                return commands;
            }
            Event::Leave => self.leaving = true,
        }
        self.reconcile(now)
    }

    fn take_orders(&mut self, orders: NodeOrders) {
        if orders.term < self.term || self.leaving {
            tracing::warn!(term = orders.term.0, newest_term = self.term.0, "orders refused");
            return;
        }
        self.term = orders.term;
        for order in &orders.ranks {
            let fence = self.fences.entry(order.replica).or_insert(order.epoch);
            *fence = order.epoch.max(*fence);
        }
        let current = orders.ranks.into_iter().filter(|o| o.epoch >= self.fences[&o.replica]);
        self.orders = current.map(|o| (key_of(&o), o)).collect();
    }

    fn hear(&mut self, key: RankKey, message: FromWorker, now: Instant) {
        let Some(worker) = self.workers.get_mut(&key) else { return };
        worker.hearing.heard(&message, now);
        match message {
            // What made it fail stays the reason, whatever it says on its way out.
            FromWorker::Phase(_) if matches!(worker.phase, WorkerPhase::Failed { .. }) => {}
            FromWorker::Phase(phase) => {
                if let WorkerPhase::Loading { bytes_read, .. } | WorkerPhase::Loaded { bytes_read, .. } = &phase {
                    worker.bytes_read = *bytes_read;
                }
                worker.phase = phase;
            }
            FromWorker::Alive { load, stats } => {
                let leads = key.rank == Rank(0);
                (worker.load, worker.stats) = (leads.then_some(load), stats.filter(|_| leads));
            }
        }
    }

    fn bury(&mut self, key: RankKey, how: String) {
        let Some(worker) = self.workers.get_mut(&key) else { return };
        let stopping = matches!(worker.process, Process::Stopping { .. });
        let failed = matches!(worker.phase, WorkerPhase::Failed { .. });
        worker.process = Process::Ended;
        worker.load = None;
        if stopping && !failed {
            self.workers.remove(&key);
        } else if !failed {
            worker.phase = WorkerPhase::Failed { reason: format!("the worker process {how}"), retryable: true };
        }
    }

    fn look_at_the_silent(&mut self, now: Instant) -> Vec<Command> {
        let Self { workers, ear, .. } = self;
        let judged = workers.iter_mut().filter(|(_, w)| w.is_judged());
        judged.filter_map(|(key, w)| ear.asks(&mut w.hearing, now).then_some(Command::Look(*key))).collect()
    }

    /// Its pipe is empty. SIGKILL works on a stopped process too.
    fn give_up(&mut self, key: RankKey, now: Instant) -> Vec<Command> {
        let Some(worker) = self.workers.get_mut(&key).filter(|w| w.is_judged()) else { return Vec::new() };
        let Some(silent) = worker.hearing.silent(now) else { return Vec::new() };
        let reason = format!("said nothing for {:.1} s: stopped or starved", silent.as_secs_f64());
        worker.phase = WorkerPhase::Failed { reason, retryable: true };
        worker.load = None;
        worker.process = Process::Stopping { kill_at: None };
        vec![Command::Kill(key)]
    }

    fn kill_overdue(&mut self, now: Instant) -> Vec<Command> {
        let mut commands = Vec::new();
        for (key, worker) in &mut self.workers {
            if let Process::Stopping { kill_at } = &mut worker.process
                && kill_at.is_some_and(|at| at <= now)
            {
                *kill_at = None;
                commands.push(Command::Kill(*key));
            }
        }
        commands
    }

    /// Desired against observed.
    fn reconcile(&mut self, now: Instant) -> Vec<Command> {
        let mut commands = Vec::new();
        self.workers.retain(|key, w| w.lives() || self.orders.contains_key(key));
        self.start_missing(&mut commands, now);
        let Self { orders, workers, leaving, .. } = self;
        commands.extend(free_survivors(workers, now));
        for (key, worker) in workers.iter_mut() {
            // Orders of a superseded epoch are not kept.
            let wanted = match orders.get(key) {
                None => Wanted::No,
                Some(order) if order.goal == RankGoal::Drain || *leaving => Wanted::ToTheEnd,
                Some(order) => Wanted::Yes(order),
            };
            commands.extend(steer(*key, worker, wanted, now));
        }
        commands
    }

    /// Starts ordered ranks that have no worker and whose predecessors are gone.
    fn start_missing(&mut self, commands: &mut Vec<Command>, now: Instant) {
        for (key, order) in self.orders.iter().filter(|_| !self.leaving) {
            let waits = |(k, w): (&RankKey, &Worker)| k.replica == key.replica && k.epoch < key.epoch && w.lives();
            if self.workers.contains_key(key) || order.goal == RankGoal::Drain || self.workers.iter().any(waits) {
                continue;
            }
            let mut worker = Worker {
                process: Process::Running { told: Told::Load },
                pid: 0,
                phase: WorkerPhase::Starting,
                bytes_read: 0,
                load: None,
                stats: None,
                hearing: Hearing::new(now),
            };
            if order.goal == RankGoal::Load {
                commands.push(Command::Spawn(Box::new(order.clone())));
            } else {
                // The group has gone on without it: a fresh process could not join that epoch.
                worker.process = Process::Ended;
                let reason = "the node has no such worker: its agent was started anew".to_owned();
                worker.phase = WorkerPhase::Failed { reason, retryable: true };
            }
            self.workers.insert(*key, worker);
        }
    }
}

/// Stops the ranks whose group has lost another one on this node: their peers are known to be gone, and whoever waits for
/// them need not wait until the leader has said so.
fn free_survivors(workers: &mut BTreeMap<RankKey, Worker>, now: Instant) -> Vec<Command> {
    let mut lost = BTreeMap::new();
    for (key, worker) in workers.iter() {
        if let WorkerPhase::Failed { reason, retryable } = &worker.phase {
            let told = (format!("rank {} of its group, on the same node: {reason}", key.rank), *retryable);
            lost.entry((key.replica, key.epoch)).or_insert(told);
        }
    }
    let mut commands = Vec::new();
    for (key, worker) in workers.iter_mut().filter(|(_, w)| w.is_judged()) {
        if let Some((reason, retryable)) = lost.get(&(key.replica, key.epoch)) {
            commands.push(stop(*key, worker, STOP_DEADLINE, now));
            worker.phase = WorkerPhase::Failed { reason: reason.clone(), retryable: *retryable };
        }
    }
    commands
}

/// Whether a rank is wanted.
#[derive(Debug, Clone, Copy)]
enum Wanted<'a> {
    /// As this order says.
    Yes(&'a RankOrder),
    /// Until what it runs is finished.
    ToTheEnd,
    /// Its group does not exist any more.
    No,
}

/// What to tell one worker.
fn steer(key: RankKey, worker: &mut Worker, wanted: Wanted<'_>, now: Instant) -> Option<Command> {
    let soon = now + STOP_DEADLINE + KILL_MARGIN;
    let told = match &mut worker.process {
        Process::Running { told } => told,
        // Its group was lost while it drained.
        Process::Stopping { kill_at: Some(at) } if matches!(wanted, Wanted::No) && *at > soon => {
            return Some(stop(key, worker, STOP_DEADLINE, now));
        }
        Process::Stopping { .. } | Process::Ended => return None,
    };
    let order = match wanted {
        Wanted::Yes(order) => order,
        Wanted::ToTheEnd if matches!(worker.phase, WorkerPhase::Serving) => {
            return Some(stop(key, worker, DRAIN_DEADLINE, now));
        }
        Wanted::ToTheEnd | Wanted::No => return Some(stop(key, worker, STOP_DEADLINE, now)),
    };
    let (next, message) = match (&order.goal, &worker.phase) {
        (RankGoal::Connect { peers }, WorkerPhase::Loaded { .. }) => {
            (Told::Connect, ToWorker::Connect { peers: peers.clone() })
        }
        (RankGoal::Serve, WorkerPhase::Connected) => (Told::Serve, ToWorker::Serve),
        _ => return None,
    };
    if *told >= next {
        return None;
    }
    *told = next;
    Some(Command::Tell { key, message })
}

fn stop(key: RankKey, worker: &mut Worker, deadline: Duration, now: Instant) -> Command {
    worker.process = Process::Stopping { kill_at: Some(now + deadline + KILL_MARGIN) };
    let deadline_ms = u32::try_from(deadline.as_millis()).expect("seconds");
    Command::Tell { key, message: ToWorker::Drain { deadline_ms } }
}

/// The key of an order.
#[must_use]
pub fn key_of(order: &RankOrder) -> RankKey {
    RankKey { replica: order.replica, epoch: order.epoch, rank: order.rank }
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
