//! The other coordinators, as far as the journal needs them.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use protocol::CoordinatorId;
use protocol::journal::{JournalRequest, JournalResponse};

use crate::raft::Consensus;

/// A coordinator that did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("coordinator {peer} did not answer")]
pub struct PeerSilent {
    /// Which.
    pub peer: CoordinatorId,
}

/// The others.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Those that seem to be there.
    fn up(&self) -> BTreeSet<CoordinatorId>;

    /// Asks one of them.
    ///
    /// # Errors
    /// [`PeerSilent`]; it may have acted all the same.
    async fn ask(
        &self,
        peer: CoordinatorId,
        request: &JournalRequest,
        timeout: Duration,
    ) -> Result<JournalResponse, PeerSilent>;
}

/// The links that Raft keeps.
#[async_trait]
impl Peers for Consensus {
    fn up(&self) -> BTreeSet<CoordinatorId> {
        self.reached()
    }

    async fn ask(
        &self,
        peer: CoordinatorId,
        request: &JournalRequest,
        timeout: Duration,
    ) -> Result<JournalResponse, PeerSilent> {
        self.ask_journal(peer, request, timeout).await.map_err(|error| {
            tracing::debug!(coordinator = peer.0, %error, "no answer about the journal");
            PeerSilent { peer }
        })
    }
}
