//! One kept connection to each other coordinator.
//!
//! Not here: what is sent over it. A call never connects: where the connection is down it fails at once, and the
//! keeper of that peer goes on trying. Invariant: at most one keeper a peer, ended by the token it was given.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use protocol::journal::{JournalRequest, JournalResponse};
use protocol::raft::{RaftRequest, RaftResponse};
use protocol::{CoordinatorId, Epoch, NodeId, Role};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
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
    peers: BTreeMap<CoordinatorId, watch::Receiver<Option<Connection>>>,
}

impl Links {
    /// Starts a keeper for every member but `own`.
    pub(super) fn start(
        own: CoordinatorId,
        members: &[MemberAddrs],
        endpoint: &Endpoint,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Self {
        let keeper = |member: &MemberAddrs| {
            let (tx, rx) = watch::channel(None);
            tasks.spawn(keep(endpoint.clone(), member.id, member.internal, tx, cancel.clone()));
            (member.id, rx)
        };
        Self { peers: members.iter().filter(|m| m.id != own).map(keeper).collect() }
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
        let connection = self.peers.get(&peer).and_then(|rx| rx.borrow().clone());
        let connection = connection.ok_or(LinkError::Down { peer })?;
        let answer = connection.call(Epoch(0), &request, deadline).await;
        answer.map_err(|source| LinkError::Call { peer, source })
    }

    async fn journal(
        &self,
        peer: CoordinatorId,
        request: &JournalRequest,
        deadline: Duration,
    ) -> Result<JournalResponse, LinkError> {
        let connection = self.peers.get(&peer).and_then(|rx| rx.borrow().clone());
        let connection = connection.ok_or(LinkError::Down { peer })?;
        let answer = connection.call(Epoch(0), request, deadline).await;
        answer.map_err(|source| LinkError::Call { peer, source })
    }

    fn up(&self) -> BTreeSet<CoordinatorId> {
        self.peers.iter().filter(|(_, rx)| rx.borrow().is_some()).map(|(id, _)| *id).collect()
    }

    async fn connected(&self, count: usize) {
        loop {
            if self.up().len() >= count {
                return;
            }
            let down = self.peers.values().filter(|rx| rx.borrow().is_none());
            let changes = down.map(|rx| {
                let mut rx = rx.clone();
                Box::pin(async move { rx.wait_for(Option::is_some).await.map(drop) })
            });
            // A keeper that ended is a coordinator that ends: nothing more will connect.
            if futures_util::future::select_all(changes).await.0.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

async fn keep(
    endpoint: Endpoint,
    peer: CoordinatorId,
    addr: SocketAddr,
    link: watch::Sender<Option<Connection>>,
    cancel: CancellationToken,
) {
    let mut pause = RETRY_FIRST;
    loop {
        let connecting = endpoint.connect(addr, expect(peer), CONNECT_TIMEOUT);
        let connected = tokio::select! {
            () = cancel.cancelled() => return,
            connected = connecting => connected,
        };
        match connected {
            Ok(connection) => {
                pause = RETRY_FIRST;
                link.send_replace(Some(connection.clone()));
                tracing::debug!(coordinator = peer.0, %addr, "connected");
                let lost = tokio::select! {
                    () = cancel.cancelled() => return,
                    lost = connection.closed() => lost,
                };
                link.send_replace(None);
                tracing::warn!(coordinator = peer.0, %addr, reason = %lost, "coordinator lost");
            }
            Err(e) => tracing::debug!(coordinator = peer.0, %addr, reason = %e, "coordinator not reached"),
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(RETRY_MAX);
    }
}

fn expect(peer: CoordinatorId) -> Expect {
    Expect::named(Role::Coordinator, certificate_name(peer))
}

/// The name in the certificate of the coordinator with that id: what ties an id to a key.
pub fn certificate_name(id: CoordinatorId) -> NodeId {
    NodeId::new(format!("coordinator-{id}")).expect("a label: letters, a hyphen and digits")
}
