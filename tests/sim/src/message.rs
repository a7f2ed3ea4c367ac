//! What simulated processes say to each other.
//!
//! Not here: how it gets there (`net`).

use coordinator::raft::{AppliedState, ProposeError, ReadError};
use coordinator::state::{Applied, Command};
use node::agent::supervisor::RankKey;
use protocol::frame::Refusal;
use protocol::generate::{GenerateEvent, GenerateRequest};
use protocol::lease::{LeaderNamed, NodeOrders, NodeReport};
use protocol::raft::{RaftCall, RaftRequest, RaftResponse};

/// A call.
#[derive(Debug, Clone)]
pub enum Request {
    /// Between coordinators.
    Raft(RaftRequest),
    /// An admin's write.
    Write(Box<Command>),
    /// An admin's linearizable read.
    Read,
    /// A node's report.
    Report {
        /// A later one has a higher number.
        session: u64,
        /// What it says.
        report: Box<NodeReport>,
    },
    /// A leader's orders, unasked.
    Orders {
        /// Their place in what this leader says to anybody.
        seq: u64,
        /// Them.
        orders: Box<NodeOrders>,
    },
    /// A rank of a group asks a peer whether it is there.
    Hello(RankKey),
    /// A gateway's request to a rank 0.
    Generate {
        /// Which rank 0.
        key: RankKey,
        /// What.
        request: Box<GenerateRequest>,
    },
    /// What comes of a stream after its first `after` events; answered when there is something.
    Next {
        /// Whose stream.
        key: RankKey,
        /// Which.
        stream: u64,
        /// How many events have come.
        after: usize,
    },
    /// No more of one choice.
    EndChoice {
        /// Whose stream.
        key: RankKey,
        /// Which.
        stream: u64,
        /// The choice.
        choice: u16,
    },
    /// No more of a stream.
    Cancel {
        /// Whose stream.
        key: RankKey,
        /// Which.
        stream: u64,
    },
}

/// Its answer.
#[derive(Debug, Clone)]
pub enum Answer {
    /// To [`Request::Raft`].
    Raft(Result<RaftResponse, Refusal>),
    /// To [`Request::Write`].
    Written(Result<Applied, ProposeError>),
    /// To [`Request::Read`].
    State(Result<AppliedState, ReadError>),
    /// To [`Request::Report`]: orders and their place in what this leader says.
    Orders(Result<(u64, Box<NodeOrders>), NotLeading>),
    /// To [`Request::Orders`].
    Taken,
    /// To [`Request::Hello`].
    Hello(bool),
    /// To [`Request::Generate`]: the number of its stream, or why it is not taken.
    Begun(Result<u64, String>),
    /// To [`Request::Next`]; `None` where there is no such stream.
    Events(Option<Vec<GenerateEvent>>),
}

/// A coordinator that a node asks for its lease does not lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotLeading {
    /// Whom it names instead.
    pub leader: Option<LeaderNamed>,
}

impl Request {
    /// Its name in traces.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Raft(r) => match r.call {
                RaftCall::AppendEntries => "append",
                RaftCall::Vote => "vote",
                RaftCall::InstallSnapshot => "snapshot",
                RaftCall::MayStand => "may I stand",
                _ => "forward",
            },
            Self::Write(_) => "write",
            Self::Read => "read",
            Self::Report { .. } => "report",
            Self::Orders { .. } => "push",
            Self::Hello(_) => "hello",
            Self::Generate { .. } => "generate",
            Self::Next { .. } => "next",
            Self::EndChoice { .. } => "end choice",
            Self::Cancel { .. } => "cancel",
        }
    }
}

impl Answer {
    /// Its name in traces.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Raft(Ok(_)) => "answer",
            Self::Raft(Err(_)) => "refusal",
            Self::Written(Ok(_)) => "written",
            Self::Written(Err(_)) => "not written",
            Self::State(Ok(_)) => "state",
            Self::State(Err(_)) => "no state",
            Self::Orders(Ok(_)) => "orders",
            Self::Orders(Err(_)) => "not leading",
            Self::Taken => "taken",
            Self::Hello(true) => "here",
            Self::Hello(false) => "not here",
            Self::Begun(Ok(_)) => "begun",
            Self::Begun(Err(_)) => "not begun",
            Self::Events(Some(_)) => "events",
            Self::Events(None) => "no stream",
        }
    }
}
