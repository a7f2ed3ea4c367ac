//! What Raft asks of the network between coordinators.
//!
//! Not here: QUIC (`links`). Invariant: a call that was never sent is told from one that may have been acted on.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use protocol::CoordinatorId;
use protocol::journal::{JournalRequest, JournalResponse};
use protocol::raft::{RaftRequest, RaftResponse};
use transport::CallError;

use crate::config::MemberAddrs;

/// Why a call to another coordinator has no answer.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nothing was sent.
    #[error("coordinator {peer} cannot be reached")]
    Down {
        /// Which.
        peer: CoordinatorId,
    },
    /// Sent perhaps, and perhaps acted on.
    #[error("coordinator {peer}: {source}")]
    Call {
        /// Which.
        peer: CoordinatorId,
        /// What happened.
        source: CallError,
    },
}

/// The ways from one coordinator to all others: kept QUIC connections, or a simulated network.
#[async_trait]
pub trait Wires: Debug + Send + Sync + 'static {
    /// One call and its answer.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn call(
        &self,
        peer: CoordinatorId,
        request: RaftRequest,
        deadline: Duration,
    ) -> Result<RaftResponse, LinkError>;

    /// One call of the journal. Wires that have no way for it answer as if the peer was down.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn journal(
        &self,
        peer: CoordinatorId,
        _request: &JournalRequest,
        _deadline: Duration,
    ) -> Result<JournalResponse, LinkError> {
        Err(LinkError::Down { peer })
    }

    /// Keeps ways to these coordinators from now on, and to no others. Wires that reach everybody need not.
    fn follow(&self, _members: &[MemberAddrs]) {}

    /// The peers that are connected now.
    fn up(&self) -> BTreeSet<CoordinatorId>;
}
