//! A simulated worker: the phases of a rank, its peers and its end, without a model.
//!
//! ```text
//!  Starting ─▶ Loading ─▶ Loaded ── Connect: every peer answers ─▶ Connected ── Serve ─▶ Serving ── Drain ─▶ (gone)
//!      └──────────┴──────────┴── a peer is silent, or has no such rank: Failed, retryable ──┘
//! ```
//! Not here: the agent. Invariant: a rank that is connected ends soon after any of its peers does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use node::agent::supervisor::{Event, RankKey, key_of};
use protocol::lease::{RankOrder, WorkerPhase};
use protocol::plan::RankAddr;
use protocol::worker::{EngineLoad, FromWorker, ToWorker};
use protocol::{NodeId, Rank};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;

use crate::agent::host_of;
use crate::engine::Engine;
use crate::host::HostId;
use crate::message::{Answer, Request};
use crate::net::Net;

/// How long a shard takes to load, ms.
const LOAD_MS: std::ops::Range<u64> = 100..1_500;
/// How long the group may take to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a rank looks after its peers, and how long one may be silent.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// How often a rank that hangs looks whether it goes on.
const HANGING: Duration = Duration::from_millis(10);
/// How often it shows that it lives.
const ALIVE_EVERY: Duration = Duration::from_millis(500);
/// How long one step takes.
const STEP: Duration = Duration::from_millis(20);

/// What others see of a worker's process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outside {
    /// It gets no turn: SIGSTOP of this process alone.
    hangs: Arc<AtomicBool>,
    /// It listens to its group.
    listens: Arc<AtomicBool>,
    /// Of a rank 0 that serves.
    engine: Arc<Mutex<Option<Engine>>>,
}

impl Outside {
    pub(crate) fn set_hanging(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::Relaxed);
    }

    pub(crate) fn hangs(&self) -> bool {
        self.hangs.load(Ordering::Relaxed)
    }

    pub(crate) fn engine(&self) -> MutexGuard<'_, Option<Engine>> {
        self.engine.lock().expect("nothing panics with the engine")
    }

    pub(crate) fn listens(&self) -> bool {
        self.listens.load(Ordering::Relaxed)
    }
}

/// One worker's process.
pub(crate) struct Worker {
    pub(crate) host: HostId,
    pub(crate) node: NodeId,
    pub(crate) order: RankOrder,
    pub(crate) inbox: mpsc::Receiver<ToWorker>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) net: Net,
    pub(crate) outside: Outside,
    pub(crate) seed: u64,
}

impl Worker {
    fn key(&self) -> RankKey {
        key_of(&self.order)
    }

    /// Runs to its end and says how that was.
    pub(crate) async fn run(mut self) {
        let (key, events, outside) = (self.key(), self.events.clone(), self.outside.clone());
        let lived = tokio::select! {
            biased;
            lived = self.live() => lived,
            never = show_signs_of_life(key, events, outside) => match never {},
        };
        let how = match lived {
            Ok(()) => "ended with status 0".to_owned(),
            Err(reason) => {
                if let Some(engine) = &mut *self.outside.engine() {
                    engine.fail(&reason);
                }
                self.phase(WorkerPhase::Failed { reason, retryable: true }).await;
                "ended with status 1".to_owned()
            }
        };
        self.outside.listens.store(false, Ordering::Relaxed);
        *self.outside.engine() = None;
        let exited = Event::Exited { key: self.key(), how };
        // An agent that is gone needs no word.
        let _ = self.events.send(exited).await;
    }

    async fn phase(&self, phase: WorkerPhase) {
        self.stopped().await;
        let said = Event::Said { key: self.key(), message: FromWorker::Phase(phase) };
        let _ = self.events.send(said).await;
    }

    /// While it hangs, nothing.
    async fn stopped(&self) {
        while self.outside.hangs() {
            tokio::time::sleep(HANGING).await;
        }
    }

    async fn live(&mut self) -> Result<(), String> {
        let load = StdRng::seed_from_u64(self.seed).gen_range(LOAD_MS);
        self.phase(WorkerPhase::Loading { bytes_read: 1, bytes_total: 2 }).await;
        tokio::time::sleep(Duration::from_millis(load)).await;
        self.outside.listens.store(true, Ordering::Relaxed);
        let addr = self.addr();
        self.phase(WorkerPhase::Loaded { addr, bytes_read: 2 }).await;
        let peers = loop {
            match self.told().await? {
                ToWorker::Connect { peers } => break peers,
                ToWorker::Drain { .. } => return Ok(()),
                ToWorker::Start(_) | ToWorker::Serve => {}
            }
        };
        self.connect(&peers).await?;
        self.phase(WorkerPhase::Connected).await;
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut step = tokio::time::interval(STEP);
        step.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                told = self.told() => match told? {
                    ToWorker::Serve => {
                        if self.order.rank == Rank(0) {
                            *self.outside.engine() = Some(Engine::new(&self.order)?);
                        }
                        self.phase(WorkerPhase::Serving).await;
                    }
                    ToWorker::Drain { deadline_ms } => {
                        self.phase(WorkerPhase::Draining).await;
                        self.finish(Duration::from_millis(u64::from(deadline_ms))).await;
                        return Ok(());
                    }
                    ToWorker::Start(_) | ToWorker::Connect { .. } => {}
                },
                _ = look.tick() => self.all_there(&peers, SILENCE_MAX).await?,
                _ = step.tick() => self.step().await,
            }
        }
    }

    async fn step(&self) {
        self.stopped().await;
        if let Some(engine) = &mut *self.outside.engine() {
            engine.step();
        }
    }

    /// Finishes what runs, within `deadline`, and admits nothing.
    async fn finish(&self, deadline: Duration) {
        if let Some(engine) = &mut *self.outside.engine() {
            engine.drain();
        }
        let finished = async {
            while self.outside.engine().as_ref().is_some_and(|engine| !engine.is_idle()) {
                tokio::time::sleep(STEP).await;
                self.step().await;
            }
        };
        if tokio::time::timeout(deadline, finished).await.is_err()
            && let Some(engine) = &mut *self.outside.engine()
        {
            engine.fail("the node drains");
        }
    }

    /// What it is told next.
    async fn told(&mut self) -> Result<ToWorker, String> {
        let told = self.inbox.recv().await.ok_or_else(|| "its agent is gone".to_owned())?;
        self.stopped().await;
        Ok(told)
    }

    async fn connect(&self, peers: &[RankAddr]) -> Result<(), String> {
        let all = async {
            while self.all_there(peers, LOOK_EVERY).await.is_err() {
                tokio::time::sleep(HANGING).await;
            }
        };
        tokio::time::timeout(CONNECT_TIMEOUT, all).await.map_err(|_| "its group does not connect".to_owned())
    }

    /// Whether every peer answers, each within `timeout`.
    async fn all_there(&self, peers: &[RankAddr], timeout: Duration) -> Result<(), String> {
        self.stopped().await;
        for peer in peers.iter().filter(|p| p.rank != self.order.rank) {
            let key = RankKey { rank: peer.rank, ..self.key() };
            let answer = self.net.call(self.host, host_of(&peer.node), Request::Hello(key), timeout).await;
            if !matches!(answer, Ok(Answer::Hello(true))) {
                return Err(format!("rank {} on {} is gone", peer.rank, peer.node));
            }
        }
        Ok(())
    }

    fn addr(&self) -> RankAddr {
        let HostId::Node(n) = self.host else { unreachable!("workers run on nodes") };
        let Rank(rank) = self.order.rank;
        let ip = [10, 0, 1, n as u8];
        RankAddr::new(Rank(rank), self.node.clone(), (ip, 40_000 + rank).into(), (ip, 41_000 + rank).into())
    }
}

/// What the thread beside a worker's step loop does.
async fn show_signs_of_life(key: RankKey, events: mpsc::Sender<Event>, outside: Outside) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(ALIVE_EVERY).await;
        if !outside.hangs() {
            let message = FromWorker::Alive { load: EngineLoad::default(), stats: None, proof: None };
            let _ = events.send(Event::Said { key, message }).await;
        }
    }
}
