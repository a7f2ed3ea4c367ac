//! What simulated processes say to each other.
//!
//! Not here: how it gets there (`net`).

use coordinator::raft::{AppliedState, ProposeError, ReadError};
use coordinator::state::{Applied, Command};
use node::agent::supervisor::RankKey;
use protocol::frame::Refusal;
use protocol::lease::{NodeOrders, NodeReport};
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
    /// To [`Request::Report`]: orders and their place in what this leader says, `None` where it does not lead.
    Orders(Option<(u64, Box<NodeOrders>)>),
    /// To [`Request::Orders`].
    Taken,
    /// To [`Request::Hello`].
    Hello(bool),
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
            Self::Orders(Some(_)) => "orders",
            Self::Orders(None) => "not leading",
            Self::Taken => "taken",
            Self::Hello(true) => "here",
            Self::Hello(false) => "not here",
        }
    }
}
