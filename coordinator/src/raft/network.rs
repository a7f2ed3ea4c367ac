//! openraft's calls to other members, over the kept connections.
//!
//! Not here: answering them (`server`). Invariant: a call that may not have been sent is told from one that was.

use std::sync::Arc;
use std::time::Duration;

use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use protocol::raft::{RaftCall, RaftRequest};
use protocol::{ClusterId, CoordinatorId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec;
use super::type_config::{Member, NodeId, TypeConfig};
use super::wires::{LinkError, Wires};

/// Pause of replication to a member that cannot be reached.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(100);

/// Makes the client of each member.
#[derive(Debug, Clone)]
pub(super) struct Network {
    pub(super) cluster: ClusterId,
    pub(super) wires: Arc<dyn Wires>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, _: &Member) -> Peer {
        Peer { cluster: self.cluster, wires: Arc::clone(&self.wires), target: CoordinatorId(target) }
    }
}

/// Calls to one member.
#[derive(Debug)]
pub(super) struct Peer {
    cluster: ClusterId,
    wires: Arc<dyn Wires>,
    target: CoordinatorId,
}

type Rpc<E> = RPCError<NodeId, Member, RaftError<NodeId, E>>;

impl Peer {
    async fn call<Req, Resp, E>(&self, call: RaftCall, request: &Req, option: &RPCOption) -> Result<Resp, Rpc<E>>
    where
        Req: Serialize,
        Resp: DeserializeOwned,
        E: std::error::Error + DeserializeOwned,
    {
        let request = RaftRequest { cluster: self.cluster, call, body: codec::encode(request) };
        let answer = self.wires.call(self.target, request, option.hard_ttl()).await;
        let body = answer.map_err(|e| match e {
            LinkError::Down { .. } => RPCError::Unreachable(Unreachable::new(&e)),
            LinkError::Call { .. } => RPCError::Network(NetworkError::new(&e)),
        })?;
        let answer: Result<Resp, RaftError<NodeId, E>> =
            codec::decode(&body.body).map_err(|e| RPCError::Network(NetworkError::new(&e)))?;
        answer.map_err(|e| RPCError::RemoteError(RemoteError::new(self.target.0, e)))
    }
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, Rpc<openraft::error::Infallible>> {
        self.call(RaftCall::AppendEntries, &rpc, &option).await
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<NodeId>, Rpc<InstallSnapshotError>> {
        self.call(RaftCall::InstallSnapshot, &rpc, &option).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, Rpc<openraft::error::Infallible>> {
        self.call(RaftCall::Vote, &rpc, &option).await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(UNREACHABLE_PAUSE))
    }
}
