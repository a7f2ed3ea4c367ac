//! Rank 0 of a serving replica: the real scheduler over a model that is a function, and the streams that it answers.
//!
//! The model's next token depends on every token before it and on nothing else, so a token that was lost, doubled or put
//! elsewhere changes all that come after. Not here: when a step is taken (`worker`). Invariant: what a stream is told is told
//! in order and once, however often it is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use node::engine::{Admission, Draft, EngineLimits, NewRequest, Scheduler};
use protocol::SeqId;
use protocol::generate::{FinishReason, GenerateEvent, GenerateRequest, TokenOutput};
use protocol::lease::RankOrder;
use tokio::time::Instant;

use crate::message::Answer;
use crate::net::Reply;

/// A stream that nobody asks for is cancelled: its gateway is gone.
const UNASKED_MAX: Duration = Duration::from_secs(5);
/// Sequences that may wait.
const WAITING_MAX: u32 = 8;
/// The model's tokens: none of them ends an answer.
const TOKENS: std::ops::Range<u32> = 100..1_000;

/// The token after `context` in choice number `choice`.
#[must_use]
pub fn model(context: &[u32], choice: u16) -> u32 {
    // FNV-1a over whole tokens.
    let digest = context.iter().fold(0xcbf2_9ce4_8422_2325_u64 ^ u64::from(choice), |h, token| {
        (h ^ u64::from(*token)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17)
    });
    TOKENS.start + (digest >> 20) as u32 % (TOKENS.end - TOKENS.start)
}

/// One request at this replica.
#[derive(Debug)]
struct Stream {
    prompt: Vec<u32>,
    /// By index, what was produced, resumed tokens included.
    outputs: BTreeMap<u16, Vec<u32>>,
    running: BTreeSet<SeqId>,
    /// All that it was told or is to be told.
    events: Vec<GenerateEvent>,
    /// Who waits for what comes after so many events.
    waiting: Option<(usize, Reply)>,
    asked_at: Instant,
}

/// The engine.
#[derive(Debug)]
pub(crate) struct Engine {
    scheduler: Scheduler,
    streams: BTreeMap<u64, Stream>,
    owners: BTreeMap<SeqId, (u64, u16)>,
    num_streams: u64,
    /// It admits nothing new.
    draining: bool,
}

impl Engine {
    /// The engine of a rank 0 that was ordered so.
    pub(crate) fn new(order: &RankOrder) -> Result<Self, String> {
        let (spec, plan) = (&order.deployment, &order.plan);
        let limits =
            EngineLimits::new(spec.step_tokens, spec.max_seqs, WAITING_MAX, plan.context_tokens, plan.kv_tokens);
        let scheduler = Scheduler::new(limits.map_err(|e| e.to_string())?, &spec.model.digest);
        let (streams, owners) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { scheduler, streams, owners, num_streams: 0, draining: false })
    }

    /// KV blocks that somebody holds.
    pub(crate) fn blocks_used(&self) -> usize {
        self.scheduler.pool().used()
    }

    /// Whether it has nothing to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.scheduler.is_idle() && self.streams.is_empty()
    }

    pub(crate) fn drain(&mut self) {
        self.draining = true;
    }

    /// Takes a request; the number of its stream.
    pub(crate) fn begin(&mut self, request: &GenerateRequest) -> Result<u64, String> {
        if self.draining {
            return Err("it drains".to_owned());
        }
        let new = NewRequest {
            choices: request.choices.iter().map(|c| c.resume.clone()).collect(),
            min_tokens: request.sampling.min_tokens,
            stop_ids: request.sampling.stop_token_ids.clone(),
            priority: request.priority,
            ..NewRequest::new(request.prompt_ids.clone(), request.sampling.max_tokens)
        };
        let admissions = self.scheduler.add(&new).map_err(|e| e.to_string())?;
        self.num_streams += 1;
        let id = self.num_streams;
        let outputs = request.choices.iter().map(|c| (c.index, c.resume.clone())).collect();
        let (prompt, events, running) = (request.prompt_ids.clone(), Vec::new(), BTreeSet::new());
        let mut stream = Stream { prompt, outputs, running, events, waiting: None, asked_at: Instant::now() };
        for (choice, admission) in request.choices.iter().zip(admissions) {
            match admission {
                Admission::Queued(seq) => {
                    self.owners.insert(seq, (id, choice.index));
                    stream.running.insert(seq);
                }
                Admission::Finished(reason) => {
                    stream.events.push(GenerateEvent::Finished { choice: choice.index, reason });
                }
            }
        }
        self.streams.insert(id, stream);
        Ok(id)
    }

    /// Answers, now or when there is something, with what stream `id` is told after its first `after` events.
    pub(crate) fn ask(&mut self, id: u64, after: usize, reply: Reply) {
        let Some(stream) = self.streams.get_mut(&id) else { return reply.send(Answer::Events(None)) };
        stream.asked_at = Instant::now();
        stream.waiting = Some((after, reply));
        stream.tell();
    }

    /// Computes no more of one choice.
    pub(crate) fn end_choice(&mut self, id: u64, choice: u16) {
        let seq = self.owners.iter().find(|(_, owner)| **owner == (id, choice)).map(|(seq, _)| *seq);
        if let Some(seq) = seq {
            self.forget(seq);
        }
    }

    fn forget(&mut self, seq: SeqId) {
        self.scheduler.cancel(seq);
        if let Some((id, _)) = self.owners.remove(&seq)
            && let Some(stream) = self.streams.get_mut(&id)
        {
            stream.running.remove(&seq);
        }
    }

    /// Computes no more of a stream.
    pub(crate) fn cancel(&mut self, id: u64) {
        if let Some(stream) = self.streams.remove(&id) {
            for seq in stream.running {
                self.scheduler.cancel(seq);
                self.owners.remove(&seq);
            }
        }
    }

    /// One forward pass, and all that follows from it.
    pub(crate) fn step(&mut self) {
        let gone: Vec<_> =
            self.streams.iter().filter(|(_, s)| s.asked_at.elapsed() > UNASKED_MAX).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|id| self.cancel(id));
        let Some(step) = self.scheduler.schedule(Draft::default()) else { return };
        for started in &step.started {
            if let Some((stream, _)) =
                self.owners.get(&started.seq).and_then(|(id, c)| Some((self.streams.get_mut(id)?, c)))
            {
                stream.events.push(GenerateEvent::Started { cached_tokens: started.cached_tokens });
            }
        }
        let mut sampled = Vec::new();
        for sample in &step.samples {
            let Some((id, choice)) = self.owners.get(&sample.seq) else { continue };
            let stream = self.streams.get_mut(id).expect("a sequence's stream is there as long as it is");
            let output = stream.outputs.get_mut(choice).expect("its choices are known");
            let token = model(&[stream.prompt.as_slice(), output].concat(), *choice);
            output.push(token);
            let tokens = vec![TokenOutput { id: token, logprobs: None }];
            stream.events.push(GenerateEvent::Tokens { choice: *choice, tokens });
            sampled.push((sample.seq, token));
        }
        for progress in self.scheduler.complete(&sampled) {
            if let Some(reason) = progress.finished {
                self.finished(progress.seq, reason);
            }
        }
        self.streams.values_mut().for_each(Stream::tell);
    }

    fn finished(&mut self, seq: SeqId, reason: FinishReason) {
        if let Some((id, choice)) = self.owners.remove(&seq)
            && let Some(stream) = self.streams.get_mut(&id)
        {
            stream.running.remove(&seq);
            stream.events.push(GenerateEvent::Finished { choice, reason });
        }
    }

    /// Says that it cannot go on.
    pub(crate) fn fail(&mut self, reason: &str) {
        for stream in self.streams.values_mut() {
            stream.events.push(GenerateEvent::Failed { reason: reason.to_owned(), retryable: true });
            stream.tell();
        }
    }
}

impl Stream {
    fn tell(&mut self) {
        if let Some((after, reply)) = self.waiting.take_if(|(after, _)| *after < self.events.len()) {
            reply.send(Answer::Events(Some(self.events[after..].to_vec())));
        }
    }
}
