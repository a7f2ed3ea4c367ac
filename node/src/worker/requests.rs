//! The requests that the scheduler works on, as their clients see them: who hears of a sequence's tokens, who is gone, and
//! what all of it took.
//!
//! ```text
//!  request ─┬─ choice 0 = sequence 17 ── sampler     replies of all choices go to the request's one channel
//!           └─ choice 3 = sequence 18 ── sampler
//! ```
//! Not here: when a sequence runs or ends (the scheduler). Invariant: a request is here as long as one of its choices is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use protocol::generate::{FinishReason, TokenOutput};
use protocol::stats::EngineStats;
use protocol::{RequestId, SeqId};
use tokio::sync::mpsc;

use super::submission::{EndedChoices, Reply};
use crate::sampler::Sampler;

/// A request's number here; the client's id is the client's and may come twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key(u64);

/// A prompt whose tokens' logprobs are wanted.
#[derive(Debug)]
pub(super) struct Scored {
    pub(super) ids: Vec<u32>,
    /// Alternatives a token.
    pub(super) top: u8,
}

/// A request with a choice in the scheduler.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) request_id: RequestId,
    pub(super) replies: mpsc::Sender<Reply>,
    pub(super) ended: Arc<EndedChoices>,
    pub(super) prompt_tokens: usize,
    pub(super) arrived: Instant,
    pub(super) scored: Option<Scored>,
    /// Whether it has been told that it entered a step.
    started: bool,
    /// Whether any choice has got a token.
    answered: bool,
    /// Choices in the scheduler.
    open: usize,
}

impl Request {
    pub(super) fn new(
        request_id: RequestId,
        (replies, ended): (mpsc::Sender<Reply>, Arc<EndedChoices>),
        prompt_tokens: usize,
        arrived: Instant,
    ) -> Self {
        let (scored, started, answered, open) = (None, false, false, 0);
        Self { request_id, replies, ended, prompt_tokens, arrived, scored, started, answered, open }
    }

    /// Never full: the channel has room for all replies (`Submission::new`). Closed: the next pass forgets it.
    pub(super) fn reply(&self, reply: Reply) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.replies.try_send(reply) {
            tracing::error!(request_id = %self.request_id, "a reply channel is full");
        }
    }
}

/// One choice of a request, in the scheduler as one sequence.
struct Choice {
    key: Key,
    index: u16,
    sampler: Sampler,
    last_token: Option<Instant>,
}

/// All requests that the scheduler works on.
#[derive(Default)]
pub(super) struct Requests {
    requests: BTreeMap<Key, Request>,
    choices: BTreeMap<SeqId, Choice>,
    last_key: u64,
    stats: EngineStats,
}

impl Requests {
    /// Takes a request in whose choices are in the scheduler: each one's sequence, index and sampler. One without any has
    /// heard all there is.
    pub(super) fn insert(&mut self, mut request: Request, choices: Vec<(SeqId, u16, Sampler)>) {
        if choices.is_empty() {
            return;
        }
        self.last_key += 1;
        let key = Key(self.last_key);
        request.open = choices.len();
        let choice = |(seq, index, sampler)| (seq, Choice { key, index, sampler, last_token: None });
        self.choices.extend(choices.into_iter().map(choice));
        self.requests.insert(key, request);
    }

    /// Forgets the choices that nobody wants any more; their sequences.
    pub(super) fn take_abandoned(&mut self) -> Vec<SeqId> {
        let mut abandoned = Vec::new();
        for (seq, choice) in &self.choices {
            let request = &self.requests[&choice.key];
            let gone = request.replies.is_closed();
            if gone || request.ended.contains(choice.index) {
                // The gateway ends a choice where it finds a stop string.
                let counter = if gone { &mut self.stats.finished_abort } else { &mut self.stats.finished_stop };
                *counter += 1;
                abandoned.push(*seq);
            }
        }
        for seq in &abandoned {
            if let Some((request, _)) = self.remove(*seq) {
                tracing::debug!(request_id = %request, seq = seq.0, "choice cancelled");
            }
        }
        abandoned
    }

    /// Counts choices that left before they were here.
    pub(super) fn count_abandoned(&mut self, choices: usize) {
        self.stats.finished_abort += choices as u64;
    }

    /// The sampler of a choice that is still wanted.
    pub(super) fn sampler(&mut self, seq: SeqId) -> Option<&mut Sampler> {
        self.choices.get_mut(&seq).map(|choice| &mut choice.sampler)
    }

    /// The request of a choice, and its prompt where that is to be scored.
    pub(super) fn scored(&self, seq: SeqId) -> Option<(&Request, &Scored)> {
        let request = self.requests.get(&self.choices.get(&seq)?.key)?;
        Some((request, request.scored.as_ref()?))
    }

    /// Its sequence enters its first step.
    pub(super) fn start(&mut self, seq: SeqId, cached_tokens: u32, now: Instant) {
        let Some(request) = self.choices.get(&seq).and_then(|c| self.requests.get_mut(&c.key)) else { return };
        if !std::mem::replace(&mut request.started, true) {
            self.stats.prompt_tokens += request.prompt_tokens as u64;
            self.stats.queue.record(now - request.arrived);
            request.reply(Reply::Started { cached_tokens });
        }
    }

    /// A choice got a token.
    pub(super) fn token(&mut self, seq: SeqId, token: TokenOutput, now: Instant) {
        let Some(choice) = self.choices.get_mut(&seq) else { return };
        let Some(request) = self.requests.get_mut(&choice.key) else { return };
        self.stats.generation_tokens += 1;
        if !std::mem::replace(&mut request.answered, true) {
            self.stats.time_to_first_token.record(now - request.arrived);
        }
        if let Some(last) = choice.last_token.replace(now) {
            self.stats.inter_token.record(now - last);
        }
        request.reply(Reply::Token { choice: choice.index, token });
    }

    /// A choice ended by itself.
    pub(super) fn finish(&mut self, seq: SeqId, reason: FinishReason, now: Instant) {
        let Some(choice) = self.choices.get(&seq) else { return };
        let request = &self.requests[&choice.key];
        match reason {
            FinishReason::Stop => self.stats.finished_stop += 1,
            FinishReason::Length => self.stats.finished_length += 1,
        }
        self.stats.e2e.record(now - request.arrived);
        request.reply(Reply::Finished { choice: choice.index, reason });
        self.remove(seq);
    }

    /// The request of a choice cannot go on: tells it so and forgets it; the sequences of all its choices.
    pub(super) fn fail(&mut self, seq: SeqId, reason: String) -> Vec<SeqId> {
        let Some(key) = self.choices.get(&seq).map(|c| c.key) else { return Vec::new() };
        if let Some(request) = self.requests.get(&key) {
            tracing::error!(request_id = %request.request_id, error = reason, "a request cannot go on");
            request.reply(Reply::Failed { reason, retryable: false });
        }
        let of_request: Vec<SeqId> = self.choices.iter().filter(|(_, c)| c.key == key).map(|(seq, _)| *seq).collect();
        self.stats.finished_error += of_request.len() as u64;
        for seq in &of_request {
            self.remove(*seq);
        }
        of_request
    }

    /// Tells every request that it may be resumed elsewhere.
    pub(super) fn fail_all(&self, reason: &str) {
        for request in self.requests.values() {
            request.reply(Reply::Failed { reason: reason.to_owned(), retryable: true });
        }
    }

    /// What has been counted so far; what the scheduler counts is not in it.
    pub(super) fn stats(&self) -> &EngineStats {
        &self.stats
    }

    fn remove(&mut self, seq: SeqId) -> Option<(RequestId, u16)> {
        let choice = self.choices.remove(&seq)?;
        let request = self.requests.get_mut(&choice.key)?;
        let request_id = request.request_id;
        request.open -= 1;
        if request.open == 0 {
            self.requests.remove(&choice.key);
        }
        Some((request_id, choice.index))
    }
}
