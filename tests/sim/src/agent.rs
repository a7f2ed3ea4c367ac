//! A node's process: the real supervisor, with simulated workers and a lease over the simulated network.
//!
//! Not here: deciding (`node::agent::supervisor`). Invariant: what the supervisor says is done at once and in order, as the
//! real agent does it; orders reach it in the order in which their leader gave them, as on a stream.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use node::agent::supervisor::{Command, Event, RankKey, Supervisor, key_of};
use protocol::lease::{Inventory, NodeOrders, NodeReport, WorkerPhase, WorkerStatus};
use protocol::worker::ToWorker;
use protocol::{NodeId, Term};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::fact::{Fact, Recorder};
use crate::host::{Host, HostId};
use crate::message::{Answer, Request};
use crate::net::{Arrived, Net};
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
        Self { number, term: Arc::new(Mutex::new(Term(0))), seat: Arc::default() }
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
        let agent = Agent {
            host: self.host(),
            supervisor: Supervisor::new(*self.term.lock().expect("nothing panics with it"), WORKER_SILENCE),
            term: Arc::clone(&self.term),
            newest: (Term(0), 0),
            reports: watch::Sender::new(first),
            events,
            inboxes: BTreeMap::new(),
            tasks: JoinSet::new(),
            seat: Arc::clone(&self.seat),
            net: net.clone(),
            recorder: recorder.clone(),
            rng: StdRng::seed_from_u64(incarnation),
        };
        host.spawn(agent.run(arrivals, incoming, coordinators.to_vec()));
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
    supervisor: Supervisor,
    term: Arc<Mutex<Term>>,
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
        self.tasks.spawn(keep_lease((host, incarnation), net, coordinators, reports, answers));
        loop {
            let deadline = self.supervisor.next_deadline().map(Instant::from_std);
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
                Some(arrived) = arrivals.recv() => self.serve(arrived),
                Some(ended) = self.tasks.join_next() => if ended.is_err() {
                    self.bury_killed();
                },
                () = tick => self.handle(Event::Tick),
            }
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
            _ => {}
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
            let commands = self.supervisor.apply(event, Instant::now().into_std());
            self.remember_term();
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

    fn remember_term(&mut self) {
        let mut term = self.term.lock().expect("nothing panics with it");
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

/// Finds the leader, reports to it on every change and at each heartbeat, and passes its orders on.
async fn keep_lease(
    (host, incarnation): (HostId, u64),
    net: Net,
    coordinators: Vec<HostId>,
    mut reports: watch::Receiver<NodeReport>,
    answers: mpsc::Sender<(u64, NodeOrders)>,
) {
    let mut session = incarnation * SESSIONS_MAX;
    for to in coordinators.into_iter().cycle() {
        session += 1;
        loop {
            let report = Box::new(reports.borrow_and_update().clone());
            match net.call(host, to, Request::Report { session, report }, ANSWER_TIMEOUT).await {
                Ok(Answer::Orders(Some((seq, orders)))) => drop(answers.send((seq, *orders)).await),
                _ => break,
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
