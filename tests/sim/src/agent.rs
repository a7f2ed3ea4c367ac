//! A node's process: the real supervisor, with simulated workers and a lease over the simulated network.
//!
//! Not here: deciding (`node::agent::supervisor`). Invariant: what the supervisor says is done at once and in order, as the
//! real agent does it; orders reach it in the order in which their leader gave them, as on a stream.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use node::agent::standing::{Lookout, Said, Standing};
use node::agent::supervisor::{Command, Event, RankKey, Supervisor, key_of};
use protocol::lease::{Inventory, NodeOrders, NodeReport, StoredOrders, WorkerPhase, WorkerStatus};
use protocol::worker::ToWorker;
use protocol::{NodeId, Term};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::control::internal_addr;
use crate::engine::Engine;
use crate::fact::{Fact, Recorder};
use crate::host::{Host, HostId};
use crate::message::{Answer, NotLeading, Request};
use crate::net::{Arrived, Net, Reply};
use crate::worker::{Outside, Worker};

/// How long a report's answer may take; the next coordinator is asked then.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(2_500);
/// How often a node reports when nothing changes.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Pause before another coordinator is asked.
const REDIAL: Duration = Duration::from_millis(100);
/// Events that may wait.
const EVENTS_MAX: usize = 256;
/// A worker that says nothing for so long is taken for dead: the configuration's default.
const WORKER_SILENCE: Duration = Duration::from_secs(2);
/// How long ranks run on while no coordinator can be reached: the configuration's default.
const ORPHAN: Duration = Duration::from_secs(30);
/// How long a lease is taken to run where none is known.
const LEASE_USUAL: Duration = Duration::from_secs(3);
/// Sessions of one incarnation: those of the next have higher numbers.
const SESSIONS_MAX: u64 = 1 << 20;
/// What a node has.
const MEMORY_BYTES: u64 = 1 << 30;

/// The host of a node.
pub(crate) fn host_of(node: &NodeId) -> HostId {
    HostId::Node(node.to_string().trim_start_matches("node-").parse().unwrap_or_default())
}

/// One node: what outlives its agent's process, and a way to its workers for the faults.
#[derive(Debug)]
pub struct Node {
    number: u16,
    /// The highest term obeyed, as on its disk.
    term: Arc<Mutex<Term>>,
    /// The last orders, as on its disk.
    kept: Arc<Mutex<Option<StoredOrders>>>,
    seat: Arc<Mutex<Seat>>,
}

#[derive(Debug, Default)]
struct Seat {
    inbox: Option<mpsc::Sender<Arrived>>,
    workers: BTreeMap<RankKey, (Outside, AbortHandle)>,
    /// As in the last report.
    statuses: Vec<WorkerStatus>,
}

impl Node {
    /// A node whose agent never ran.
    #[must_use]
    pub fn new(number: u16) -> Self {
        Self { number, term: Arc::new(Mutex::new(Term(0))), kept: Arc::default(), seat: Arc::default() }
    }

    /// Its host.
    #[must_use]
    pub fn host(&self) -> HostId {
        HostId::Node(self.number)
    }

    /// Its name.
    ///
    /// # Panics
    /// Never: the name is a label.
    #[must_use]
    pub fn name(&self) -> NodeId {
        NodeId::new(format!("node-{}", self.number)).expect("a label")
    }

    fn seat(&self) -> MutexGuard<'_, Seat> {
        self.seat.lock().expect("nothing panics in the seat")
    }

    /// Starts its agent on `host`. `incarnation` is higher than at any start before.
    pub fn start(
        &mut self,
        host: &mut Host,
        (net, recorder): (&Net, &Recorder),
        coordinators: &[HostId],
        incarnation: u64,
    ) {
        host.start();
        net.started(self.host());
        let (inbox, arrivals) = mpsc::channel(EVENTS_MAX);
        self.seat = Arc::new(Mutex::new(Seat { inbox: Some(inbox), ..Seat::default() }));
        let (events, incoming) = mpsc::channel(EVENTS_MAX);
        let first = NodeReport {
            node: self.name(),
            incarnation,
            inventory: Inventory { cores: 2, memory_bytes: MEMORY_BYTES, version: "0.1.0".into() },
            workers: Vec::new(),
            leaving: false,
        };
        let term = *self.term.lock().expect("nothing panics with it");
        let kept = self.kept.lock().expect("nothing panics with it").clone();
        let lease = kept.as_ref().map_or(LEASE_USUAL, |kept| lease_of(&kept.orders));
        let supervisor = match kept {
            Some(kept) => Supervisor::restored(term, WORKER_SILENCE, kept),
            None => Supervisor::new(term, WORKER_SILENCE),
        };
        let (host_id, coordinators) = (self.host(), coordinators.to_vec());
        let disk = (Arc::clone(&self.term), Arc::clone(&self.kept));
        let (seat, net, recorder) = (Arc::clone(&self.seat), net.clone(), recorder.clone());
        host.spawn(async move {
            let addrs: Vec<_> = coordinators.iter().copied().map(internal_addr).collect();
            let agent = Agent {
                host: host_id,
                // By the clock of its own host.
                lookout: Lookout::new(&addrs, lease, ORPHAN, Instant::now().into_std()),
                standing: Standing::Led,
                kept_changes: supervisor.changes(),
                supervisor,
                disk,
                newest: (Term(0), 0),
                reports: watch::Sender::new(first),
                events,
                inboxes: BTreeMap::new(),
                tasks: JoinSet::new(),
                seat,
                net,
                recorder,
                rng: StdRng::seed_from_u64(incarnation),
            };
            agent.run(arrivals, incoming, coordinators).await;
        });
    }

    /// Its agent and all its workers are gone.
    pub fn kill(&mut self, host: &mut Host, net: &Net) {
        self.seat = Arc::default();
        net.killed(self.host());
        host.kill();
    }

    /// Passes a call that has arrived on to the agent. One that its agent has no room for is lost.
    pub fn serve(&self, arrived: Arrived) {
        if let Some(inbox) = &self.seat().inbox {
            let _ = inbox.try_send(arrived);
        }
    }

    /// Kills one of its workers, by place; whether there was one.
    pub fn kill_worker(&self, place: usize) -> bool {
        let seat = self.seat();
        let worker = seat.workers.values().nth(place % seat.workers.len().max(1));
        worker.inspect(|(_, worker)| worker.abort()).is_some()
    }

    /// Stops one of its workers, by place; what it hangs by.
    pub(crate) fn hang_worker(&self, place: usize) -> Option<Outside> {
        let seat = self.seat();
        let (worker, _) = seat.workers.values().nth(place % seat.workers.len().max(1))?;
        worker.set_hanging(true);
        Some(worker.clone())
    }

    /// The KV blocks that each serving rank 0 holds.
    #[must_use]
    pub fn blocks(&self) -> Vec<(RankKey, usize)> {
        let seat = self.seat();
        let used = |(key, (outside, _)): (&RankKey, &(Outside, AbortHandle))| {
            Some((*key, outside.engine().as_ref()?.blocks_used()))
        };
        seat.workers.iter().filter_map(used).collect()
    }

    /// The ranks that serve here.
    #[must_use]
    pub fn serving(&self) -> Vec<RankKey> {
        let seat = self.seat();
        let serving = seat.statuses.iter().filter(|s| s.phase == WorkerPhase::Serving);
        serving.map(|s| RankKey { replica: s.replica, epoch: s.epoch, rank: s.rank }).collect()
    }
}

/// The agent's loop and all that it owns.
struct Agent {
    host: HostId,
    lookout: Lookout,
    standing: Standing,
    supervisor: Supervisor,
    /// The highest term obeyed, and the last orders.
    disk: (Arc<Mutex<Term>>, Arc<Mutex<Option<StoredOrders>>>),
    /// [`Supervisor::changes`] as of what is on disk.
    kept_changes: u64,
    /// The newest orders that were taken: their leader's term, and their place in what that leader said.
    newest: (Term, u64),
    reports: watch::Sender<NodeReport>,
    events: mpsc::Sender<Event>,
    inboxes: BTreeMap<RankKey, mpsc::Sender<ToWorker>>,
    tasks: JoinSet<()>,
    seat: Arc<Mutex<Seat>>,
    net: Net,
    recorder: Recorder,
    rng: StdRng,
}

impl Agent {
    async fn run(
        mut self,
        mut arrivals: mpsc::Receiver<Arrived>,
        mut incoming: mpsc::Receiver<Event>,
        coordinators: Vec<HostId>,
    ) {
        let (answers, mut answered) = mpsc::channel(EVENTS_MAX);
        let (host, net, reports) = (self.host, self.net.clone(), self.reports.subscribe());
        let incarnation = self.reports.borrow().incarnation;
        let (refusals, mut refused) = mpsc::channel(EVENTS_MAX);
        self.tasks.spawn(keep_lease((host, incarnation), net, coordinators, reports, answers, refusals));
        loop {
            self.look_out();
            let standing_until = self.lookout.next_change(Instant::now().into_std());
            let deadline =
                self.supervisor.next_deadline().into_iter().chain(standing_until).min().map(Instant::from_std);
            let tick = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(event) = incoming.recv() => self.handle(event),
                Some((seq, orders)) = answered.recv() => self.take_orders(seq, orders),
                Some((addr, said)) = refused.recv() => {
                    self.lookout.refused(addr, said, Instant::now().into_std());
                    self.handle(Event::Tick);
                }
                Some(arrived) = arrivals.recv() => self.serve(arrived),
                Some(ended) = self.tasks.join_next() => if ended.is_err() {
                    self.bury_killed();
                },
                () = tick => self.handle(Event::Tick),
            }
        }
    }

    /// Says what the node may do by itself, where that has changed.
    fn look_out(&mut self) {
        let standing = self.lookout.standing(Instant::now().into_std());
        if standing != std::mem::replace(&mut self.standing, standing) {
            self.recorder.event(format_args!("{} stands {standing:?}", self.host));
            self.handle(Event::Standing(standing));
        }
    }

    fn serve(&mut self, arrived: Arrived) {
        match arrived.request {
            Request::Orders { seq, orders } => {
                self.take_orders(seq, *orders);
                arrived.reply.send(Answer::Taken);
            }
            Request::Hello(key) => {
                let outside =
                    self.seat.lock().expect("nothing panics in the seat").workers.get(&key).map(|w| w.0.clone());
                match outside {
                    // A process that hangs says nothing.
                    Some(outside) if outside.hangs() => {}
                    Some(outside) => arrived.reply.send(Answer::Hello(outside.listens())),
                    None => arrived.reply.send(Answer::Hello(false)),
                }
            }
            Request::Generate { key, request } => self.at_engine(key, arrived.reply, |engine, reply| {
                reply.send(Answer::Begun(engine.begin(&request)));
            }),
            Request::Next { key, stream, after } => self.at_engine(key, arrived.reply, |engine, reply| {
                engine.ask(stream, after, reply);
            }),
            Request::EndChoice { key, stream, choice } => self.at_engine(key, arrived.reply, |engine, reply| {
                engine.end_choice(stream, choice);
                reply.send(Answer::Taken);
            }),
            Request::Cancel { key, stream } => self.at_engine(key, arrived.reply, |engine, reply| {
                engine.cancel(stream);
                reply.send(Answer::Taken);
            }),
            Request::Raft(_) | Request::Write(_) | Request::Read | Request::Report { .. } => {}
        }
    }

    /// Has a serving rank 0 answer; one that is not there is said to be so by its host.
    fn at_engine(&self, key: RankKey, reply: Reply, does: impl FnOnce(&mut Engine, Reply)) {
        let outside = self.seat.lock().expect("nothing panics in the seat").workers.get(&key).map(|w| w.0.clone());
        match outside {
            // Sockets take it, and nobody reads.
            Some(outside) if outside.hangs() => {}
            Some(outside) => match &mut *outside.engine() {
                Some(engine) => does(engine, reply),
                None => reply.send(Answer::Begun(Err("it does not serve".to_owned()))),
            },
            None => reply.send(Answer::Begun(Err("it is not here".to_owned()))),
        }
    }

    fn take_orders(&mut self, seq: u64, orders: NodeOrders) {
        // On a stream, what is older cannot come later.
        if (orders.term, seq) <= self.newest {
            return;
        }
        self.newest = (orders.term, seq);
        self.handle(Event::Orders(orders));
    }

    /// Workers whose process was killed: their tasks have ended without a word.
    fn bury_killed(&mut self) {
        let killed: Vec<_> = {
            let seat = self.seat.lock().expect("nothing panics in the seat");
            seat.workers.iter().filter(|(_, (_, task))| task.is_finished()).map(|(key, _)| *key).collect()
        };
        for key in killed {
            self.handle(Event::Exited { key, how: "was killed by signal 9".to_owned() });
        }
    }

    fn handle(&mut self, event: Event) {
        let mut queue = VecDeque::from([event]);
        while let Some(event) = queue.pop_front() {
            if let Event::Exited { key, .. } = &event {
                self.inboxes.remove(key);
                self.seat.lock().expect("nothing panics in the seat").workers.remove(key);
                self.recorder.fact(Fact::RankEnded { host: self.host, key: *key });
            }
            if let Event::Orders(orders) = &event
                && orders.term >= self.supervisor.term()
            {
                self.lookout.granted(orders.term, lease_of(orders), Instant::now().into_std());
            }
            let commands = self.supervisor.apply(event, Instant::now().into_std());
            self.remember();
            for command in commands {
                match command {
                    Command::Spawn(order) | Command::Revive { order, .. } => queue.push_back(self.spawn(*order)),
                    Command::Tell { key, message } => {
                        if let Some(inbox) = self.inboxes.get(&key) {
                            let _ = inbox.try_send(message);
                        }
                    }
                    // Behind whatever it has said.
                    Command::Look(key) => drop(self.events.try_send(Event::Silent(key))),
                    Command::Kill(key) => {
                        if let Some((_, task)) = self.seat.lock().expect("nothing panics in the seat").workers.get(&key)
                        {
                            task.abort();
                        }
                    }
                }
            }
        }
        let statuses = self.supervisor.statuses(Instant::now().into_std());
        self.seat.lock().expect("nothing panics in the seat").statuses.clone_from(&statuses);
        self.reports.send_if_modified(|report| {
            let news = report.workers != statuses;
            report.workers = statuses;
            news
        });
    }

    fn remember(&mut self) {
        let changes = self.supervisor.changes();
        if changes != std::mem::replace(&mut self.kept_changes, changes) {
            let kept = self.supervisor.kept(&self.reports.borrow().node);
            *self.disk.1.lock().expect("nothing panics with it") = Some(kept);
        }
        let mut term = self.disk.0.lock().expect("nothing panics with it");
        let now = self.supervisor.term();
        if now != *term {
            self.recorder.fact(Fact::Obeys { host: self.host, term: now });
            *term = now;
        }
    }

    fn spawn(&mut self, order: protocol::lease::RankOrder) -> Event {
        let key = key_of(&order);
        self.recorder.fact(Fact::RankStarted { host: self.host, key });
        let (inbox, receiver) = mpsc::channel(EVENTS_MAX);
        let outside = Outside::default();
        let worker = Worker {
            host: self.host,
            node: self.reports.borrow().node.clone(),
            order,
            inbox: receiver,
            events: self.events.clone(),
            net: self.net.clone(),
            outside: outside.clone(),
            seed: self.rng.r#gen(),
        };
        let task = self.tasks.spawn(worker.run());
        self.inboxes.insert(key, inbox);
        self.seat.lock().expect("nothing panics in the seat").workers.insert(key, (outside, task));
        Event::Started { key, pid: 1 }
    }
}

/// How long a node may act on `orders`.
fn lease_of(orders: &NodeOrders) -> Duration {
    Duration::from_millis(u64::from(orders.lease_ms))
}

/// Finds the leader, reports to it on every change and at each heartbeat, and passes its orders on.
async fn keep_lease(
    (host, incarnation): (HostId, u64),
    net: Net,
    coordinators: Vec<HostId>,
    mut reports: watch::Receiver<NodeReport>,
    answers: mpsc::Sender<(u64, NodeOrders)>,
    refusals: mpsc::Sender<(SocketAddr, Said)>,
) {
    let sessions = incarnation * SESSIONS_MAX + 1..;
    for (session, to) in sessions.zip(coordinators.into_iter().cycle()) {
        loop {
            let report = Box::new(reports.borrow_and_update().clone());
            let said = match net.call(host, to, Request::Report { session, report }, ANSWER_TIMEOUT).await {
                Ok(Answer::Orders(Ok((seq, orders)))) => {
                    drop(answers.send((seq, *orders)).await);
                    None
                }
                Ok(Answer::Orders(Err(NotLeading { leader: Some(leader) }))) => Some(Said::LeaderIs(leader)),
                Ok(Answer::Orders(Err(NotLeading { leader: None }))) => Some(Said::NoLeader),
                _ => Some(Said::Nothing),
            };
            if let Some(said) = said {
                let _ = refusals.send((internal_addr(to), said)).await;
                break;
            }
            tokio::select! {
                biased;
                _ = reports.changed() => {}
                () = tokio::time::sleep(HEARTBEAT) => {}
            }
        }
        tokio::time::sleep(REDIAL).await;
    }
}
