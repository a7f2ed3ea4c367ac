//! A node that speaks the lease protocol and obeys, but runs no worker.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use protocol::frame::{Refusal, RefusalCode};
use protocol::lease::{Inventory, NodeOrders, NodeReport, RankGoal, RankOrder, WorkerPhase, WorkerStatus};
use protocol::plan::RankAddr;
use protocol::stats::EngineStats;
use protocol::worker::EngineLoad;
use protocol::{Epoch, NodeId, Rank, Role};
use tokio::sync::watch;
use tokio::task::JoinSet;
use transport::{Connection, Endpoint, Expect, NodeIdentity, RecvStream, SendStream, StreamError};

use crate::cluster::{Cluster, SOON};

/// Tokens that each rank 0 says it has sampled.
pub(crate) const GENERATED: u64 = 1234;

pub(crate) struct FakeNode {
    /// Raised: every worker is gone at once.
    pub(crate) kill_workers: watch::Sender<u64>,
    task: JoinSet<()>,
}

impl FakeNode {
    pub(crate) fn start(cluster: &Cluster, name: &str) -> Self {
        let identity = cluster.identity(Role::Node, name);
        let ip = cluster.members[0].internal.ip();
        let endpoint = Endpoint::bind(SocketAddr::new(ip, 0), &identity, &[]).expect("a free port");
        let coordinators: Vec<_> = cluster.members.iter().map(|m| m.internal).collect();
        let (kill_workers, killed) = watch::channel(0);
        let mut task = JoinSet::new();
        task.spawn(run(endpoint, identity, coordinators, killed));
        Self { kill_workers, task }
    }

    /// As if the machine lost its power.
    pub(crate) async fn kill(mut self) {
        self.task.shutdown().await;
    }
}

async fn run(
    endpoint: Endpoint,
    identity: NodeIdentity,
    coordinators: Vec<SocketAddr>,
    mut killed: watch::Receiver<u64>,
) {
    let mut node = Agent { name: identity.identity().name.clone(), workers: BTreeMap::new() };
    for addr in coordinators.into_iter().cycle() {
        // Whatever ended the session: the next coordinator.
        let _ = session(&endpoint, addr, &mut node, &mut killed).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn session(
    endpoint: &Endpoint,
    addr: SocketAddr,
    node: &mut Agent,
    killed: &mut watch::Receiver<u64>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let connection = endpoint.connect(addr, Expect::role(Role::Coordinator), Duration::from_secs(2)).await?;
    let (mut send, mut recv) = connection.open(SOON).await?;
    loop {
        send.send(Epoch(0), &node.report(), SOON).await?;
        let heartbeat = tokio::time::sleep(Duration::from_millis(100));
        tokio::pin!(heartbeat);
        loop {
            tokio::select! {
                orders = recv.recv_message::<NodeOrders>(Epoch(0), SOON) => {
                    if node.obey(&orders?) {
                        break;
                    }
                }
                changed = killed.changed() => {
                    changed?;
                    node.workers.clear();
                    break;
                }
                () = &mut heartbeat => break,
            }
        }
    }
}

struct Agent {
    name: NodeId,
    workers: BTreeMap<(u64, u64, u16), WorkerStatus>,
}

impl Agent {
    fn report(&self) -> NodeReport {
        report(&self.name, self.workers.values().cloned().collect())
    }

    /// Whether anything changed.
    fn obey(&mut self, orders: &NodeOrders) -> bool {
        let before = self.workers.clone();
        let key = |o: &RankOrder| (o.replica.0, o.epoch.0, o.rank.0);
        self.workers.retain(|at, _| orders.ranks.iter().any(|o| key(o) == *at));
        for order in &orders.ranks {
            let (replica, epoch, rank) = (order.replica, order.epoch, order.rank);
            let worker = self.workers.entry(key(order)).or_insert_with(|| WorkerStatus {
                replica,
                epoch,
                rank,
                pid: 1,
                phase: WorkerPhase::Starting,
                bytes_read: 77,
                load: None,
                stats: None,
                proof: None,
            });
            let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port + rank.0));
            let addr = RankAddr::new(rank, self.name.clone(), at(40_000), at(41_000));
            worker.phase = match (&worker.phase, &order.goal) {
                (WorkerPhase::Starting, _) => WorkerPhase::Loaded { addr, bytes_read: 77 },
                (WorkerPhase::Loaded { .. }, RankGoal::Connect { .. }) => WorkerPhase::Connected,
                (WorkerPhase::Connected, RankGoal::Serve) => WorkerPhase::Serving,
                (as_it_is, _) => as_it_is.clone(),
            };
            if rank == Rank(0) && worker.phase == WorkerPhase::Serving {
                worker.load =
                    Some(EngineLoad { running: 2, kv_blocks_used: 4, kv_blocks_total: 16, ..EngineLoad::default() });
                worker.stats = Some(Box::new(EngineStats { generation_tokens: GENERATED, ..EngineStats::default() }));
            }
        }
        before != self.workers
    }
}

pub(crate) fn report(name: &NodeId, workers: Vec<WorkerStatus>) -> NodeReport {
    NodeReport {
        node: name.clone(),
        incarnation: 1,
        inventory: Inventory { cores: 2, memory_bytes: 1 << 30, version: "test".into() },
        workers,
        leaving: false,
    }
}

/// A connection to coordinator `id` as that peer, and a fresh stream on it.
pub(crate) async fn open_as(
    cluster: &Cluster,
    id: u64,
    identity: &NodeIdentity,
) -> (Endpoint, Connection, SendStream, RecvStream) {
    let to = cluster.members[id as usize - 1].internal;
    let endpoint = Endpoint::bind(SocketAddr::new(to.ip(), 0), identity, &[]).expect("a free port");
    let connection = endpoint.connect(to, Expect::role(Role::Coordinator), SOON).await.expect("accepted");
    let (send, recv) = connection.open(SOON).await.expect("a stream");
    (endpoint, connection, send, recv)
}

/// The refusal that comes in place of orders.
pub(crate) async fn refusal(recv: &mut RecvStream) -> (RefusalCode, String) {
    match recv.recv_message::<NodeOrders>(Epoch(0), SOON).await {
        Err(StreamError::Refused(Refusal { code, detail })) => (code, detail),
        other => panic!("{other:?}"),
    }
}
