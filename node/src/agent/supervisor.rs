//! Which workers should run, and what to tell them: the agent's decision core. `(state, event, now)` in, commands out.
//!
//! Not here: processes, pipes, the lease; no clock and no task.
//! Invariants: orders of a lower term, and ranks of a lower epoch of their replica, are never acted on; of one
//! (replica, rank) at most one process lives; while somebody leads, one (replica, epoch, rank) is started at most once; a
//! rank's memory is free before the next epoch's rank of the same replica starts; a rank is taken for dead only when its pipe is
//! empty (docs/design/0009-who-is-alive.md).
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
//! While nobody leads ([`Standing::Alone`]) a rank of a committed group that is Ended, or absent, is started again at its
//! epoch and address when [`revival`] says so, and is led to Serve by the orders that it has. An orphaned node
//! ([`Standing::Orphaned`]) takes every rank for one that is not ordered. Orders that were read from disk
//! ([`Supervisor::restored`]) start nothing in any other standing.

pub mod revival;

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use protocol::lease::{
    FENCES_MAX, GroupAddrs, NodeOrders, RANKS_PER_NODE_MAX, RankGoal, RankOrder, StoredOrders, WorkerPhase,
    WorkerStatus,
};
use protocol::plan::RankAddr;
use protocol::stats::EngineStats;
use protocol::worker::{EngineLoad, FromWorker, Proof, ToWorker};
use protocol::{Epoch, NodeId, Rank, ReplicaId, Term};

use self::revival::{Due, Revivals};
use super::hearing::{Ear, Hearing};
use super::standing::Standing;

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
    /// The node stands otherwise than before; new orders put it at [`Standing::Led`] by themselves.
    Standing(Standing),
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
    /// The same, for a rank that died: it must listen where it did.
    Revive {
        /// What it runs.
        order: Box<RankOrder>,
        /// Where it listened.
        addr: RankAddr,
    },
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
    /// As it was told, and when.
    proof: Option<(Proof, Instant)>,
    hearing: Hearing,
}

impl Worker {
    fn starting(now: Instant) -> Self {
        Self {
            process: Process::Running { told: Told::Load },
            pid: 0,
            phase: WorkerPhase::Starting,
            bytes_read: 0,
            load: None,
            stats: None,
            proof: None,
            hearing: Hearing::new(now),
        }
    }

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
    standing: Standing,
    /// The orders were read from disk: no leader has given any yet.
    stored: bool,
    /// How often what is to be kept on disk has changed.
    changes: u64,
    /// How long the leader let orders hold, and wanted to hear, ms.
    timings: (u32, u32),
    /// Where the ranks of the groups that are ordered listen, as told when they were to connect.
    groups: BTreeMap<(ReplicaId, Epoch), Vec<RankAddr>>,
    revivals: Revivals,
    /// When the next rank may be revived.
    revive_at: Option<Instant>,
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
            standing: Standing::default(),
            stored: false,
            changes: 0,
            timings: (0, 0),
            groups: BTreeMap::new(),
            revivals: Revivals::default(),
            revive_at: None,
        }
    }

    /// The same, with the orders that were kept on disk.
    #[must_use]
    pub fn restored(term: Term, silence: Duration, kept: StoredOrders) -> Self {
        let StoredOrders { orders, groups, fences, .. } = kept;
        let term = term.max(orders.term);
        let mut restored = Self { stored: true, fences: fences.into_iter().collect(), ..Self::new(term, silence) };
        restored.groups = groups.into_iter().map(|g| ((g.replica, g.epoch), g.ranks)).collect();
        restored.replace_orders(orders);
        restored
    }

    /// What must be kept on disk, for `node`; changed whenever [`Self::changes`] has.
    #[must_use]
    pub fn kept(&self, node: &NodeId) -> StoredOrders {
        let (lease_ms, heartbeat_ms) = self.timings;
        // Where the coordinators are is kept apart (`roster`): it is of use when these orders are not.
        let ranks = self.orders.values().cloned().collect();
        let orders = NodeOrders { term: self.term, lease_ms, heartbeat_ms, ranks, coordinators: Vec::new() };
        let group = |((replica, epoch), ranks): (&(ReplicaId, Epoch), &Vec<RankAddr>)| GroupAddrs {
            replica: *replica,
            epoch: *epoch,
            ranks: ranks.clone(),
        };
        let groups = self.groups.iter().map(group).collect();
        StoredOrders { node: node.clone(), orders, groups, fences: self.fences.iter().map(|(r, e)| (*r, *e)).collect() }
    }

    /// A number that grows with each change of [`Self::kept`].
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
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
        self.workers.values().filter_map(kill_at).chain(listening).chain(self.revive_at).min()
    }

    /// Every worker, for a report at `now`.
    #[must_use]
    pub fn statuses(&self, now: Instant) -> Vec<WorkerStatus> {
        let later_ms = |told| u32::try_from(now.saturating_duration_since(told).as_millis()).unwrap_or(u32::MAX);
        let status = |(key, w): (&RankKey, &Worker)| WorkerStatus {
            replica: key.replica,
            epoch: key.epoch,
            rank: key.rank,
            pid: w.pid,
            phase: w.phase.clone(),
            bytes_read: w.bytes_read,
            load: w.load,
            stats: w.stats.clone(),
            proof: w.proof.map(|(proof, told)| proof.aged(later_ms(told))),
        };
        self.workers.iter().map(status).take(RANKS_PER_NODE_MAX).collect()
    }

    /// Takes one event in and says what to do.
    pub fn apply(&mut self, event: Event, now: Instant) -> Vec<Command> {
        if self.ear.was_away(now) {
            self.workers.values_mut().for_each(|w| w.hearing.afresh(now));
        }
        let mut commands = Vec::new();
        match event {
            Event::Orders(orders) => self.take_orders(orders),
            Event::Started { key, pid } => {
                if let Some(worker) = self.workers.get_mut(&key) {
                    worker.pid = pid;
                }
            }
            Event::Said { key, message } => self.hear(key, message, now),
            Event::Silent(key) => commands.extend(self.give_up(key, now)),
            Event::Exited { key, how } => self.bury(key, how, now),
            Event::Standing(standing) => self.standing = standing,
            Event::Tick => {
                commands.extend(self.kill_overdue(now));
                commands.extend(self.look_at_the_silent(now));
            }
            Event::Leave => self.leaving = true,
        }
        commands.extend(self.reconcile(now));
        commands
    }

    fn take_orders(&mut self, orders: NodeOrders) {
        if orders.term < self.term || self.leaving {
            tracing::warn!(term = orders.term.0, newest_term = self.term.0, "orders refused");
            return;
        }
        self.term = orders.term;
        self.standing = Standing::Led;
        self.stored = false;
        self.replace_orders(orders);
    }

    fn replace_orders(&mut self, orders: NodeOrders) {
        let timings = (orders.lease_ms, orders.heartbeat_ms);
        let mut changed = std::mem::replace(&mut self.timings, timings) != timings;
        for order in &orders.ranks {
            let fence = self.fences.entry(order.replica).or_insert(order.epoch);
            changed |= order.epoch > std::mem::replace(fence, order.epoch.max(*fence));
        }
        let current = orders.ranks.into_iter().filter(|o| o.epoch >= self.fences[&o.replica]);
        let current: BTreeMap<_, _> = current.map(|o| (key_of(&o), o)).collect();
        changed |= current != self.orders;
        self.orders = current;
        let Self { orders, groups, fences, revivals, .. } = self;
        for order in orders.values() {
            if let RankGoal::Connect { peers } = &order.goal {
                groups.insert((order.replica, order.epoch), peers.clone());
            }
        }
        groups.retain(|group, _| orders.keys().any(|key| *group == (key.replica, key.epoch)));
        revivals.retain(|key| orders.contains_key(key));
        // Ids only grow, so the lowest is the one that a leader is least likely to name again.
        while fences.len() > FENCES_MAX {
            fences.pop_first();
        }
        self.changes += u64::from(changed);
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
                if phase == WorkerPhase::Serving {
                    self.revivals.serves(key, now);
                }
                worker.phase = phase;
            }
            FromWorker::Alive { load, stats, proof } => {
                let leads = key.rank == Rank(0);
                (worker.load, worker.stats) = (leads.then_some(load), stats.filter(|_| leads));
                worker.proof = proof.filter(|_| leads).map(|proof| (proof, now));
            }
        }
    }

    fn bury(&mut self, key: RankKey, how: String, now: Instant) {
        let Some(worker) = self.workers.get_mut(&key) else { return };
        self.revivals.died(key, now);
        let stopping = matches!(worker.process, Process::Stopping { .. });
        let failed = matches!(worker.phase, WorkerPhase::Failed { .. });
        worker.process = Process::Ended;
        (worker.load, worker.proof) = (None, None);
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
        (worker.load, worker.proof) = (None, None);
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
        let halted = self.is_halted();
        self.workers.retain(|key, w| w.lives() || self.orders.contains_key(key));
        self.start_missing(&mut commands, now);
        let Self { orders, workers, groups, .. } = self;
        commands.extend(free_survivors(workers, now));
        for (key, worker) in workers.iter_mut() {
            // Orders of a superseded epoch are not kept.
            let wanted = match orders.get(key) {
                None => Wanted::No,
                Some(order) if order.goal == RankGoal::Drain || halted => Wanted::ToTheEnd,
                Some(order) => Wanted::Yes(order, groups.get(&(key.replica, key.epoch)).map(Vec::as_slice)),
            };
            commands.extend(steer(*key, worker, wanted, now));
        }
        commands
    }

    /// Whether nothing may run here.
    fn is_halted(&self) -> bool {
        self.leaving || matches!(self.standing, Standing::Orphaned(_))
    }

    /// When the ranks of each ordered group may be revived: all that this node has of it together, and none before every one of
    /// them is gone. One that comes back beside one that is about to be stopped would be stopped with it.
    fn comings(&self, now: Instant) -> BTreeMap<(ReplicaId, Epoch), Due> {
        let mut comings = BTreeMap::new();
        if self.standing != Standing::Alone {
            return comings;
        }
        for key in self.orders.keys() {
            let due = match self.workers.get(key) {
                // Its exit is waited for.
                Some(w) if w.lives() && !w.is_judged() => Due::Never,
                // Another attempt would end the same way.
                Some(Worker { phase: WorkerPhase::Failed { retryable: false, .. }, .. }) => Due::Never,
                _ => self.revivals.due(key, now),
            };
            let worst = comings.entry((key.replica, key.epoch)).or_insert(Due::Now);
            *worst = due.max(*worst);
        }
        comings
    }

    /// Starts ordered ranks that have no worker and whose predecessors are gone.
    fn start_missing(&mut self, commands: &mut Vec<Command>, now: Instant) {
        self.revive_at = None;
        if self.is_halted() {
            return;
        }
        let comings = self.comings(now);
        for (key, order) in &self.orders {
            let waits = |(k, w): (&RankKey, &Worker)| k.replica == key.replica && k.epoch < key.epoch && w.lives();
            if order.goal == RankGoal::Drain || self.workers.iter().any(waits) {
                continue;
            }
            let committed = order.goal == RankGoal::Serve;
            match self.workers.get(key) {
                Some(worker) if worker.lives() => {}
                _ if self.standing == Standing::Alone && committed => {
                    let addrs = self.groups.get(&(key.replica, key.epoch));
                    let addr = addrs.and_then(|a| a.get(key.rank.index())).filter(|a| a.rank == key.rank);
                    match (addr, comings.get(&(key.replica, key.epoch))) {
                        (Some(addr), Some(Due::Now)) => {
                            self.revivals.started(*key);
                            commands.push(Command::Revive { order: Box::new(order.clone()), addr: addr.clone() });
                            self.workers.insert(*key, Worker::starting(now));
                        }
                        (Some(_), Some(Due::At(at))) => {
                            self.revive_at = Some(self.revive_at.map_or(*at, |other| other.min(*at)));
                        }
                        _ => {}
                    }
                }
                None if order.goal == RankGoal::Load && !self.stored => {
                    commands.push(Command::Spawn(Box::new(order.clone())));
                    self.workers.insert(*key, Worker::starting(now));
                }
                None if self.standing == Standing::Led && !self.stored => {
                    // The group has gone on without it: it is the leader who decides what becomes of it.
                    let reason =
                        "the node has no such worker: its agent was started anew, or had stopped it".to_owned();
                    let phase = WorkerPhase::Failed { reason, retryable: true };
                    self.workers.insert(*key, Worker { process: Process::Ended, phase, ..Worker::starting(now) });
                }
                _ => {}
            }
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
    /// As this order says; and where its group's ranks listen, where that is known.
    Yes(&'a RankOrder, Option<&'a [RankAddr]>),
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
    let (order, group) = match wanted {
        Wanted::Yes(order, group) => (order, group),
        Wanted::ToTheEnd if matches!(worker.phase, WorkerPhase::Serving) => {
            return Some(stop(key, worker, DRAIN_DEADLINE, now));
        }
        Wanted::ToTheEnd | Wanted::No => return Some(stop(key, worker, STOP_DEADLINE, now)),
    };
    let (next, message) = match (&order.goal, &worker.phase) {
        (RankGoal::Connect { peers }, WorkerPhase::Loaded { .. }) => {
            (Told::Connect, ToWorker::Connect { peers: peers.clone() })
        }
        // A revived rank: its group is committed, and connects again without being told to.
        (RankGoal::Serve, WorkerPhase::Loaded { .. }) => (Told::Connect, ToWorker::Connect { peers: group?.to_vec() }),
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
