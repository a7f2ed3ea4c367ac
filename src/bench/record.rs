//! What came of one request, as its client felt it.

use std::time::Duration;

use serde::Serialize;

use crate::openai::{CallError, Usage};

/// Requests whose figures are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Class {
    /// Where there is but one kind; in a report, all kinds together.
    All,
    /// Of the usual length, where there are long ones.
    Short,
    /// A long prompt.
    Long,
    /// The first turn of a conversation.
    FirstTurn,
    /// A turn with a history.
    LaterTurn,
}

impl Class {
    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Short => "short",
            Self::Long => "long",
            Self::FirstTurn => "first turn",
            Self::LaterTurn => "later turn",
        }
    }
}

/// How an exchange ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// With a finish reason.
    Done,
    /// The client hung up, as it was to.
    HungUp,
    /// The run was stopped.
    Interrupted,
    /// It was never sent: too many were in flight.
    Dropped,
    /// It took longer than a request may.
    TimedOut,
    /// No answer, or not all of it.
    Failed(CallError),
}

/// What one client felt. Times count from when the request was due.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) class: Class,
    pub(super) end: End,
    /// Until it was sent: the client's own delay.
    pub(super) late: Duration,
    /// Until the answer's head came.
    pub(super) head: Option<Duration>,
    /// Until the first token came.
    pub(super) first_token: Option<Duration>,
    /// Between one arrival of tokens and the next, µs.
    pub(super) gaps_us: Vec<u32>,
    /// Until it was over.
    pub(super) e2e: Duration,
    /// Tokens of the answer that came.
    pub(super) tokens: u32,
    pub(super) usage: Option<Usage>,
    pub(super) fingerprint: Option<String>,
}

impl Record {
    pub(super) fn new(class: Class, end: End) -> Self {
        Self {
            class,
            end,
            late: Duration::ZERO,
            head: None,
            first_token: None,
            gaps_us: Vec::new(),
            e2e: Duration::ZERO,
            tokens: 0,
            usage: None,
            fingerprint: None,
        }
    }
}

impl Record {
    /// Tokens of the answer, by the server's count where it gave one: what came may have been counted by events.
    pub(super) fn output_tokens(&self) -> u32 {
        self.usage.map_or(self.tokens, |u| u.completion_tokens)
    }
}
