//! The handle to this coordinator's Raft: propose, read, and know who leads.
//!
//! Not here: stores and network. Invariant: `propose` answers `Ok` only for a command that a majority has on disk and
//! that was applied here or at the leader.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::SnapshotPolicy;
use openraft::error::{CheckIsLeaderError, Fatal, ForwardToLeader, RaftError};
use protocol::journal::{JournalRequest, JournalResponse};
use protocol::raft::{RaftCall, RaftRequest};
use protocol::{ClusterId, CoordinatorId};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use transport::Endpoint;

use super::codec;
use super::election::{Asked, Election, Known, lease, may_stand};
use super::entrance::{Entrance, Out, Standing, Told};
use super::error::{ProposeError, ReadError};
use super::hearing::Hearing;
use super::leadership::{Following, Leadership, silence};
use super::links::Links;
use super::log_store::{LogError, LogStore};
use super::members::Members;
use super::network::Network;
use super::server::FORWARDED_TIMEOUT;
use super::snapshot::SnapshotError;
use super::state_machine::{AppliedState, StateMachine};
use super::type_config::{Member, NodeId, Outcome, Raft};
use super::wires::{LinkError, Wires};
use crate::config::{MemberAddrs, RaftTimings};
use crate::reconcile::{Heard, HeardTold};
use crate::runtime;
use crate::state::{Applied, ClusterState, Command};

/// What bounds the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogBounds {
    /// Entries between two snapshots.
    pub(super) snapshot_entries: u64,
    /// Entries that are kept behind a snapshot, for followers that are a little late.
    pub(super) kept_entries: u64,
}

const LOG_BOUNDS: LogBounds = LogBounds { snapshot_entries: 512, kept_entries: 256 };
/// How long a part of a snapshot may take to arrive and be installed, ms.
const SNAPSHOT_TIMEOUT_MS: u64 = 5_000;
/// How long the answer of a leader that has been replaced may still take: it may have agreed on the command before.
const LATE_ANSWER: Duration = Duration::from_millis(250);
/// Pause before a command goes to the next leader.
const FORWARD_PAUSE: Duration = Duration::from_millis(20);

/// Why Raft did not start.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Timings that contradict each other.
    #[error("raft timings {timings:?} cannot work: {reason}")]
    Timings {
        /// As configured.
        timings: RaftTimings,
        /// What openraft says.
        reason: String,
    },
    /// Raft itself.
    #[error("raft cannot start from what is on disk: {reason}")]
    Raft {
        /// What openraft says.
        reason: String,
    },
}

/// A command that was agreed on and applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Its log entry.
    pub index: u64,
    /// What it did.
    pub applied: Applied,
}

/// Where and with whom Raft runs.
#[derive(Debug)]
pub struct ConsensusConfig<'a> {
    /// This coordinator.
    pub id: CoordinatorId,
    /// Every coordinator.
    pub members: &'a [MemberAddrs],
    /// Where log and snapshots are.
    pub dir: &'a std::path::Path,
    /// Its clock.
    pub timings: RaftTimings,
}

/// This coordinator's Raft. Clones share it.
#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

struct Inner {
    id: CoordinatorId,
    cluster: ClusterId,
    timings: RaftTimings,
    raft: Raft,
    wires: Arc<dyn Wires>,
    applied: watch::Receiver<AppliedState>,
    state_machine: StateMachine,
    leadership: watch::Receiver<Leadership>,
    members: watch::Receiver<Arc<Members>>,
    hearing: Arc<Hearing>,
    entrance: Entrance,
    /// Held by the one change of the members that is under way.
    change_turn: Arc<Mutex<()>>,
    /// Where a change goes on whose asker is gone.
    tasks: TaskTracker,
    /// What this coordinator has heard of workers, while it leads.
    heard: watch::Sender<Option<Arc<Heard>>>,
}

impl Consensus {
    /// Opens the stores, starts Raft and its helpers on `tasks`, and forms the cluster where there is none yet.
    ///
    /// # Errors
    /// [`ConsensusError`]; nothing is left running but what `cancel` ends.
    pub async fn start(
        config: ConsensusConfig<'_>,
        endpoint: &Endpoint,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Result<Self, ConsensusError> {
        let dir = config.dir.to_owned();
        let open = move || {
            let log = LogStore::open(&dir)?;
            let state_machine = StateMachine::open(&dir, log.purged()?)?;
            Ok::<_, ConsensusError>((log, state_machine))
        };
        let stores =
            tokio::task::spawn_blocking(open).await.expect("opening stores does not panic, and is never aborted")?;
        let wires = Arc::new(Links::new(config.id, endpoint, tasks, cancel));
        let cluster = endpoint.identity().identity().cluster;
        Self::over(config, LOG_BOUNDS, (cluster, wires), stores, tasks, cancel).await
    }

    /// Raft and its helpers over stores that are open and wires that are kept.
    pub(super) async fn over(
        config: ConsensusConfig<'_>,
        bounds: LogBounds,
        (cluster, wires): (ClusterId, Arc<dyn Wires>),
        (log, state_machine): (LogStore, StateMachine),
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Result<Self, ConsensusError> {
        let (id, timings) = (config.id, config.timings);
        let raft_config = Arc::new(raft_config(timings, bounds)?);
        let entrance = Entrance::new(&log, log.is_begun()? || !state_machine.is_empty());
        let network = Network { cluster, wires: Arc::clone(&wires) };
        wires.follow(config.members);
        let raft = Raft::new(id.0, raft_config, network, log, state_machine.clone())
            .await
            .map_err(|e| ConsensusError::Raft { reason: e.to_string() })?;
        let (leadership_tx, leadership) = watch::channel(Leadership::unknown(runtime::now()));
        let hearing = Arc::new(Hearing::new());
        let (members_tx, members) = watch::channel(Arc::new(Members::configured(config.members)));
        let following = Following { raft: raft.clone(), hearing: Arc::clone(&hearing), silence: silence(timings) };
        tasks.spawn(following.run(leadership_tx, cancel.clone()));
        tasks.spawn(follow_members(raft.clone(), Arc::clone(&wires), members_tx, cancel.clone()));
        let election = Election {
            raft: raft.clone(),
            id,
            cluster,
            wires: Arc::clone(&wires),
            hearing: Arc::clone(&hearing),
            timings,
        };
        tasks.spawn(election.run(cancel.clone()));
        let inner = Inner {
            id,
            cluster,
            timings,
            raft,
            wires,
            applied: state_machine.subscribe(),
            state_machine,
            leadership,
            members,
            hearing,
            entrance,
            change_turn: Arc::default(),
            tasks: tasks.clone(),
            heard: watch::Sender::default(),
        };
        let this = Self { inner: Arc::new(inner) };
        tasks.spawn(this.clone().attend(config.members.to_vec(), cancel.clone()));
        Ok(this)
    }

    /// This coordinator.
    #[must_use]
    pub fn id(&self) -> CoordinatorId {
        self.inner.id
    }

    /// The cluster that it belongs to.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.inner.cluster
    }

    /// The state as applied here.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<AppliedState> {
        self.inner.applied.clone()
    }

    /// Who leads.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// Who the coordinators are, as this one knows. Follows the log with a little delay: see [`Self::newest_members`].
    #[must_use]
    pub fn members(&self) -> watch::Receiver<Arc<Members>> {
        self.inner.members.clone()
    }

    /// The other coordinators that this one is connected to.
    #[must_use]
    pub fn reached(&self) -> BTreeSet<CoordinatorId> {
        self.inner.wires.up()
    }

    /// Asks the journal of another coordinator.
    ///
    /// # Errors
    /// [`LinkError`].
    pub(crate) async fn ask_journal(
        &self,
        peer: CoordinatorId,
        request: &JournalRequest,
        timeout: Duration,
    ) -> Result<JournalResponse, LinkError> {
        self.inner.wires.journal(peer, request, timeout).await
    }

    pub(super) fn raft(&self) -> &Raft {
        &self.inner.raft
    }

    /// Whether another coordinator may stand for election, as far as this one knows.
    pub(super) fn may_stand(&self, asked: Asked) -> bool {
        let known = Known {
            last_log: self.inner.raft.data_metrics().borrow().last_log,
            leads: self.leads(),
            unled: self.inner.hearing.unled(),
            unasked: self.inner.hearing.unasked(),
        };
        may_stand(asked, known, self.inner.timings)
    }

    /// Whether this coordinator leads, with a majority behind it.
    pub(super) fn leads(&self) -> bool {
        self.inner.leadership.borrow().here
    }

    pub(super) fn heartbeat(&self) -> Duration {
        Duration::from_millis(u64::from(self.inner.timings.heartbeat_ms))
    }

    pub(super) fn silence(&self) -> Duration {
        silence(self.inner.timings)
    }

    pub(super) fn entrance(&self) -> &Entrance {
        &self.inner.entrance
    }

    pub(super) fn change_turn(&self) -> Arc<Mutex<()>> {
        Arc::clone(&self.inner.change_turn)
    }

    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.inner.tasks
    }

    /// Whether there is a log or a vote. A Raft that has stopped has begun.
    pub(super) async fn is_begun(&self) -> bool {
        self.inner.raft.is_initialized().await.unwrap_or(true)
    }

    /// Who the coordinators are, by the newest membership in the log or state here: after [`Self::read`], no older than what was
    /// read. The configured ones before there is any.
    #[must_use]
    pub fn newest_members(&self) -> Members {
        // openraft publishes the log's membership and applies entries from different tasks, in no order.
        let applied = self.inner.state_machine.membership();
        let logged = Arc::clone(&self.inner.raft.metrics().borrow().membership_config);
        let newest = if applied.log_id() > logged.log_id() { &applied } else { logged.as_ref() };
        Members::of(newest).unwrap_or_else(|| Members::clone(&self.inner.members.borrow()))
    }

    /// What the state applied here says of a coordinator; `None` before there is any.
    pub(super) fn told_here(&self, id: CoordinatorId) -> Option<Told> {
        let members = Members::of(&self.inner.state_machine.membership())?;
        let is_used = self.inner.applied.borrow().state.used_members.contains(&id);
        Some(match members.get(id) {
            Some(member) if member.votes => Told::Voter,
            Some(_) => Told::Learner,
            None if is_used => Told::Removed,
            None => Told::Absent,
        })
    }

    /// The state once it has applied `index`.
    pub(super) async fn applied_at(&self, index: u64, timeout: Duration) -> Result<Arc<ClusterState>, ReadError> {
        let mut applied = self.applied();
        match tokio::time::timeout(timeout, applied.wait_for(|a| a.index >= index)).await {
            Ok(Ok(applied)) => Ok(Arc::clone(&applied.state)),
            Ok(Err(_)) => Err(ReadError::Stopped { reason: "shutting down".to_owned() }),
            Err(_) => Err(ReadError::NoQuorum { waited_ms: timeout.as_millis() as u64 }),
        }
    }

    /// Waits until this coordinator has no place in the cluster any more, and why; for ever while it has. Cancel safe.
    pub async fn out(&self) -> Out {
        let mut standing = self.inner.entrance.standing();
        let out = standing.wait_for(|s| matches!(s, Standing::Out(_))).await;
        match out.ok().map(|s| s.clone()) {
            Some(Standing::Out(out)) => out,
            _ => std::future::pending().await,
        }
    }

    pub(super) fn hearing(&self) -> &Hearing {
        &self.inner.hearing
    }

    /// Gets `command` agreed on, here or through the leader, within `timeout`.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn propose(&self, command: Command, timeout: Duration) -> Result<Applied, ProposeError> {
        self.write(command, timeout).await.map(|written| written.applied)
    }

    /// As [`Self::propose`], and says which log entry it became.
    ///
    /// # Errors
    /// [`ProposeError`]; all but [`ProposeError::Unknown`] say that it was not applied and never will be.
    pub async fn write(&self, command: Command, timeout: Duration) -> Result<Written, ProposeError> {
        let started = Instant::now();
        let until = started + timeout;
        let own = self.inner.id;
        let mut leadership = self.leadership();
        loop {
            // A leader that lost its majority would only collect entries of which nobody can say what becomes.
            let able = leadership.wait_for(|l| l.here || l.leader.is_some_and(|leader| leader != own));
            let leader = match tokio::time::timeout_at(until, able).await {
                Ok(Ok(l)) => l.leader.unwrap_or(own),
                Ok(Err(_)) => return Err(ProposeError::Stopped { reason: "shutting down".to_owned() }),
                Err(_) => return Err(self.without_majority(started)),
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.without_majority(started));
            }
            let answer = if leader == own {
                self.write_here(command.clone(), left).await
            } else {
                self.write_at(leader, &command, left).await
            };
            match answer {
                Err(ProposeError::NotLeader { .. }) => tokio::time::sleep(FORWARD_PAUSE).await,
                other => return other,
            }
        }
    }

    /// Why nothing was proposed since `started`.
    pub(super) fn without_majority(&self, started: Instant) -> ProposeError {
        let waited_ms = started.elapsed().as_millis() as u64;
        match self.inner.leadership.borrow().leader {
            Some(leader) => ProposeError::NoQuorum { leader, waited_ms },
            None => ProposeError::NoLeader { waited_ms },
        }
    }

    pub(super) async fn call(
        &self,
        peer: CoordinatorId,
        call: RaftCall,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<Vec<u8>, LinkError> {
        let request = RaftRequest { cluster: self.inner.cluster, call, body };
        self.inner.wires.call(peer, request, timeout).await.map(|response| response.body)
    }

    async fn write_at(
        &self,
        leader: CoordinatorId,
        command: &Command,
        timeout: Duration,
    ) -> Result<Written, ProposeError> {
        let started = Instant::now();
        let unknown = || ProposeError::Unknown { waited_ms: started.elapsed().as_millis() as u64 };
        let mut leadership = self.leadership();
        let replaced = async {
            // Over when this coordinator's Raft is, which the call finds out by itself.
            if leadership.wait_for(|l| l.leader.is_some_and(|now| now != leader)).await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(LATE_ANSWER).await;
        };
        let answer = tokio::select! {
            answer = self.call(leader, RaftCall::Propose, codec::encode(command), timeout) => answer,
            () = replaced => return Err(unknown()),
        };
        match answer {
            Ok(body) => codec::decode(&body).unwrap_or(Err(unknown())),
            Err(LinkError::Down { .. }) => Err(ProposeError::NotLeader { leader: None }),
            Err(LinkError::Call { .. }) => Err(unknown()),
        }
    }

    /// Gets `command` agreed on if this coordinator leads.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn propose_here(&self, command: Command, timeout: Duration) -> Result<Applied, ProposeError> {
        self.write_here(command, timeout).await.map(|written| written.applied)
    }

    /// As [`Self::propose_here`], and says which log entry it became.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub(super) async fn write_here(&self, command: Command, timeout: Duration) -> Result<Written, ProposeError> {
        let Leadership { here, leader, .. } = *self.inner.leadership.borrow();
        if !here {
            return Err(ProposeError::NotLeader { leader });
        }
        let started = Instant::now();
        let unknown = || ProposeError::Unknown { waited_ms: started.elapsed().as_millis() as u64 };
        let stopped = |e: Fatal<NodeId>| ProposeError::Stopped { reason: e.to_string() };
        let answer = self.inner.raft.client_write_ff(command).await.map_err(stopped)?;
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(Ok(response))) => {
                let applied = match response.data {
                    Outcome::Command(outcome) => outcome?,
                    Outcome::Internal => Applied::Done,
                };
                Ok(Written { index: response.log_id.index, applied })
            }
            // Also where openraft says that another one leads: it says the same of an entry that it took and later dropped
            // from this log for the new leader's, and a third coordinator may still have it and win.
            Ok(Ok(Err(_)) | Err(_)) | Err(_) => Err(unknown()),
        }
    }

    /// The state as it was when this was called or later, wherever it was changed. A round that no majority answers (a
    /// leader that has just won, links that are just coming up) is tried again as long as `timeout` lets.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(&self, timeout: Duration) -> Result<AppliedState, ReadError> {
        let stopped = || ReadError::Stopped { reason: "shutting down".to_owned() };
        let confirmed = async {
            let index = self.read_index().await?;
            let mut applied = self.applied();
            let state = applied.wait_for(|a| a.index >= index).await.map_err(|_| stopped())?;
            Ok(state.clone())
        };
        let no_quorum = ReadError::NoQuorum { waited_ms: timeout.as_millis() as u64 };
        tokio::time::timeout(timeout, confirmed).await.unwrap_or(Err(no_quorum))
    }

    /// The index up to which a read must have applied, from whoever leads; asks until somebody can say.
    async fn read_index(&self) -> Result<u64, ReadError> {
        let mut leadership = self.leadership();
        loop {
            let known = leadership.wait_for(|l| l.leader.is_some()).await;
            let leader = known.ok().and_then(|l| l.leader).unwrap_or(self.inner.id);
            let index = if leader == self.inner.id {
                self.read_index_here(FORWARDED_TIMEOUT).await
            } else {
                self.read_index_at(leader).await
            };
            match index {
                Err(ReadError::NotLeader { .. } | ReadError::NoQuorum { .. }) => {
                    tokio::time::sleep(FORWARD_PAUSE).await;
                }
                other => return other,
            }
        }
    }

    async fn read_index_at(&self, leader: CoordinatorId) -> Result<u64, ReadError> {
        let no_quorum = ReadError::NoQuorum { waited_ms: FORWARDED_TIMEOUT.as_millis() as u64 };
        match self.call(leader, RaftCall::ReadIndex, Vec::new(), FORWARDED_TIMEOUT).await {
            Ok(body) => codec::decode(&body).unwrap_or(Err(no_quorum)),
            Err(LinkError::Down { .. }) => Err(ReadError::NotLeader { leader: None }),
            Err(LinkError::Call { .. }) => Err(no_quorum),
        }
    }

    /// The index up to which a read must have applied, if this coordinator leads and a majority confirms it.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read_index_here(&self, timeout: Duration) -> Result<u64, ReadError> {
        let no_quorum = ReadError::NoQuorum { waited_ms: timeout.as_millis() as u64 };
        match tokio::time::timeout(timeout, self.inner.raft.get_read_log_id()).await {
            Err(_) => Err(no_quorum),
            Ok(Ok((read, _))) => Ok(read.map_or(0, |id| id.index)),
            Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(to)))) => {
                Err(ReadError::NotLeader { leader: leader_of(&to) })
            }
            Ok(Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_)))) => Err(no_quorum),
            Ok(Err(RaftError::Fatal(e))) => Err(ReadError::Stopped { reason: e.to_string() }),
        }
    }

    /// Says what this coordinator, as the leader, has heard of workers; `None` when it leads no more.
    pub(crate) fn publish_heard(&self, heard: Option<Heard>) {
        self.inner.heard.send_replace(heard.map(Arc::new));
    }

    pub(super) fn heard_here(&self) -> Option<Arc<Heard>> {
        self.inner.heard.borrow().clone()
    }

    /// What the leader has heard of workers; `None` where none leads (with a majority behind it), or it does not answer.
    pub(crate) async fn heard(&self) -> Option<Arc<Heard>> {
        let leader = self.inner.leadership.borrow().leader?;
        if leader == self.inner.id {
            return self.heard_here();
        }
        let told = self.call(leader, RaftCall::Heard, Vec::new(), FORWARDED_TIMEOUT).await.ok()?;
        let told: Option<HeardTold> = codec::decode(&told).ok()?;
        Some(Arc::new(told?.heard(std::time::Instant::now())))
    }

    /// Waits until Raft cannot go on (a failed disk), with the reason; for ever while it can. Cancel safe.
    pub async fn failed(&self) -> String {
        let mut metrics = self.inner.raft.metrics();
        let stopped = metrics.wait_for(|m| m.running_state.is_err()).await;
        match stopped.ok().and_then(|m| m.running_state.as_ref().err().cloned()) {
            Some(Fatal::Stopped) | None => std::future::pending().await,
            Some(fatal) => fatal.to_string(),
        }
    }

    /// Ends Raft; what was acknowledged is on disk.
    pub async fn shutdown(&self) {
        if let Err(e) = self.inner.raft.shutdown().await {
            tracing::error!(reason = %e, "raft did not end in order");
        }
    }
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Consensus(coordinator {}, {:?})", self.inner.id, *self.inner.leadership.borrow())
    }
}

fn leader_of(to: &ForwardToLeader<NodeId, Member>) -> Option<CoordinatorId> {
    to.leader_id.map(CoordinatorId)
}

fn raft_config(timings: RaftTimings, bounds: LogBounds) -> Result<openraft::Config, ConsensusError> {
    let wrong = |reason: String| ConsensusError::Timings { timings, reason };
    if timings.election_min_ms >= timings.election_max_ms {
        return Err(wrong("the shortest election timeout is not below the longest".to_owned()));
    }
    let lease_ms = lease(timings).as_millis() as u64;
    let config = openraft::Config {
        cluster_name: "shardglm".to_owned(),
        heartbeat_interval: u64::from(timings.heartbeat_ms),
        // Elections are `election`'s. What is left of these here is openraft's lease, during which it refuses votes: the
        // longest of its own election timeouts, which must be above the shortest.
        enable_elect: false,
        election_timeout_min: lease_ms - 1,
        election_timeout_max: lease_ms,
        install_snapshot_timeout: SNAPSHOT_TIMEOUT_MS,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(bounds.snapshot_entries),
        max_in_snapshot_log_to_keep: bounds.kept_entries,
        replication_lag_threshold: bounds.snapshot_entries * 2,
        ..openraft::Config::default()
    };
    config.validate().map_err(|e| wrong(e.to_string()))
}

/// Publishes the newest membership of the log, and keeps wires to those it names.
async fn follow_members(
    raft: Raft,
    wires: Arc<dyn Wires>,
    members: watch::Sender<Arc<Members>>,
    cancel: CancellationToken,
) {
    let mut metrics = raft.server_metrics();
    loop {
        let newest = Members::of(&metrics.borrow_and_update().membership_config);
        if let Some(newest) = newest.filter(|newest| **members.borrow() != *newest) {
            let addrs: Vec<_> = newest.list.iter().map(|m| m.addrs).collect();
            tracing::info!(members = ?newest.list, changing = newest.is_changing, "members");
            wires.follow(&addrs);
            members.send_replace(Arc::new(newest));
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = metrics.changed() => if changed.is_err() { return },
        }
    }
}
