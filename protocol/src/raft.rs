//! The envelope of Raft's messages between coordinators. The bodies are openraft's, encoded by the coordinator's
//! one codec file: this crate does not know them.

use rkyv::{Archive, Deserialize, Serialize};

use crate::ClusterId;
use crate::frame::message;

/// Which of Raft's calls a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum RaftCall {
    /// Replicate entries, or a heartbeat.
    AppendEntries,
    /// Ask for a vote.
    Vote,
    /// A piece of a snapshot.
    InstallSnapshot,
    /// A client's command, forwarded by a follower.
    Propose,
    /// A linearizable read's index, asked of the leader.
    ReadIndex,
    /// What the leader has heard of the workers, for the admin listings and metrics of a follower.
    Heard,
    /// Whether the caller may stand for election; changes nothing.
    MayStand,
    /// A change of the members, forwarded by a follower.
    ChangeMembers,
    /// Whether the one who is asked is new: without a log and a vote.
    Hello,
    /// Every coordinator is new: the caller founds the cluster.
    Found,
    /// What the cluster says of a coordinator: whether it is a member.
    Standing,
}

/// Coordinator to coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct RaftRequest {
    /// The cluster that the caller belongs to.
    pub cluster: ClusterId,
    /// Which call.
    pub call: RaftCall,
    /// Its argument.
    pub body: Vec<u8>,
}
message!(RaftRequest, RaftRequest);

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct RaftResponse {
    /// The call's result, error included.
    pub body: Vec<u8>,
}
message!(RaftResponse, RaftResponse);
