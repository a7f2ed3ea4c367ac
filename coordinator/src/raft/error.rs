//! Why a command was not agreed on, or a read not answered. What the caller can do is in each variant's words.

use protocol::CoordinatorId;
use serde::{Deserialize, Serialize};

use crate::state::Refused;

/// Why a command has no effect that is known of. All but [`Self::Unknown`] are certain that it never will have one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ProposeError {
    /// Agreed on, and refused by the state: nothing changed.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Not proposed: this coordinator does not lead.
    #[error("this coordinator does not lead; the leader is {leader:?}")]
    NotLeader {
        /// Who does, where that is known.
        leader: Option<CoordinatorId>,
    },
    /// Not proposed: nobody leads, so there is no majority to agree.
    #[error("no leader within {waited_ms} ms: a majority of the coordinators is needed for changes")]
    NoLeader {
        /// How long was waited, ms.
        waited_ms: u64,
    },
    /// Not proposed: the leader does not answer, or no majority confirms it.
    #[error("coordinator {leader} leads, but reached no majority within {waited_ms} ms")]
    NoQuorum {
        /// Who leads, as far as is known.
        leader: CoordinatorId,
        /// How long was waited, ms.
        waited_ms: u64,
    },
    /// Proposed, but not known to be agreed on: look at the state before trying again.
    #[error("not agreed on within {waited_ms} ms; it may still be")]
    Unknown {
        /// How long was waited, ms.
        waited_ms: u64,
    },
    /// Not proposed: this coordinator's Raft has stopped.
    #[error("this coordinator's raft has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// Why a read cannot be linearizable now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ReadError {
    /// This coordinator does not lead.
    #[error("this coordinator does not lead; the leader is {leader:?}")]
    NotLeader {
        /// Who does, where that is known.
        leader: Option<CoordinatorId>,
    },
    /// No leader, no majority, or too slow.
    #[error("no majority confirmed the state within {waited_ms} ms")]
    NoQuorum {
        /// How long was waited, ms.
        waited_ms: u64,
    },
    /// This coordinator's Raft has stopped.
    #[error("this coordinator's raft has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}
