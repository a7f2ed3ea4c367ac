//! One sequence inside the scheduler: its tokens, how many of them are in the KV cache, and when it ends.
//!
//! A fresh prompt, a resumed stream, a chunk of a long prompt, a decode step and the recomputation after preemption
//! are one thing here: tokens that are not yet in the cache.

use protocol::SeqId;
use protocol::generate::FinishReason;
use protocol::step::{LogitsWanted, StepSeq};

use super::block_pool::BlockTable;
use super::limits::blocks_for;

/// A sequence as it is handed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSequence {
    /// The prompt's tokens; at least one.
    pub prompt: Vec<u32>,
    /// Output tokens that an earlier attempt produced; they count as output.
    pub resume: Vec<u32>,
    /// Most output tokens, those of `resume` included.
    pub max_tokens: u32,
    /// Stop ids count only from this many output tokens on.
    pub min_tokens: u32,
    /// Ids that end the sequence.
    pub stop_ids: Vec<u32>,
}

impl NewSequence {
    /// Prompt and resumed output, tokens.
    pub(super) fn len(&self) -> usize {
        self.prompt.len() + self.resume.len()
    }

    /// Why there is nothing left to produce, where that is so: the lost attempt had ended but could not say it.
    pub(super) fn ended(&self) -> Option<FinishReason> {
        let output = self.resume.len();
        let stopped = self.resume.last().is_some_and(|id| self.stop_ids.contains(id));
        if stopped && output > self.min_tokens as usize {
            return Some(FinishReason::Stop);
        }
        (output >= self.max_tokens as usize).then_some(FinishReason::Length)
    }
}

/// A sequence that waits or runs.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: SeqId,
    /// Prompt, then output.
    tokens: Vec<u32>,
    prompt_len: usize,
    /// Tokens whose keys and values are in the cache.
    computed: usize,
    /// Tokens that the step in flight brings.
    in_flight: usize,
    blocks: BlockTable,
    max_tokens: u32,
    min_tokens: u32,
    stop_ids: Vec<u32>,
}

impl Sequence {
    pub(super) fn new(id: SeqId, new: NewSequence, blocks: BlockTable) -> Self {
        let NewSequence { prompt: mut tokens, resume, max_tokens, min_tokens, stop_ids } = new;
        let prompt_len = tokens.len();
        tokens.extend_from_slice(&resume);
        Self { id, tokens, prompt_len, computed: 0, in_flight: 0, blocks, max_tokens, min_tokens, stop_ids }
    }

    /// Tokens that are not in the cache yet; at least one between steps.
    pub(super) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Blocks that all present tokens need.
    pub(super) fn blocks_wanted(&self) -> usize {
        blocks_for(self.tokens.len())
    }

    /// Takes blocks for all present tokens; whether there were enough.
    pub(super) fn reserve(&mut self) -> bool {
        self.blocks.grow_to(blocks_for(self.tokens.len())).is_ok()
    }

    /// Gives its blocks back; it will be computed again from the start.
    pub(super) fn preempt(&mut self) {
        self.blocks.clear();
        self.computed = 0;
        self.in_flight = 0;
    }

    /// The next `take` tokens (1..=pending) as a part of a step.
    pub(super) fn enter_step(&mut self, take: usize) -> StepSeq {
        let end = self.computed + take;
        self.in_flight = take;
        StepSeq {
            seq: self.id,
            start: u32::try_from(self.computed).expect("a context is far below 2^32 tokens"),
            tokens: self.tokens[self.computed..end].to_vec(),
            blocks: self.blocks.ids()[..blocks_for(end)].to_vec(),
            logits: if end == self.tokens.len() { LogitsWanted::Last } else { LogitsWanted::None },
        }
    }

    /// The step in flight is done: what it brought is in the cache.
    pub(super) fn leave_step(&mut self) {
        self.computed += self.in_flight;
        self.in_flight = 0;
    }

    /// Appends a sampled token; why the sequence ends with it, where it does.
    pub(super) fn push(&mut self, id: u32, context_tokens: u32) -> Option<FinishReason> {
        self.tokens.push(id);
        let output = self.tokens.len() - self.prompt_len;
        if output > self.min_tokens as usize && self.stop_ids.contains(&id) {
            return Some(FinishReason::Stop);
        }
        let full = output >= self.max_tokens as usize || self.tokens.len() >= context_tokens as usize;
        full.then_some(FinishReason::Length)
    }
}
