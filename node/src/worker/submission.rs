//! How a request reaches the step loop and its tokens come back: one bounded channel each way.
//!
//! Not here: streams and frames.
//! Invariants: the step loop never waits for a reader, because a request's channel holds as many replies as the
//! request can ever produce (a token is a few dozen bytes); what a reader has to say to a request that runs is a flag,
//! never a message (a dropped receiver *is* the cancellation, [`EndedChoices`] the rest), so nothing can be lost on the
//! way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use protocol::frame::Refusal;
use protocol::generate::{CHOICES_MAX, FinishReason, GenerateRequest, TokenLogprobs, TokenOutput};
use tokio::sync::mpsc;

use super::levels::Levels;
use crate::engine::NewPicture;
use crate::grammar::Constraint;

/// Requests on their way to the step loop; it takes all of them between two steps. Above what the engine lets wait by
/// default, so that a burst is refused by the engine when that is full, and not by this hand-over while it is not.
pub(super) const SUBMISSIONS_MAX: usize = 1024;

/// What the step loop has to say to one request.
#[derive(Debug, PartialEq)]
pub(super) enum Reply {
    /// It has entered its first step.
    Started {
        /// Prompt tokens that were in the prefix cache.
        cached_tokens: u32,
    },
    /// Logprobs of the next prompt tokens.
    Prompt(Vec<TokenLogprobs>),
    /// The next token of a choice.
    Token { choice: u16, token: TokenOutput },
    /// A choice ended by itself; the last one's ends the request.
    Finished { choice: u16, reason: FinishReason },
    /// The request cannot go on here, nor any of its choices.
    Failed {
        reason: String,
        /// Whether another replica, or this one formed anew, could go on with it.
        retryable: bool,
    },
    /// It was never begun.
    Refused(Refusal),
}

/// The choices of a request that nobody wants any more, as flags that the reader sets and the step loop sees before its
/// next step.
#[derive(Debug, Default)]
pub(super) struct EndedChoices([AtomicU64; CHOICES_MAX.div_ceil(64)]);

impl EndedChoices {
    /// This choice is not wanted any more. One that cannot exist never is.
    pub(super) fn end(&self, choice: u16) {
        if let Some(flags) = self.0.get(usize::from(choice / 64)) {
            flags.fetch_or(1 << (choice % 64), Ordering::Release);
        }
    }

    /// Whether [`Self::end`] was called for it.
    pub(super) fn contains(&self, choice: u16) -> bool {
        let flags = self.0.get(usize::from(choice / 64));
        flags.is_some_and(|flags| flags.load(Ordering::Acquire) >> (choice % 64) & 1 == 1)
    }
}

/// A request and where its replies go.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) request: GenerateRequest,
    /// The pictures of its prompt, in order.
    pub(super) pictures: Vec<NewPicture<Levels>>,
    /// One a choice where the request has a grammar, each past its choice's resumed tokens; else none.
    pub(super) constraints: Vec<Constraint>,
    pub(super) replies: mpsc::Sender<Reply>,
    pub(super) ended: Arc<EndedChoices>,
}

impl Submission {
    /// A submission whose channel has room for all that an engine of `context_tokens` can reply to it.
    pub(super) fn new(
        request: GenerateRequest,
        pictures: Vec<NewPicture<Levels>>,
        constraints: Vec<Constraint>,
        context_tokens: u32,
    ) -> (Self, mpsc::Receiver<Reply>) {
        // A choice has its tokens and its end; the request has its start, at most one reply a prompt token, and its end.
        let of_choice = request.sampling.max_tokens.min(context_tokens) as usize + 1;
        let replies_max = request.choices.len() * of_choice + request.prompt_ids.len() + 2;
        let (replies, receiver) = mpsc::channel(replies_max);
        (Self { request, pictures, constraints, replies, ended: Arc::default() }, receiver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_choice_has_a_flag_of_its_own() {
        let ended = EndedChoices::default();
        [0, 63, 64, 127].iter().for_each(|choice| ended.end(*choice));
        let set: Vec<u16> = (0..200).filter(|choice| ended.contains(*choice)).collect();
        assert_eq!(set, [0, 63, 64, 127]);
        ended.end(u16::MAX);
        assert!(!ended.contains(u16::MAX), "there is no such choice");
    }
}
