//! Replicas that all compute the same answers, and break where a test wants them to.
//!
//! Invariant: what a replica is given as already answered must be how the answer begins; anything else panics.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use coordinator::gateway::dispatch::DispatchError;
use protocol::generate::{Choice, FinishReason, GenerateEvent, GenerateRequest, TokenLogprobs, TokenOutput};

use crate::scripted::{Script, Scripted, Seen, Step, started};

/// One whole answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) tokens: Vec<u32>,
    pub(crate) end: FinishReason,
}

/// How a replica is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Its stream breaks.
    Broken,
    /// It says so.
    Told,
}

impl Loss {
    pub(crate) fn step(self) -> Step {
        let reason = "rank 1 is gone".to_owned();
        match self {
            Self::Broken => Step::Break(DispatchError::Lost { reason }),
            Self::Told => Step::Event(GenerateEvent::Failed { reason, retryable: true }),
        }
    }
}

/// What every replica would answer, and when the next ones break.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// By prompt: one a choice.
    pub(crate) answers: BTreeMap<Vec<u32>, Vec<Answer>>,
    /// How many tokens come in an event, in turn; one each where it is empty.
    pub(crate) chunks: Vec<usize>,
    /// For each of the next requests, after how many events with tokens or ends its replica is lost.
    pub(crate) losses: VecDeque<(usize, Loss)>,
    /// Choices as they were asked for, in order.
    pub(crate) asked: Vec<Vec<Choice>>,
}

/// A model that a test changes between requests.
pub(crate) type Shared = Arc<Mutex<Model>>;

impl Model {
    /// Replicas of it.
    pub(crate) fn replicas(self) -> (Shared, (Arc<Scripted>, Seen)) {
        let model = Arc::new(Mutex::new(self));
        let played = model.clone();
        (model, Scripted::by(move |request| played.lock().unwrap().script(request)))
    }

    fn script(&mut self, request: &GenerateRequest) -> Script {
        self.asked.push(request.choices.clone());
        let fresh = request.choices.iter().all(|c| c.resume.is_empty());
        // A replica that goes on finds the answer in its cache too.
        let mut steps = vec![started(if fresh { 1 } else { 99 })];
        if let Some(top) = request.sampling.prompt_logprobs {
            assert!(fresh, "prompt logprobs are asked for once");
            let scored = request.prompt_ids[1..].iter().map(|id| logprobs(*id, top));
            steps.push(Step::Event(GenerateEvent::Prompt(scored.collect())));
        }
        let mut answered = self.rest(request);
        if let Some((after, loss)) = self.losses.pop_front() {
            answered.truncate(after);
            answered.push(loss.step());
        }
        steps.extend(answered);
        Ok(steps)
    }

    /// Events for what is left of each choice, choice by choice in turn.
    fn rest(&self, request: &GenerateRequest) -> Vec<Step> {
        let answers = &self.answers[&request.prompt_ids];
        let mut left: Vec<(u16, FinishReason, VecDeque<TokenOutput>)> = Vec::new();
        for Choice { index, resume } in &request.choices {
            let Answer { tokens, end } = &answers[usize::from(*index)];
            let rest = tokens.strip_prefix(resume.as_slice()).expect("what was answered begins the answer");
            let at = resume.len();
            let token = |(i, id): (usize, &u32)| TokenOutput {
                id: *id,
                // Of a position, so that none is told for another.
                logprobs: request.sampling.logprobs.map(|top| logprobs(*id + 1000 * (at + i) as u32, top)),
            };
            left.push((*index, *end, rest.iter().enumerate().map(token).collect()));
        }
        let mut chunks = self.chunks.iter().copied().cycle();
        let mut events = Vec::new();
        while !left.is_empty() {
            left.retain_mut(|(choice, reason, rest)| {
                let n = chunks.next().unwrap_or(1).min(rest.len());
                let tokens: Vec<TokenOutput> = rest.drain(..n).collect();
                if !tokens.is_empty() {
                    events.push(Step::Event(GenerateEvent::Tokens { choice: *choice, tokens }));
                }
                if rest.is_empty() {
                    events.push(Step::Event(GenerateEvent::Finished { choice: *choice, reason: *reason }));
                }
                !rest.is_empty()
            });
        }
        events
    }
}

fn logprobs(of: u32, top: u8) -> TokenLogprobs {
    let chosen = -(of as f32) / 64.0;
    TokenLogprobs { chosen, top: (0..u32::from(top)).map(|i| (97 + i, chosen - i as f32)).collect() }
}
