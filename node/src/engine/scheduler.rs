//! Continuous batching over paged KV blocks: each step takes one token of every decoding sequence and fills up with
//! chunks of prompts; when blocks run out, the youngest sequence gives its own back and is computed again later.
//!
//! Not here: clocks and logits. The order of arrival is the only priority.
//! Invariants: running sequences, then waiting ones, are in order of arrival; every sequence is in exactly one of the
//! two; a running sequence owns blocks for all its tokens whenever a step is planned; with any sequence present, a
//! step is planned.

use std::collections::VecDeque;

use protocol::SeqId;
use protocol::generate::FinishReason;
use protocol::step::StepPlan;

use super::block_pool::BlockPool;
use super::budget::share_out;
use super::limits::EngineLimits;
use super::sequence::{NewSequence, Sequence};

/// What became of a sequence that was handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It waits for its turn.
    Queued(SeqId),
    /// The output that it resumes from was already complete.
    Finished(FinishReason),
}

/// Why a sequence was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    /// Try elsewhere or later.
    #[error("{waiting} sequences wait already, at most {max}")]
    QueueFull {
        /// How many wait.
        waiting: usize,
        /// The bound.
        max: u32,
    },
    /// It can never run here.
    #[error("{tokens} tokens and one to produce exceed the context of {context_tokens} tokens")]
    TooLong {
        /// Prompt and resumed output.
        tokens: usize,
        /// Longest context, tokens.
        context_tokens: u32,
    },
    /// There is nothing to run.
    #[error("an empty prompt")]
    Empty,
}

/// A sequence that got a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Which.
    pub seq: SeqId,
    /// Why it ended with that token, where it did; it is gone from the scheduler then.
    pub finished: Option<FinishReason>,
}

/// The scheduler of one replica.
#[derive(Debug)]
pub struct Scheduler {
    limits: EngineLimits,
    pool: BlockPool,
    running: Vec<Sequence>,
    waiting: VecDeque<Sequence>,
    next_seq: u64,
    steps: u64,
    preemptions: u64,
}

impl Scheduler {
    /// An empty scheduler.
    #[must_use]
    pub fn new(limits: EngineLimits) -> Self {
        let pool = BlockPool::new(limits.kv_blocks());
        Self { limits, pool, running: Vec::new(), waiting: VecDeque::new(), next_seq: 1, steps: 0, preemptions: 0 }
    }

    /// Queues a sequence.
    ///
    /// # Errors
    /// [`AdmitError`]; nothing was taken.
    pub fn add(&mut self, new: NewSequence) -> Result<Admission, AdmitError> {
        if new.prompt.is_empty() {
            return Err(AdmitError::Empty);
        }
        if let Some(reason) = new.ended() {
            return Ok(Admission::Finished(reason));
        }
        let context_tokens = self.limits.context_tokens();
        if new.len() + 1 > context_tokens as usize {
            return Err(AdmitError::TooLong { tokens: new.len(), context_tokens });
        }
        let max = self.limits.waiting_max();
        if self.waiting.len() >= max as usize {
            return Err(AdmitError::QueueFull { waiting: self.waiting.len(), max });
        }
        let id = SeqId(self.next_seq);
        self.next_seq += 1;
        self.waiting.push_back(Sequence::new(id, new, self.pool.table()));
        Ok(Admission::Queued(id))
    }

    /// Forgets a sequence and frees its blocks; whether it was there. Legal while a step is in flight.
    pub fn cancel(&mut self, seq: SeqId) -> bool {
        let before = self.running.len() + self.waiting.len();
        self.running.retain(|s| s.id != seq);
        self.waiting.retain(|s| s.id != seq);
        before != self.running.len() + self.waiting.len()
    }

    /// The next step, or `None` when there is no sequence. [`Self::complete`] it before planning another.
    pub fn schedule(&mut self) -> Option<StepPlan> {
        self.reserve_running();
        self.admit_waiting();
        if self.running.is_empty() {
            return None;
        }
        let pending: Vec<usize> = self.running.iter().map(Sequence::pending).collect();
        let shares = share_out(&pending, self.limits.step_tokens() as usize);
        let entering = self.running.iter_mut().zip(shares).filter(|(_, share)| *share > 0);
        let seqs = entering.map(|(seq, share)| seq.enter_step(share)).collect();
        self.steps += 1;
        Some(StepPlan { step: self.steps, copies: Vec::new(), seqs })
    }

    /// Blocks for the running sequences' new tokens, oldest first; the youngest pays where none are left.
    fn reserve_running(&mut self) {
        let mut i = 0;
        while i < self.running.len() {
            if self.running[i].reserve() {
                i += 1;
                continue;
            }
            // May be sequence i itself. Never the last one alone: a whole context fits the pool (`EngineLimits`).
            let mut youngest = self.running.pop().expect("i is below its length");
            youngest.preempt();
            self.waiting.push_front(youngest);
            self.preemptions += 1;
        }
    }

    /// Starts waiting sequences in order of arrival while there is room. Beside others, a block for each of them must
    /// stay free, or the newcomer would be preempted as soon as they grow.
    fn admit_waiting(&mut self) {
        while self.running.len() < usize::from(self.limits.max_seqs()) {
            let Some(next) = self.waiting.front() else { break };
            if next.blocks_wanted() + self.running.len() > self.pool.free() {
                break;
            }
            let mut seq = self.waiting.pop_front().expect("there is a front");
            assert!(seq.reserve(), "as many blocks are free as it wants");
            self.running.push(seq);
        }
    }

    /// Takes the result of the planned step: the token sampled for each of its sequences that wanted logits. Tokens of
    /// sequences that were cancelled meanwhile are dropped.
    pub fn complete(&mut self, sampled: &[(SeqId, u32)]) -> Vec<Progress> {
        self.running.iter_mut().for_each(Sequence::leave_step);
        let context_tokens = self.limits.context_tokens();
        let mut progress = Vec::with_capacity(sampled.len());
        for (seq, token) in sampled {
            let Some(at) = self.running.iter().position(|s| s.id == *seq) else { continue };
            let finished = self.running[at].push(*token, context_tokens);
            if finished.is_some() {
                self.running.remove(at);
            }
            progress.push(Progress { seq: *seq, finished });
        }
        progress
    }

    /// Whether there is no sequence at all.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Sequences in the batch.
    #[must_use]
    pub fn num_running(&self) -> usize {
        self.running.len()
    }

    /// Sequences that wait.
    #[must_use]
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Steps planned.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// How often a sequence had to give its blocks back.
    #[must_use]
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// The blocks, for their counts.
    #[must_use]
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// The bounds it keeps.
    #[must_use]
    pub fn limits(&self) -> &EngineLimits {
        &self.limits
    }
}
