//! The coordinators' wires, over the simulated network.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use coordinator::raft::{LinkError, Wires};
use protocol::CoordinatorId;
use protocol::raft::{RaftRequest, RaftResponse};
use transport::CallError;

use crate::host::HostId;
use crate::message::{Answer, Request};
use crate::net::{CallFailed, Net};

/// The ways from one coordinator to all others.
#[derive(Debug, Clone)]
pub struct SimWires {
    /// Whose.
    pub own: CoordinatorId,
    /// Every coordinator.
    pub members: Vec<CoordinatorId>,
    /// The network.
    pub net: Net,
}

#[async_trait]
impl Wires for SimWires {
    async fn call(
        &self,
        peer: CoordinatorId,
        request: RaftRequest,
        deadline: Duration,
    ) -> Result<RaftResponse, LinkError> {
        let (from, to) = (HostId::Coordinator(self.own.0), HostId::Coordinator(peer.0));
        match self.net.call(from, to, Request::Raft(request), deadline).await {
            Ok(Answer::Raft(Ok(response))) => Ok(response),
            Ok(Answer::Raft(Err(refusal))) => Err(LinkError::Call { peer, source: CallError::Refused(refusal) }),
            Ok(_) | Err(CallFailed::Deadline) => {
                Err(LinkError::Call { peer, source: CallError::Deadline { waited: deadline } })
            }
            Err(CallFailed::Down) => Err(LinkError::Down { peer }),
        }
    }

    fn up(&self) -> BTreeSet<CoordinatorId> {
        let hosts = self.members.iter().map(|m| HostId::Coordinator(m.0));
        let connected = self.net.connected(HostId::Coordinator(self.own.0), hosts);
        self.members.iter().copied().filter(|m| connected.contains(&HostId::Coordinator(m.0))).collect()
    }
}
