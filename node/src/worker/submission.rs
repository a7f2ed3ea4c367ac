//! How a request reaches the step loop and its tokens come back: one bounded channel each way.
//!
//! Not here: streams and frames.
//! Invariants: the step loop never waits for a reader, because a request's channel holds as many replies as the
//! request can ever produce (a token is a few dozen bytes); a dropped receiver *is* the cancellation, so none can be
//! lost on the way.

use protocol::frame::Refusal;
use protocol::generate::{FinishReason, GenerateRequest, TokenOutput};
use tokio::sync::mpsc;

/// Requests on their way to the step loop; it takes all of them between two steps. Above what the engine lets wait by
/// default, so that a burst is refused by the engine when that is full, and not by this hand-over while it is not.
pub(super) const SUBMISSIONS_MAX: usize = 1024;

/// What the step loop has to say to one request. All but `Token` end it.
#[derive(Debug, PartialEq)]
pub(super) enum Reply {
    /// The next token.
    Token(TokenOutput),
    /// The sequence ended by itself.
    Finished(FinishReason),
    /// It cannot go on here.
    Failed {
        reason: String,
        /// Whether another replica, or this one formed anew, could go on with it.
        retryable: bool,
    },
    /// It was never begun.
    Refused(Refusal),
}

/// A request and where its replies go.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) request: GenerateRequest,
    pub(super) replies: mpsc::Sender<Reply>,
}

impl Submission {
    /// A submission whose channel has room for all that an engine of `context_tokens` can reply to it.
    pub(super) fn new(request: GenerateRequest, context_tokens: u32) -> (Self, mpsc::Receiver<Reply>) {
        // One more for the end.
        let replies_max = request.sampling.max_tokens.min(context_tokens) as usize + 1;
        let (replies, receiver) = mpsc::channel(replies_max);
        (Self { request, replies }, receiver)
    }
}
