//! The types that openraft is instantiated with.
//!
//! Not here: behaviour. Nothing outside `raft` names an openraft type.

use std::io::Cursor;

use serde::{Deserialize, Serialize};

use crate::state::{Applied, Command, Refused};

openraft::declare_raft_types!(
    /// Ours.
    pub(super) TypeConfig:
        D = Command,
        R = Outcome,
        NodeId = u64,
        Node = Member,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = Runtime,
);

#[cfg(not(feature = "sim"))]
type Runtime = openraft::TokioRuntime;
#[cfg(feature = "sim")]
type Runtime = super::simulated::SeededRuntime;

/// What became of one log entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Outcome {
    /// An entry of Raft's own: nothing to say.
    Internal,
    /// A command.
    Command(Result<Applied, Refused>),
}

/// A coordinator's addresses as the membership has them, as text: ip:port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    /// QUIC.
    pub internal: String,
    /// HTTPS for admins.
    pub admin: String,
    /// HTTP for clients.
    pub public: String,
}

pub(super) type NodeId = u64;
pub(super) type Raft = openraft::Raft<TypeConfig>;
pub(super) type Entry = openraft::Entry<TypeConfig>;
pub(super) type LogId = openraft::LogId<NodeId>;
pub(super) type Vote = openraft::Vote<NodeId>;
pub(super) type StoredMembership = openraft::StoredMembership<NodeId, Member>;
pub(super) type StorageError = openraft::StorageError<NodeId>;
pub(super) type StorageIOError = openraft::StorageIOError<NodeId>;
