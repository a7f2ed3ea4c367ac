//! One kept connection to each other coordinator.
//!
//! Not here: what is sent over it, and who the others are. A call never connects: where the connection is down it fails
//! at once, and the keeper of that peer goes on trying. Invariant: at most one keeper a peer, ended when the peer is no
//! member any more, or by the token that all were given.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use protocol::journal::{JournalRequest, JournalResponse};
use protocol::raft::{RaftRequest, RaftResponse};
use protocol::{CoordinatorId, Epoch, NodeId, Role};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use transport::{Connection, Endpoint, Expect};

use super::wires::{LinkError, Wires};
use crate::config::MemberAddrs;

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after the first failed attempt; doubles up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(30);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// The links of one coordinator.
#[derive(Debug)]
pub(super) struct Links {
    own: CoordinatorId,
    endpoint: Endpoint,
    tasks: TaskTracker,
    cancel: CancellationToken,
    peers: Mutex<BTreeMap<CoordinatorId, Kept>>,
}

/// One peer's keeper.
#[derive(Debug)]
struct Kept {
    addr: SocketAddr,
    connection: watch::Receiver<Option<Connection>>,
    /// Ends the keeper and its connection.
    _stop: DropGuard,
}

impl Links {
    /// Links that are kept on `tasks` until `cancel`; to nobody yet.
    pub(super) fn new(
        own: CoordinatorId,
        endpoint: &Endpoint,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Self {
        let (endpoint, tasks, cancel) = (endpoint.clone(), tasks.clone(), cancel.clone());
        Self { own, endpoint, tasks, cancel, peers: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CoordinatorId, Kept>> {
        self.peers.lock().expect("nothing panics while it holds the peers")
    }

    fn keeper(&self, peer: CoordinatorId, addr: SocketAddr) -> Kept {
        let stop = self.cancel.child_token();
        let (link, connection) = watch::channel(None);
        let keeper = Keeper { endpoint: self.endpoint.clone(), peer, addr, link };
        let stopped = stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                never = keeper.keep() => match never {},
            }
            keeper.let_go();
        });
        Kept { addr, connection, _stop: stop.drop_guard() }
    }

    fn connection(&self, peer: CoordinatorId) -> Result<Connection, LinkError> {
        let connection = self.lock().get(&peer).and_then(|kept| kept.connection.borrow().clone());
        connection.ok_or(LinkError::Down { peer })
    }
}

#[async_trait]
impl Wires for Links {
    async fn call(
        &self,
        peer: CoordinatorId,
        request: RaftRequest,
        deadline: Duration,
    ) -> Result<RaftResponse, LinkError> {
        let answer = self.connection(peer)?.call(Epoch(0), &request, deadline).await;
        answer.map_err(|source| LinkError::Call { peer, source })
    }

    async fn journal(
        &self,
        peer: CoordinatorId,
        request: &JournalRequest,
        deadline: Duration,
    ) -> Result<JournalResponse, LinkError> {
        let answer = self.connection(peer)?.call(Epoch(0), request, deadline).await;
        answer.map_err(|source| LinkError::Call { peer, source })
    }

    fn follow(&self, members: &[MemberAddrs]) {
        let wanted: BTreeMap<_, _> = members.iter().filter(|m| m.id != self.own).map(|m| (m.id, m.internal)).collect();
        let mut peers = self.lock();
        peers.retain(|peer, kept| wanted.get(peer) == Some(&kept.addr));
        for (peer, addr) in wanted {
            peers.entry(peer).or_insert_with(|| self.keeper(peer, addr));
        }
    }

    fn up(&self) -> BTreeSet<CoordinatorId> {
        self.lock().iter().filter(|(_, kept)| kept.connection.borrow().is_some()).map(|(id, _)| *id).collect()
    }
}

/// Keeps one connection.
struct Keeper {
    endpoint: Endpoint,
    peer: CoordinatorId,
    addr: SocketAddr,
    link: watch::Sender<Option<Connection>>,
}

impl Keeper {
    async fn keep(&self) -> Infallible {
        let (peer, addr) = (self.peer, self.addr);
        let mut pause = RETRY_FIRST;
        loop {
            match self.endpoint.connect(addr, expect(peer), CONNECT_TIMEOUT).await {
                Ok(connection) => {
                    pause = RETRY_FIRST;
                    self.link.send_replace(Some(connection.clone()));
                    tracing::debug!(coordinator = peer.0, %addr, "connected");
                    let lost = connection.closed().await;
                    self.link.send_replace(None);
                    tracing::warn!(coordinator = peer.0, %addr, reason = %lost, "coordinator lost");
                }
                Err(e) => tracing::debug!(coordinator = peer.0, %addr, reason = %e, "coordinator not reached"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    fn let_go(&self) {
        if let Some(connection) = self.link.send_replace(None) {
            connection.close("not kept any more");
        }
    }
}

fn expect(peer: CoordinatorId) -> Expect {
    Expect::named(Role::Coordinator, certificate_name(peer))
}

/// The name in the certificate of the coordinator with that id: what ties an id to a key.
pub fn certificate_name(id: CoordinatorId) -> NodeId {
    NodeId::new(format!("coordinator-{id}")).expect("a label: letters, a hyphen and digits")
}
