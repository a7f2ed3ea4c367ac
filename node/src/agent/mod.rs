//! The agent of one host: keeps the lease with the leading coordinator and runs the worker processes it orders.
//!
//! ```text
//!  leader ◀─ reports ─ lease task ─ orders ─▶ ┌───────────────────────┐ ─ spawn, tell, kill ─▶ worker processes
//!                                             │ select → Event        │
//!  lease task ◀────── report (watch) ──────── │ apply → Vec<Command>  │ ◀─ said, exited ────── (a task each)
//!                                             └───────────────────────┘
//! ```
//! Not here: the model, Raft, joining a cluster. [`supervisor`] decides, [`standing`] says whether the node may act alone, the
//! rest carries out. Invariants: while nobody leads, ranks run on and those that die come back, from the orders on disk if need
//! be ([`last_orders`]); a node that is cut off from a leader stops them; they end when the agent ends.

mod dialer;
mod hearing;
pub mod inventory;
pub mod last_orders;
mod lease;
mod roster;
pub mod standing;
pub mod state;
pub mod supervisor;
mod whole_file;
mod worker_process;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use protocol::NodeId;
use protocol::identity::{Identity, Role};
use protocol::lease::{Inventory, NodeReport, RankOrder};
use protocol::plan::RankAddr;
use protocol::worker::{ToWorker, WorkerSpec};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use transport::identity::IdentityError;
use transport::{BindError, Endpoint, NodeIdentity};

use self::inventory::InventoryError;
use self::roster::Roster;
use self::standing::{Lookout, Said, Standing};
use self::state::{NodeState, StateError};
use self::supervisor::{Command, Event, RankKey, Supervisor, key_of};
use self::worker_process::{INBOX_MAX, ProcessCommand};

/// Events that may wait for the agent's loop; whoever has more waits.
const EVENTS_MAX: usize = 256;
/// Refusals of the lease that may wait for the agent's loop.
const REFUSALS_MAX: usize = 32;
/// How long a lease is taken to run where none is known: of orders that were never given, or say nothing of use.
const LEASE_USUAL: Duration = Duration::from_secs(3);
/// How long the lease's last report and the endpoint's close may take.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// What an agent needs to know.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// This node; the name in its certificate.
    pub node: NodeId,
    /// Directory with `ca.pem`, `cert.pem` and `key.pem`.
    pub identity_dir: PathBuf,
    /// Directory for what must survive a restart.
    pub state_dir: PathBuf,
    /// IP address on which this agent's workers listen.
    pub listen_ip: IpAddr,
    /// Internal addresses of the coordinators, in the order in which they are dialled; not empty.
    pub coordinators: Vec<SocketAddr>,
    /// Memory that ranks may use in all, bytes; at most what the host has counts.
    pub memory_bytes: u64,
    /// A worker that says nothing for so long is taken for dead.
    pub worker_silence: Duration,
    /// How long ranks run on while no coordinator at all can be reached.
    pub orphan: Duration,
    /// The program that is started as `… worker --replica R --epoch E --rank K`.
    pub worker_exe: PathBuf,
}

/// Why an agent does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its certificate or key is of no use.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its certificate is another's.
    #[error("the certificate in {dir} is of {found}, expected node {expected}")]
    WrongIdentity {
        /// The identity directory.
        dir: PathBuf,
        /// Whose certificate it is.
        found: Box<Identity>,
        /// The node of the configuration.
        expected: NodeId,
    },
    /// Nobody to dial.
    #[error("no coordinator is configured, expected at least one address")]
    NoCoordinators,
    /// Its state directory is of no use.
    #[error(transparent)]
    State(#[from] StateError),
    /// The host's memory is not known.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    /// It has no socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A task that must not end did.
    #[error("a task of the agent ended unexpectedly: {reason}")]
    Task {
        /// The panic, or that it returned.
        reason: String,
    },
}

/// Runs an agent until `cancel` fires; then reports that it leaves, drains its workers and returns.
///
/// # Errors
/// [`AgentError`]. No worker is left running then.
///
/// # Cancel safety
/// Dropping the future kills every worker.
pub async fn run(config: AgentConfig, cancel: CancellationToken) -> Result<(), AgentError> {
    let mut agent = Agent::start(config)?;
    let outcome = agent.serve(&cancel).await;
    agent.close().await;
    outcome
}

/// Whether the leader must hear of it at once. Load, totals and proofs change with every step and follow from nothing
/// that the leader decides: they ride along with the next heartbeat.
fn is_news(last: &NodeReport, report: &NodeReport) -> bool {
    let bare = |report: &NodeReport| {
        let mut report = report.clone();
        report.workers.iter_mut().for_each(|w| (w.load, w.stats, w.proof) = (None, None, None));
        report
    };
    bare(last) != bare(report)
}

/// A supervisor with the orders that are on disk, and for how long their lease ran. Orders that cannot be read are told and left
/// where they are: the next ones replace them, and until then this node can do nothing by itself.
fn remembered(config: &AgentConfig, state: &NodeState) -> (Supervisor, Duration) {
    match last_orders::load(&config.state_dir, &config.node) {
        Ok(Some(kept)) => {
            let lease = lease::held(&kept.orders);
            tracing::info!(ranks = kept.orders.ranks.len(), term = kept.orders.term.0, "last orders found");
            (Supervisor::restored(state.term(), config.worker_silence, kept), lease)
        }
        Ok(None) => (Supervisor::new(state.term(), config.worker_silence), LEASE_USUAL),
        Err(e) => {
            tracing::error!(error = %e, "the last orders cannot be used; ranks start when a leader orders them");
            (Supervisor::new(state.term(), config.worker_silence), LEASE_USUAL)
        }
    }
}

/// The agent's loop and all that it owns.
struct Agent {
    config: AgentConfig,
    supervisor: Supervisor,
    state: NodeState,
    inventory: Inventory,
    incarnation: u64,
    endpoint: Endpoint,
    events: mpsc::Receiver<Event>,
    events_tx: mpsc::Sender<Event>,
    reports: watch::Sender<NodeReport>,
    inboxes: BTreeMap<RankKey, mpsc::Sender<ProcessCommand>>,
    lookout: Lookout,
    standing: Standing,
    refusals: mpsc::Receiver<(SocketAddr, Said)>,
    /// [`Supervisor::changes`] as of what is on disk.
    kept: u64,
    /// The lease and a task a process.
    tasks: JoinSet<()>,
    stop_lease: CancellationToken,
}

impl Agent {
    fn start(config: AgentConfig) -> Result<Self, AgentError> {
        if config.coordinators.is_empty() {
            return Err(AgentError::NoCoordinators);
        }
        let identity = NodeIdentity::load(&config.identity_dir)?;
        let found = identity.identity();
        if (found.role, &found.name) != (Role::Node, &config.node) {
            let (dir, expected) = (config.identity_dir.clone(), config.node.clone());
            return Err(AgentError::WrongIdentity { dir, found: Box::new(found.clone()), expected });
        }
        let state = NodeState::open(&config.state_dir, found.cluster, &config.node)?;
        let inventory = inventory::take(config.memory_bytes)?;
        let endpoint = Endpoint::bind(SocketAddr::new(config.listen_ip, 0), &identity, &[])?;
        let (events_tx, events) = mpsc::channel(EVENTS_MAX);
        let incarnation = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64);
        let first = NodeReport {
            node: config.node.clone(),
            incarnation,
            inventory: inventory.clone(),
            workers: Vec::new(),
            leaving: false,
        };
        let (reports, receiver) = watch::channel(first);
        let stop_lease = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let roster = Roster::open(&config.state_dir, config.coordinators.clone());
        let (supervisor, lease) = remembered(&config, &state);
        let lookout = Lookout::new(&roster.addrs(), lease, config.orphan, Instant::now());
        let (refusals_tx, refusals) = mpsc::channel(REFUSALS_MAX);
        let voice = lease::Voice { events: events_tx.clone(), refusals: refusals_tx };
        tasks.spawn(lease::keep(endpoint.clone(), roster, receiver, voice, stop_lease.clone()));
        let kept = supervisor.changes();
        let inboxes = BTreeMap::new();
        tracing::info!(node_id = %config.node, cores = inventory.cores, memory_bytes = inventory.memory_bytes, "agent up");
        Ok(Self {
            config,
            supervisor,
            state,
            inventory,
            incarnation,
            endpoint,
            events,
            events_tx,
            reports,
            inboxes,
            lookout,
            standing: Standing::Led,
            refusals,
            kept,
            tasks,
            stop_lease,
        })
    }

    async fn serve(&mut self, cancel: &CancellationToken) -> Result<(), AgentError> {
        while !(self.supervisor.is_leaving() && self.supervisor.is_empty()) {
            let event = self.select(cancel).await?;
            self.handle(event);
            self.look_out();
        }
        Ok(())
    }

    /// The one place where the agent waits.
    async fn select(&mut self, cancel: &CancellationToken) -> Result<Event, AgentError> {
        let standing_until = self.lookout.next_change(Instant::now());
        let deadline = self.supervisor.next_deadline().into_iter().chain(standing_until).min();
        let tick = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = cancel.cancelled(), if !self.supervisor.is_leaving() => Ok(Event::Leave),
            Some(event) = self.events.recv() => Ok(event),
            Some((addr, said)) = self.refusals.recv() => {
                self.lookout.refused(addr, said, Instant::now());
                Ok(Event::Tick)
            }
            Some(ended) = self.tasks.join_next() => match ended {
                Err(e) => Err(AgentError::Task { reason: e.to_string() }),
                // A process's task; what it had to say is in the events. The lease's ends only in `close`.
                Ok(()) => Ok(Event::Tick),
            },
            () = tick => Ok(Event::Tick),
        }
    }

    /// Applies one event and all that follows from it, then publishes the report where it changed.
    fn handle(&mut self, event: Event) {
        let mut queue = VecDeque::from([event]);
        while let Some(event) = queue.pop_front() {
            if let Event::Exited { key, how } = &event {
                tracing::info!(replica_id = key.replica.0, epoch = key.epoch.0, rank = key.rank.0, %how, "worker gone");
                self.inboxes.remove(key);
            }
            if let Event::Orders(orders) = &event
                && orders.term >= self.supervisor.term()
            {
                self.lookout.granted(orders.term, lease::held(orders), Instant::now());
                self.lookout.follow(roster::merged(&orders.coordinators, &self.config.coordinators));
            }
            let commands = self.supervisor.apply(event, Instant::now());
            self.remember();
            for command in commands {
                queue.extend(self.execute(command));
            }
        }
        let report = self.report();
        self.reports.send_if_modified(|last| {
            let news = is_news(last, &report);
            *last = report;
            news
        });
    }

    /// Says what the node may do by itself, where that has changed.
    fn look_out(&mut self) {
        let standing = self.lookout.standing(Instant::now());
        if standing == self.standing {
            return;
        }
        match standing {
            Standing::Led => tracing::info!("a leader is there again"),
            Standing::Seeking => tracing::warn!("the lease ran out; ranks run on while a leader is looked for"),
            Standing::Alone => tracing::warn!("nobody leads; ranks run on, and those that die are started again"),
            Standing::Orphaned(cut) => tracing::warn!(?cut, "cut off from the cluster; ranks are stopped"),
        }
        self.standing = standing;
        self.handle(Event::Standing(standing));
    }

    /// A disk that fails must not stop ranks that serve: fences then hold as long as this process does.
    fn remember(&mut self) {
        if let Err(e) = self.state.raise_term(self.supervisor.term()) {
            tracing::error!(term = self.supervisor.term().0, error = %e, "the term could not be made durable");
        }
        let changes = self.supervisor.changes();
        if changes != self.kept {
            self.kept = changes;
            let kept = self.supervisor.kept(&self.config.node);
            if let Err(e) = last_orders::save(&self.config.state_dir, &kept) {
                tracing::error!(error = %e, "the orders could not be made durable");
            }
        }
    }

    fn report(&self) -> NodeReport {
        NodeReport {
            node: self.config.node.clone(),
            incarnation: self.incarnation,
            inventory: self.inventory.clone(),
            workers: self.supervisor.statuses(Instant::now()),
            leaving: self.supervisor.is_leaving(),
        }
    }

    /// Carries out one command; what came of it at once, if anything.
    fn execute(&mut self, command: Command) -> Option<Event> {
        match command {
            Command::Spawn(order) => Some(self.spawn(*order, None)),
            Command::Revive { order, addr } => Some(self.spawn(*order, Some(addr))),
            Command::Tell { key, message } => {
                self.send(key, ProcessCommand::Tell(Box::new(message)));
                None
            }
            Command::Look(key) => {
                self.send(key, ProcessCommand::Look);
                None
            }
            Command::Kill(key) => {
                self.send(key, ProcessCommand::Kill);
                None
            }
        }
    }

    fn spawn(&mut self, order: RankOrder, addr: Option<RankAddr>) -> Event {
        let (key, revived) = (key_of(&order), addr.is_some());
        let child = match worker_process::spawn(&self.config.worker_exe, key) {
            Ok(child) => child,
            Err(e) => {
                let how = format!("could not be started as {}: {e}", self.config.worker_exe.display());
                return Event::Exited { key, how };
            }
        };
        let pid = child.id().unwrap_or(0);
        tracing::info!(
            replica_id = key.replica.0,
            epoch = key.epoch.0,
            rank = key.rank.0,
            pid,
            revived,
            "worker started"
        );
        let (inbox, receiver) = mpsc::channel(INBOX_MAX);
        self.inboxes.insert(key, inbox);
        self.tasks.spawn(worker_process::drive(child, key, receiver, self.events_tx.clone()));
        self.send(key, ProcessCommand::Tell(Box::new(ToWorker::Start(Box::new(self.spec(order, addr))))));
        Event::Started { key, pid }
    }

    fn spec(&self, order: RankOrder, addr: Option<RankAddr>) -> WorkerSpec {
        WorkerSpec {
            node: self.config.node.clone(),
            replica: order.replica,
            epoch: order.epoch,
            rank: order.rank,
            deployment: order.deployment,
            plan: order.plan,
            listen_ip: self.config.listen_ip.to_string(),
            identity_dir: self.config.identity_dir.display().to_string(),
            addr,
        }
    }

    /// Queues a command for a process. One that leaves its whole inbox unread is killed by closing it.
    fn send(&mut self, key: RankKey, command: ProcessCommand) {
        if let Some(inbox) = self.inboxes.get(&key)
            && inbox.try_send(command).is_err()
        {
            self.inboxes.remove(&key);
        }
    }

    /// Ends the lease with a last report, then every task.
    async fn close(mut self) {
        self.inboxes.clear();
        self.stop_lease.cancel();
        self.events.close();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(CLOSE_DEADLINE, ended).await.is_err() {
            tracing::warn!("tasks of the agent were aborted");
        }
        self.tasks.shutdown().await;
        self.endpoint.close("the node leaves", CLOSE_DEADLINE).await;
    }
}

#[cfg(test)]
mod tests {
    use protocol::lease::{WorkerPhase, WorkerStatus};
    use protocol::stats::EngineStats;
    use protocol::worker::{EngineLoad, Proof};
    use protocol::{Epoch, Rank, ReplicaId};

    use super::*;

    #[test]
    fn figures_are_no_news_and_a_phase_is() {
        let worker = WorkerStatus {
            replica: ReplicaId(0),
            epoch: Epoch(1),
            rank: Rank(0),
            pid: 7,
            phase: WorkerPhase::Serving,
            bytes_read: 1,
            load: None,
            stats: None,
            proof: None,
        };
        let report = |worker: WorkerStatus| NodeReport {
            node: NodeId::new("node-1").expect("a label"),
            incarnation: 1,
            inventory: Inventory { cores: 1, memory_bytes: 1, version: "1".into() },
            workers: vec![worker],
            leaving: false,
        };
        let before = report(worker.clone());
        let load = Some(EngineLoad { running: 3, ..EngineLoad::default() });
        let stats = Some(Box::new(EngineStats { generation_tokens: 9, ..EngineStats::default() }));
        let proof = Some(Proof { age_ms: 7, good_ms: 9 });
        assert!(!is_news(&before, &report(WorkerStatus { load, stats, proof, ..worker.clone() })));
        assert!(is_news(&before, &report(WorkerStatus { phase: WorkerPhase::Draining, ..worker.clone() })));
        assert!(is_news(&before, &report(WorkerStatus { pid: 8, ..worker.clone() })));
        assert!(is_news(&before, &NodeReport { leaving: true, ..before.clone() }));
    }
}
