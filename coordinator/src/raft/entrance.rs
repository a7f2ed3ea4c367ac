//! Whether this coordinator takes part in Raft: at once, once it is founded or added, or not any more.
//!
//! ```text
//!  log or mark on disk ──────────────────────────────────────────────┐
//!                                                                    ▼        taken out
//!  nothing on disk ─▶ Entering ─┬─ the others are new too: founded ─▶ Inside ──────────────▶ Out(Removed)
//!                               ├─ added as a learner ──────────────▶
//!                               └─ has a vote there already ────────▶ Out(Forgot)
//! ```
//! A coordinator with an empty disk must not vote, nor acknowledge an entry, as if it had never done so. So it answers
//! none of Raft's calls before it knows that it is new: either every coordinator of the configuration is, and then the one
//! with the lowest id founds the cluster; or a majority says that it is a member without a vote. Before it answers the first
//! of Raft's calls, a mark in its log's file says that it may.
//! Invariant: whoever loses its disk after that finds out here, and takes no part.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::join_all;
use openraft::error::{InitializeError, RaftError};
use protocol::CoordinatorId;
use protocol::raft::RaftCall;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::codec;
use super::consensus::Consensus;
use super::log_store::{LogError, LogStore};
use super::type_config::Member;
use crate::config::MemberAddrs;

/// How long another coordinator may take to say what it knows.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest pause between two looks around.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Heartbeats for which a coordinator that is configured alone listens before it founds a cluster: one that lost its disk,
/// in a cluster that has grown since, is called by the others.
const LISTEN_HEARTBEATS: u32 = 10;
/// How often a wait is told of in the log.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Silences after which a coordinator that hears of no leader asks whether it is still a member.
const ASK_AFTER_SILENCES: u32 = 4;

/// How this coordinator stands to the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has nothing on disk, and does not know yet what that means.
    Entering,
    /// It answers Raft's calls.
    Inside,
    /// It has no place in the cluster.
    Out(Out),
}

/// Why a coordinator has no place in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Out {
    /// Taken out by an admin.
    #[error("coordinator {id} was removed from the cluster; its id is never used again")]
    Removed {
        /// Its id.
        id: CoordinatorId,
    },
    /// It had a vote, and its disk is empty.
    #[error(
        "coordinator {id} has a vote in the cluster and an empty state directory: it has forgotten whom it voted for. \
         Restore the directory, or remove it (`shardglm member remove {id}`) and add one with a new id"
    )]
    Forgot {
        /// Its id.
        id: CoordinatorId,
    },
}

/// What the cluster says of one coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Told {
    /// It votes.
    Voter,
    /// It is being added.
    Learner,
    /// It is none of the members.
    Absent,
    /// It was one, and is never again.
    Removed,
}

/// Where a coordinator stands, and the mark that remembers it.
#[derive(Debug)]
pub(super) struct Entrance {
    /// Where the mark goes, until it is there.
    log: Mutex<Option<LogStore>>,
    standing: watch::Sender<Standing>,
    /// Whether another coordinator has called it as a member.
    was_called: AtomicBool,
}

impl Entrance {
    /// The standing of a coordinator that `has_begun`, by its log or the mark in it, or not.
    pub(super) fn new(log: &LogStore, has_begun: bool) -> Self {
        let standing = if has_begun { Standing::Inside } else { Standing::Entering };
        let log = Mutex::new((!has_begun).then(|| log.clone()));
        Self { log, standing: watch::Sender::new(standing), was_called: AtomicBool::new(false) }
    }

    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Whether Raft's calls may be answered.
    pub(super) fn is_open(&self) -> bool {
        let is_open = *self.standing.borrow() == Standing::Inside;
        if !is_open {
            self.was_called.store(true, Ordering::Relaxed);
        }
        is_open
    }

    fn is_entering(&self) -> bool {
        *self.standing.borrow() == Standing::Entering
    }

    fn log(&self) -> MutexGuard<'_, Option<LogStore>> {
        self.log.lock().expect("nothing panics while it holds the log")
    }

    /// Takes part from now on; the mark is on the disk before.
    async fn enter(&self) -> Result<(), LogError> {
        let Some(log) = self.log().clone() else { return Ok(()) };
        log.mark_entered().await?;
        *self.log() = None;
        self.standing.send_if_modified(|s| {
            let is_new = *s == Standing::Entering;
            if is_new {
                *s = Standing::Inside;
            }
            is_new
        });
        Ok(())
    }

    fn leave(&self, out: Out) {
        tracing::error!(reason = %out, "this coordinator takes no part any more");
        self.standing.send_replace(Standing::Out(out));
    }
}

impl Consensus {
    /// Enters, then watches whether this coordinator is still a member; until `cancel`, or it is out.
    pub(super) async fn attend(self, configured: Vec<MemberAddrs>, cancel: CancellationToken) {
        let attended = async {
            self.come_in(&configured).await;
            self.stay().await;
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = attended => {}
        }
    }

    /// Until there is a log, or this coordinator is out.
    async fn come_in(&self, configured: &[MemberAddrs]) {
        let founds = configured.iter().map(|m| m.id).min() == Some(self.id());
        let others: Vec<_> = configured.iter().map(|m| m.id).filter(|id| *id != self.id()).collect();
        let pause = self.silence() / 8;
        let mut told_at: Option<Instant> = None;
        if others.is_empty() && !self.is_begun().await {
            tokio::time::sleep(self.heartbeat() * LISTEN_HEARTBEATS).await;
        }
        while !self.is_begun().await && !matches!(*self.entrance().standing().borrow(), Standing::Out(_)) {
            let waits_for = match self.step_in(founds, &others, configured).await {
                Ok(waits_for) => waits_for,
                Err(error) => {
                    tracing::error!(%error, "cannot write down that this coordinator takes part");
                    "its disk".to_owned()
                }
            };
            if told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
                told_at = Some(Instant::now());
                tracing::info!(coordinator = self.id().0, %waits_for, "not in a cluster yet");
            }
            tokio::time::sleep(pause.min(PAUSE_MAX)).await;
        }
    }

    /// One look around. What it waits for is returned in words.
    async fn step_in(
        &self,
        founds: bool,
        others: &[CoordinatorId],
        configured: &[MemberAddrs],
    ) -> Result<String, LogError> {
        let entrance = self.entrance();
        let hello: BTreeMap<_, _> =
            join_all(others.iter().map(async |id| (*id, self.ask::<bool>(*id, RaftCall::Hello, &()).await)))
                .await
                .into_iter()
                .collect();
        let silent: Vec<_> = hello.iter().filter(|(_, new)| new.is_none()).map(|(id, _)| id.to_string()).collect();
        let is_new_everywhere = hello.values().all(|new| *new == Some(true));
        if founds && is_new_everywhere {
            if others.is_empty() && entrance.is_entering() && entrance.was_called.load(Ordering::Relaxed) {
                entrance.leave(Out::Forgot { id: self.id() });
                return Ok(String::new());
            }
            entrance.enter().await?;
            let invited =
                join_all(others.iter().map(async |id| self.ask::<bool>(*id, RaftCall::Found, &()).await)).await;
            if invited.iter().all(|answer| *answer == Some(true)) {
                self.found(configured).await;
            }
            return Ok("the answers of the others".to_owned());
        }
        if hello.values().all(|new| *new != Some(false)) {
            return Ok(match silent.is_empty() {
                true => "the first coordinator, which founds the cluster".to_owned(),
                false => format!("coordinators {}: the first start needs all of them", silent.join(", ")),
            });
        }
        if entrance.is_entering() {
            match self.ask_standing().await {
                Some(Told::Voter) => entrance.leave(Out::Forgot { id: self.id() }),
                Some(Told::Removed) => entrance.leave(Out::Removed { id: self.id() }),
                Some(Told::Learner) => entrance.enter().await?,
                Some(Told::Absent) => {
                    return Ok(format!("being added: `shardglm member add --id {} …`", self.id()));
                }
                None => return Ok("a majority of the cluster that exists".to_owned()),
            }
        }
        Ok("the leader's log".to_owned())
    }

    async fn found(&self, configured: &[MemberAddrs]) {
        let nodes: BTreeMap<_, _> = configured.iter().map(|m| (m.id.0, Member::from(m))).collect();
        match self.raft().initialize(nodes).await {
            Ok(()) => tracing::info!("cluster formed"),
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(e) => tracing::error!(reason = %e, "cannot form the cluster"),
        }
    }

    /// Until this coordinator is a member no more.
    async fn stay(&self) {
        let mut asked_at = Instant::now();
        let mut led_at = Instant::now();
        while !matches!(*self.entrance().standing().borrow(), Standing::Out(_)) {
            tokio::time::sleep(PAUSE_MAX.min(self.silence() / 4)).await;
            let id = self.id();
            if self.leadership().borrow().leader.is_some() {
                led_at = Instant::now();
            }
            self.end_half_change().await;
            if self.told_here(id) == Some(Told::Removed) && !self.leads() {
                self.entrance().leave(Out::Removed { id });
            }
            let patience = self.silence() * ASK_AFTER_SILENCES;
            if led_at.elapsed() > patience && asked_at.elapsed() > patience {
                if self.ask_standing().await == Some(Told::Removed) {
                    self.entrance().leave(Out::Removed { id });
                }
                asked_at = Instant::now();
            }
        }
    }

    /// What the cluster says of this coordinator, from whoever can reach a majority.
    async fn ask_standing(&self) -> Option<Told> {
        let asked = self.reached().into_iter().map(|peer| {
            Box::pin(async move { self.ask::<Option<Told>>(peer, RaftCall::Standing, &self.id()).await.flatten() })
        });
        let mut asked: Vec<_> = asked.collect();
        while !asked.is_empty() {
            let (answer, _, left) = futures_util::future::select_all(asked).await;
            if answer.is_some() {
                return answer;
            }
            asked = left;
        }
        None
    }

    async fn ask<T: DeserializeOwned>(&self, peer: CoordinatorId, call: RaftCall, body: &impl Serialize) -> Option<T> {
        let answer = self.call(peer, call, codec::encode(body), ASK_TIMEOUT).await.ok()?;
        codec::decode(&answer).ok()
    }

    /// Answers [`RaftCall::Hello`]: whether this coordinator has neither a log nor a vote.
    pub(super) async fn is_new(&self) -> bool {
        !self.is_begun().await
    }

    /// Answers [`RaftCall::Found`]: every coordinator is new, this one too, and takes part from now on.
    pub(super) async fn be_founded(&self) -> bool {
        !self.is_begun().await && self.entrance().enter().await.is_ok() && self.entrance().is_open()
    }

    /// Answers [`RaftCall::Standing`], if a majority can be reached.
    pub(super) async fn standing_of(&self, id: CoordinatorId) -> Option<Told> {
        if !self.is_begun().await {
            return None;
        }
        self.read(ASK_TIMEOUT * 2 / 3).await.ok()?;
        self.told_here(id)
    }
}
