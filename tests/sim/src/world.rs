//! The world of one run: its hosts, its network, its faults, and the turn of time that moves all of them.
//!
//! ```text
//!  0 ──── up ────▶ faults begin and end … ────▶ all healed ──── quiet ────▶ settled?
//! ```
//! Not here: what a process does, what must hold. Invariant: nothing here depends on anything but the seed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coordinator::sim::{Planted, SimDisk};
use protocol::CoordinatorId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::agent::Node;
use crate::control::{Clients, Coordinator};
use crate::fact::{Fact, Recorder};
use crate::fault::{self, Fault, Hits, Kind, Mix, Span, Target};
use crate::host::{Host, HostId};
use crate::invariants::{self, Invariant, Violation};
use crate::net::Net;
use crate::operator::Operator;
use crate::worker::Outside;
use crate::writer::Writer;

/// One turn of time.
const TICK: Duration = Duration::from_millis(5);
/// From the start to the first fault, ms.
const START_MS: u64 = 3_000;
/// From the last fault's end to the end of the run, ms.
const QUIET_MS: u64 = 40_000;
/// From the last fault's end to when nothing that serves may be lost any more, ms.
const CALM_MS: u64 = 15_000;
/// From the operator's last change to that, ms.
const SETTLE_MS: u64 = 10_000;
/// From the writers' end to the end of the run, ms: what they wrote is everywhere by then.
const LAST_MS: u64 = 8_000;
/// From a process' ending by itself to its next start, ms.
const RESTART_MS: u64 = 1_000;
/// How long after its disk was full a coordinator may still stop for it, ms.
const NOTICE_MS: u64 = 3_000;

/// What there is in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Coordinators.
    pub coordinators: u64,
    /// Nodes.
    pub nodes: u16,
    /// Writers.
    pub writers: u16,
    /// How long faults come, s.
    pub faults_s: u64,
    /// Which faults.
    pub mix: Mix,
    /// A bug that is put back.
    pub planted: Option<Planted>,
}

impl Default for Shape {
    fn default() -> Self {
        Self { coordinators: 3, nodes: 3, writers: 2, faults_s: 45, mix: Mix::Every, planted: None }
    }
}

/// A fault that was begun, with whom it hit.
#[derive(Debug)]
struct Ongoing {
    fault: Fault,
    hit: HostId,
    other: HostId,
    /// The worker that hangs.
    worker: Option<Outside>,
}

/// A run.
#[derive(Debug)]
pub struct World {
    now_ms: u64,
    end_ms: u64,
    rng: StdRng,
    recorder: Recorder,
    net: Net,
    hosts: BTreeMap<HostId, Host>,
    coordinators: BTreeMap<HostId, Coordinator>,
    members: Vec<CoordinatorId>,
    nodes: BTreeMap<HostId, Node>,
    num_starts: u64,
    operator: HostId,
    /// Whether clients begin anything new.
    open: Arc<AtomicBool>,
    calm_ms: u64,
    /// To come, the next one last.
    faults: Vec<Fault>,
    ongoing: Vec<Ongoing>,
    /// Processes that ended by themselves, and when they are started again.
    restarts: BTreeMap<HostId, u64>,
    /// Until when each coordinator's disk was full, ms.
    was_full: BTreeMap<HostId, u64>,
    /// How many faults of each kind were done.
    num_faults: BTreeMap<Kind, u64>,
    invariants: Vec<Box<dyn Invariant>>,
}

impl World {
    /// The world of `seed`, before its first turn. Its thread must be seeded.
    #[must_use]
    pub fn new(seed: u64, shape: Shape, recorder: Recorder) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let net = Net::new(rng.r#gen(), recorder.clone());
        let end_of_faults = START_MS + shape.faults_s * 1_000;
        let span = Span { from_ms: START_MS, until_ms: end_of_faults };
        let mut faults = fault::schedule(&mut rng, span, shape.mix);
        faults.reverse();
        let members: Vec<_> = (1..=shape.coordinators).map(CoordinatorId).collect();
        let coordinators: BTreeMap<_, _> = members
            .iter()
            .map(|id| (HostId::Coordinator(id.0), Coordinator::new(*id, SimDisk::new(shape.planted))))
            .collect();
        let nodes: BTreeMap<_, _> = (1..=shape.nodes).map(|n| (HostId::Node(n), Node::new(n))).collect();
        let servers = coordinators.keys().chain(nodes.keys());
        let mut world = Self {
            now_ms: 0,
            end_ms: end_of_faults + QUIET_MS,
            rng,
            recorder,
            net,
            hosts: servers.map(|host| (*host, Host::default())).collect(),
            coordinators,
            members,
            nodes,
            num_starts: 0,
            operator: HostId::Client(shape.writers),
            open: Arc::new(AtomicBool::new(true)),
            calm_ms: end_of_faults + CALM_MS,
            faults,
            ongoing: Vec::new(),
            restarts: BTreeMap::new(),
            was_full: BTreeMap::new(),
            num_faults: BTreeMap::new(),
            invariants: invariants::all(),
        };
        for host in world.hosts.keys().copied().collect::<Vec<_>>() {
            world.start(host);
        }
        for number in 0..shape.writers {
            world.start_writer(number);
        }
        world.start_operator();
        world
    }

    /// How many faults of each kind were done.
    #[must_use]
    pub fn num_faults(&self) -> &BTreeMap<Kind, u64> {
        &self.num_faults
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// The first [`Violation`].
    pub fn run(&mut self) -> Result<(), Violation> {
        while self.now_ms < self.end_ms {
            self.turn()?;
        }
        for (host, node) in &self.nodes {
            self.recorder.fact(Fact::Serving { host: *host, ranks: node.serving() });
            for (key, used) in node.blocks() {
                self.recorder.fact(Fact::Blocks { host: *host, key, used });
            }
        }
        for coordinator in self.coordinators.values() {
            let (applied, knows_leader) = coordinator.settled();
            let HostId::Coordinator(id) = coordinator.host() else { continue };
            self.recorder.fact(Fact::Settled { coordinator: CoordinatorId(id), applied, knows_leader });
        }
        self.check()
    }

    fn turn(&mut self) -> Result<(), Violation> {
        self.now_ms += TICK.as_millis() as u64;
        self.recorder.set_now(self.now_ms);
        self.end_faults();
        self.begin_faults();
        self.restart();
        if self.now_ms == self.calm_ms {
            self.hosts.entry(self.operator).or_default().kill();
            self.net.killed(self.operator);
        } else if self.now_ms == self.calm_ms + SETTLE_MS {
            self.recorder.fact(Fact::Calm);
        } else if self.now_ms + LAST_MS == self.end_ms {
            self.stop_writers();
        }
        for arrived in self.net.deliver(self.now_ms) {
            if let (Some(coordinator), Some(host)) = (self.coordinators.get(&arrived.to), self.hosts.get(&arrived.to)) {
                coordinator.serve(host, arrived);
            } else if let Some(node) = self.nodes.get(&arrived.to) {
                node.serve(arrived);
            }
        }
        for (id, host) in &mut self.hosts {
            host.turn(TICK);
            if let Some(coordinator) = self.coordinators.get_mut(id) {
                coordinator.look(&self.recorder);
            }
        }
        self.bury();
        self.check()
    }

    fn check(&mut self) -> Result<(), Violation> {
        let facts = self.recorder.take_facts();
        facts.iter().try_for_each(|fact| invariants::see(&mut self.invariants, fact))
    }

    fn start_writer(&mut self, number: u16) {
        let id = HostId::Client(number);
        let coordinators = self.coordinators.keys().copied().collect();
        let writer = Writer::new(number, coordinators, self.net.clone(), self.recorder.clone(), self.rng.r#gen());
        let host = self.hosts.entry(id).or_default();
        host.start();
        self.net.started(id);
        host.spawn(writer.run());
    }

    fn stop_writers(&mut self) {
        self.open.store(false, Ordering::Relaxed);
        let writers = self.hosts.iter_mut().filter(|(id, _)| matches!(id, HostId::Client(_)));
        writers.for_each(|(_, host)| host.kill());
    }

    fn start_operator(&mut self) {
        let host = self.hosts.entry(self.operator).or_default();
        host.start();
        self.net.started(self.operator);
        let coordinators = self.coordinators.keys().copied().collect();
        let (net, seed) = (self.net.clone(), self.rng.r#gen());
        host.spawn(Operator { host: self.operator, coordinators, net, seed }.run());
    }

    fn start(&mut self, id: HostId) {
        let Some(host) = self.hosts.get_mut(&id).filter(|host| !host.is_up()) else { return };
        self.recorder.event(format_args!("{id} starts"));
        self.num_starts += 1;
        if let Some(coordinator) = self.coordinators.get_mut(&id) {
            let (open, seed) = (Arc::clone(&self.open), self.rng.r#gen());
            let clients = Clients { recorder: self.recorder.clone(), open, seed };
            coordinator.start(host, &self.net, &self.members, clients);
        } else if let Some(node) = self.nodes.get_mut(&id) {
            let coordinators: Vec<_> = self.coordinators.keys().copied().collect();
            node.start(host, (&self.net, &self.recorder), &coordinators, self.num_starts);
        }
    }

    /// `lossy`: what was not synced may be gone.
    fn kill(&mut self, id: HostId, lossy: bool) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        self.restarts.remove(&id);
        self.recorder.fact(Fact::HostDown { host: id });
        let mode = self.rng.gen_range(0..3);
        let rng = &mut self.rng;
        // Nothing of it, all of it, any of it.
        let kept = || !lossy || mode == 1 || mode == 2 && rng.r#gen();
        if let Some(coordinator) = self.coordinators.get_mut(&id) {
            coordinator.kill(host, &self.net, kept);
        } else if let Some(node) = self.nodes.get_mut(&id) {
            node.kill(host, &self.net);
        }
    }

    /// Processes that cannot go on are started again after a while.
    fn bury(&mut self) {
        let stopped: Vec<_> = self.coordinators.iter().filter_map(|(id, c)| Some((*id, c.stopped()?))).collect();
        for (id, reason) in stopped {
            if self.restarts.contains_key(&id) {
                continue;
            }
            let HostId::Coordinator(number) = id else { continue };
            let excused = self.was_full.get(&id).is_some_and(|until| self.now_ms <= until + NOTICE_MS);
            self.recorder.fact(Fact::Stopped { coordinator: CoordinatorId(number), reason, excused });
            self.kill(id, false);
            self.restarts.insert(id, self.now_ms + RESTART_MS);
        }
    }

    fn restart(&mut self) {
        let due: Vec<_> = self.restarts.iter().filter(|(_, at)| **at <= self.now_ms).map(|(id, _)| *id).collect();
        for id in due {
            self.restarts.remove(&id);
            self.start(id);
        }
    }

    fn place(&self, hits: Hits, place: usize) -> HostId {
        let (coordinators, nodes) = (self.coordinators.keys().copied(), self.nodes.keys().copied());
        let all: Vec<_> = match hits {
            Hits::Coordinators => coordinators.collect(),
            Hits::Nodes => nodes.collect(),
            Hits::Servers => coordinators.chain(nodes).collect(),
        };
        all[place % all.len()]
    }

    fn begin_faults(&mut self) {
        while let Some(fault) = self.faults.pop_if(|fault| fault.at_ms <= self.now_ms) {
            let leader = self.coordinators.values().find(|c| c.leads()).map(Coordinator::host);
            let hits = fault.kind.hits();
            let hit = match fault.target {
                Target::Leader if hits != Hits::Nodes => leader.unwrap_or_else(|| self.place(hits, fault.other)),
                Target::Leader => self.place(hits, fault.other),
                Target::Place(place) => self.place(hits, place),
            };
            let mut other = self.place(Hits::Servers, fault.other);
            if other == hit {
                other = self.place(Hits::Servers, fault.other + 1);
            }
            // One that is down has nothing to lose, one that is paused cannot be paused.
            let busy = self.ongoing.iter().any(|o| o.hit == hit && o.fault.kind == fault.kind);
            if busy || !self.hosts.get(&hit).is_some_and(Host::runs) {
                continue;
            }
            let what = fault.kind.name();
            self.recorder.event(format_args!("fault: {what} of {hit} (and {other}) until {}", fault.until_ms));
            *self.num_faults.entry(fault.kind).or_default() += 1;
            let mut ongoing = Ongoing { fault, hit, other, worker: None };
            self.begin(&mut ongoing);
            self.ongoing.push(ongoing);
        }
    }

    fn end_faults(&mut self) {
        let now = self.now_ms;
        let (ended, ongoing) = std::mem::take(&mut self.ongoing).into_iter().partition(|o| o.fault.until_ms <= now);
        self.ongoing = ongoing;
        for over in ended {
            self.recorder.event(format_args!("healed: {} of {}", over.fault.kind.name(), over.hit));
            self.end(&over);
        }
    }

    fn begin(&mut self, Ongoing { fault, hit, other, worker }: &mut Ongoing) {
        let (hit, other) = (*hit, *other);
        let worst = |of: u64| u64::from(fault.strength) * of / 1000;
        let mut weather = self.net.weather();
        match fault.kind {
            Kind::Kill => self.kill(hit, false),
            Kind::PowerCut => self.kill(hit, true),
            Kind::PowerCutOfAll => {
                self.coordinators.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| self.kill(id, true));
            }
            Kind::Pause => self.hosts.entry(hit).or_default().pause(),
            Kind::Isolate => self.around(hit, Net::cut),
            Kind::Cut => {
                self.net.cut(hit, other);
                self.net.cut(other, hit);
            }
            Kind::CutOneWay => self.net.cut(hit, other),
            Kind::Loss => weather.lost = worst(400) as u32,
            Kind::Delay => weather.delay_ms = worst(900),
            Kind::Double => weather.doubled = worst(1000) as u32,
            Kind::Skew => self.hosts.entry(hit).or_default().set_rate(700 + worst(600) as u32),
            Kind::DiskFull => {
                self.was_full.insert(hit, fault.until_ms);
                self.coordinators[&hit].disk().set_full(true);
            }
            Kind::WorkerKill => drop(self.nodes[&hit].kill_worker(fault.other)),
            Kind::WorkerHang => *worker = self.nodes[&hit].hang_worker(fault.other),
        }
        self.net.set_weather(weather);
    }

    fn end(&mut self, Ongoing { fault, hit, other, worker }: &Ongoing) {
        let (hit, other) = (*hit, *other);
        let mut weather = self.net.weather();
        match fault.kind {
            Kind::Kill | Kind::PowerCut => self.start(hit),
            Kind::PowerCutOfAll => {
                self.coordinators.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| self.start(id));
            }
            Kind::Pause => self.hosts.entry(hit).or_default().resume(),
            Kind::Isolate => self.around(hit, Net::mend),
            Kind::Cut => {
                self.net.mend(hit, other);
                self.net.mend(other, hit);
            }
            Kind::CutOneWay => self.net.mend(hit, other),
            Kind::Loss => weather.lost = 0,
            Kind::Delay => weather.delay_ms = 0,
            Kind::Double => weather.doubled = 0,
            Kind::Skew => self.hosts.entry(hit).or_default().set_rate(1000),
            Kind::DiskFull => self.coordinators[&hit].disk().set_full(false),
            Kind::WorkerKill => {}
            Kind::WorkerHang => worker.iter().for_each(|worker| worker.set_hanging(false)),
        }
        self.net.set_weather(weather);
    }

    /// Does `what` to every way from and to `hit`.
    fn around(&self, hit: HostId, what: impl Fn(&Net, HostId, HostId)) {
        for other in self.hosts.keys().filter(|other| **other != hit) {
            what(&self.net, hit, *other);
            what(&self.net, *other, hit);
        }
    }
}
