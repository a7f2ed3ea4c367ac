//! One sequence inside the scheduler: its tokens, how many of them are in the KV cache, and when it ends.
//!
//! A fresh prompt, a resumed stream, a chunk of a long prompt, a decode step and the recomputation after preemption
//! are one thing here: tokens that are not yet in the cache. Several fresh choices of one request are one sequence until
//! their prompt is computed; then it forks.
//!
//! ```text
//!  position  0 ……… computed ……… + in_flight ……… + drafted ……… tokens.len() (and one more, once the step in flight gave it)
//!            in the cache │ being computed │ planned next │ pending
//! ```

use std::sync::Arc;

use kernels::BLOCK_TOKENS;
use protocol::SeqId;
use protocol::generate::FinishReason;
use protocol::step::{BlockCopy, LogitsWanted, StepSeq};

use super::block_pool::BlockPool;
use super::block_table::BlockTable;
use super::limits::blocks_for;
use super::order::Order;
use super::picture::PromptPicture;
use super::prefix_key::PrefixChain;
use super::request::{NewRequest, Progress};
use super::step::{Entry, Started};

/// Stands for a token that is not known yet; replaced before any rank sees it.
const HOLE: u32 = u32::MAX;

/// When a sequence ends; the same for all choices of a request.
#[derive(Debug)]
struct Ending {
    /// Prompt and output, tokens.
    tokens_max: usize,
    min_tokens: usize,
    stop_ids: Vec<u32>,
    prompt_only: bool,
}

/// What a step brings of a sequence.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    tokens: usize,
    /// Whether its last row gives the next token.
    samples: bool,
}

/// What an admission found in the prefix cache, tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct LookUp {
    pub(super) queried: usize,
    pub(super) hit: usize,
}

/// A sequence that waits or runs.
#[derive(Debug)]
pub(super) struct Sequence {
    order: Order,
    /// Who samples from its next row: itself, and until it forks the other choices of its prompt. Never empty.
    choices: Vec<SeqId>,
    /// Prompt, then output.
    tokens: Vec<u32>,
    prompt_len: usize,
    /// Held as long as it lives: it may have to be computed again.
    pictures: Arc<[PromptPicture]>,
    ending: Arc<Ending>,
    blocks: BlockTable,
    /// Names of its full blocks.
    chain: PrefixChain,
    /// Leading blocks that were found in the prefix cache or put there.
    registered: usize,
    computed: usize,
    in_flight: Part,
    drafted: Part,
    /// Must be made before the next write.
    copy: Option<BlockCopy>,
    /// Position of the first prompt row that has not been handed out, where all but the last are wanted.
    prompt_rows_from: Option<usize>,
    started: bool,
    /// Prompt tokens that its first admission found in the prefix cache.
    cached_tokens: u32,
}

impl Sequence {
    /// A sequence of `request` with `resume` as its output so far, for one choice.
    pub(super) fn new(
        request: &NewRequest,
        resume: &[u32],
        order: Order,
        (blocks, chain): (BlockTable, PrefixChain),
        context_tokens: u32,
    ) -> Self {
        let prompt_len = request.prompt.len();
        let ending = Ending {
            tokens_max: prompt_len.saturating_add(request.max_tokens as usize).min(context_tokens as usize),
            min_tokens: request.min_tokens as usize,
            stop_ids: request.stop_ids.clone(),
            prompt_only: request.wants_prompt_only(),
        };
        Self {
            order,
            choices: vec![order.seq()],
            tokens: [request.prompt.as_slice(), resume].concat(),
            prompt_len,
            pictures: request.pictures.clone(),
            ending: Arc::new(ending),
            blocks,
            chain,
            registered: 0,
            computed: 0,
            in_flight: Part::default(),
            drafted: Part::default(),
            copy: None,
            prompt_rows_from: None,
            started: false,
            cached_tokens: 0,
        }
    }

    /// Wants the logits after each token of the prompt but its last.
    pub(super) fn want_prompt_rows(&mut self) {
        self.prompt_rows_from = Some(0).filter(|from| from + 1 < self.prompt_len);
    }

    pub(super) fn order(&self) -> Order {
        self.order
    }

    /// Whether it has no output yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.tokens.len() == self.prompt_len
    }

    /// One more choice of its prompt.
    pub(super) fn add_choice(&mut self, seq: SeqId) {
        self.choices.push(seq);
    }

    /// Forgets a choice; whether it was one of this sequence's.
    pub(super) fn forget(&mut self, seq: SeqId) -> bool {
        let before = self.choices.len();
        self.choices.retain(|c| *c != seq);
        self.choices.len() < before
    }

    /// Whether nobody wants it any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.choices.is_empty()
    }

    /// Tokens that it will still need computed, if it answers with `expected` tokens or as many as it may.
    pub(super) fn demand(&self, expected: usize) -> u64 {
        let answer = expected.min(self.ending.tokens_max.saturating_sub(self.tokens.len()));
        (self.tokens.len() - self.computed + self.choices.len() * answer) as u64
    }

    /// Tokens that no step in flight or planned brings; at least one whenever no step is in flight. None where it is not
    /// known yet whether it goes on, or as how many sequences.
    pub(super) fn pending(&self) -> usize {
        let next = usize::from(self.in_flight.samples);
        let ends_or_forks = self.choices.len() > 1 || self.tokens.len() + next >= self.ending.tokens_max;
        if self.in_flight.samples && ends_or_forks {
            return 0;
        }
        self.tokens.len() + next - self.planned()
    }

    /// Whether a step that is being planned should bring something of it and does not.
    pub(super) fn lacks_part(&self) -> bool {
        self.drafted.tokens == 0 && self.pending() > 0
    }

    /// Positions in the cache, or brought there by a step in flight or planned.
    fn planned(&self) -> usize {
        self.computed + self.in_flight.tokens + self.drafted.tokens
    }

    /// Whether its next part gives a row of logits for every token.
    pub(super) fn wants_all_rows(&self) -> bool {
        self.prompt_rows_from.is_some()
    }

    /// Most tokens that its next part may have: a part that gives prompt rows ends with the prompt.
    pub(super) fn part_max(&self) -> usize {
        match self.prompt_rows_from {
            Some(_) => self.pending().min(self.prompt_len - self.planned()),
            None => self.pending(),
        }
    }

    /// Takes cached and new blocks for all its tokens, if `spare` would be left over; what it found in the cache.
    pub(super) fn admit(&mut self, pool: &BlockPool, spare: usize) -> Option<LookUp> {
        // The last token is always computed: somebody wants its logits. So are rows that were not handed out.
        let limit = (self.tokens.len() - 1).min(self.prompt_rows_from.unwrap_or(usize::MAX));
        let keys = self.chain.first(limit / BLOCK_TOKENS, &self.tokens);
        let cached = pool.cached(keys);
        let wanted = blocks_for(self.tokens.len()) - cached.blocks;
        if wanted + cached.idle + spare > pool.available() {
            return None;
        }
        self.blocks.take_cached(&keys[..cached.blocks]);
        self.blocks.grow_to(blocks_for(self.tokens.len())).expect("as many are available as it wants");
        self.registered = cached.blocks;
        self.computed = cached.blocks * BLOCK_TOKENS;
        if !self.started {
            let cached = self.computed.min(self.prompt_len);
            self.cached_tokens = u32::try_from(cached).expect("a context is far below 2^32 tokens");
        }
        let queried = if self.prompt_rows_from.is_some() { limit } else { self.tokens.len() };
        Some(LookUp { queried, hit: self.computed })
    }

    /// Takes blocks for all its tokens, and makes the one that it writes next its own; whether there were enough.
    pub(super) fn reserve(&mut self) -> bool {
        if self.drafted.tokens > 0 || self.pending() == 0 {
            return true;
        }
        let (from, to) = (self.planned(), self.planned() + self.pending());
        if self.blocks.grow_to(blocks_for(to)).is_err() {
            return false;
        }
        match self.blocks.make_own(from / BLOCK_TOKENS) {
            Ok(copy) => {
                self.copy = self.copy.or(copy);
                true
            }
            Err(_) => false,
        }
    }

    /// Gives its blocks back; it will be computed again, as far as it is not in the prefix cache then.
    pub(super) fn preempt(&mut self) {
        self.blocks.clear();
        self.registered = 0;
        self.computed = 0;
        self.drafted = Part::default();
        self.copy = None;
    }

    /// The next `take` tokens (1..=`part_max`) as a part of the step that is being planned.
    pub(super) fn enter(&mut self, take: usize) -> Entry {
        let (start, end) = (self.planned(), self.planned() + take);
        let last = end == self.tokens.len() + usize::from(self.in_flight.samples);
        let samples = last && !self.ending.prompt_only;
        let prompt_rows_from = self.prompt_rows_from.filter(|from| *from < end);
        let logits = match (prompt_rows_from, samples) {
            (Some(_), _) => LogitsWanted::All,
            (None, true) => LogitsWanted::Last,
            (None, false) => LogitsWanted::None,
        };
        self.drafted = Part { tokens: take, samples };
        let known = &self.tokens[start.min(self.tokens.len())..end.min(self.tokens.len())];
        let mut tokens = Vec::with_capacity(take);
        tokens.extend_from_slice(known);
        tokens.resize(take, HOLE);
        let part = StepSeq {
            seq: self.speaker(),
            start: u32::try_from(start).expect("a context is far below 2^32 tokens"),
            tokens,
            blocks: self.blocks.ids()[..blocks_for(end)].to_vec(),
            pictures: self.pictures.iter().map(PromptPicture::in_step).collect(),
            logits,
        };
        Entry { order: self.order, part, copy: self.copy.take(), prompt_rows_from }
    }

    /// Takes its part of a draft back.
    pub(super) fn retract(&mut self, entry: Entry) {
        self.drafted = Part::default();
        self.copy = entry.copy;
    }

    /// What was drafted is computed now: tokens that were not known then are filled in.
    pub(super) fn launch(&mut self, part: &mut StepSeq) -> Option<Started> {
        let (start, len) = (part.start as usize, part.tokens.len());
        part.tokens.copy_from_slice(&self.tokens[start..start + len]);
        // Whoever stood for it when it was drafted may be gone.
        part.seq = self.speaker();
        self.in_flight = std::mem::take(&mut self.drafted);
        if part.logits == LogitsWanted::All {
            self.prompt_rows_from = Some(self.planned()).filter(|from| from + 1 < self.prompt_len);
        }
        let first = !std::mem::replace(&mut self.started, true);
        first.then_some(Started { seq: self.choices[0], cached_tokens: self.cached_tokens })
    }

    /// Who samples from the row of the step in flight.
    pub(super) fn sampling(&self) -> &[SeqId] {
        if self.in_flight.samples { &self.choices } else { &[] }
    }

    /// Whether the step in flight brings the last of its prompt, or an earlier one did.
    pub(super) fn has_prompt(&self) -> bool {
        self.planned() >= self.prompt_len
    }

    /// One choice that stands for the request.
    pub(super) fn speaker(&self) -> SeqId {
        self.choices[0]
    }

    /// The step in flight is done: what it brought is in the cache, and blocks that it filled can be shared. Whether it
    /// gave a token.
    pub(super) fn land(&mut self) -> bool {
        let Part { tokens, samples } = std::mem::take(&mut self.in_flight);
        self.computed += tokens;
        let full = self.computed / BLOCK_TOKENS;
        let keys = self.chain.first(full, &self.tokens);
        for (at, key) in keys.iter().enumerate().skip(self.registered) {
            self.blocks.register(at, *key);
        }
        self.registered = self.registered.max(full);
        samples
    }

    /// Whether its prompt, which is all that was wanted, is computed.
    pub(super) fn is_done(&self) -> bool {
        self.ending.prompt_only && self.computed == self.tokens.len()
    }

    /// The end of all its choices, without a token.
    pub(super) fn finished(&self, reason: FinishReason) -> impl Iterator<Item = Progress> {
        self.choices.iter().map(move |seq| Progress { seq: *seq, finished: Some(reason) })
    }

    /// Leaves this sequence to its first choice and gives each other one a sequence of its own, over the same blocks.
    pub(super) fn fork(&mut self) -> Vec<Self> {
        let others = self.choices.split_off(1);
        let sibling = |seq: SeqId| Self {
            order: self.order.of_sibling(seq),
            choices: vec![seq],
            tokens: self.tokens.clone(),
            prompt_len: self.prompt_len,
            pictures: self.pictures.clone(),
            ending: self.ending.clone(),
            blocks: self.blocks.fork(),
            chain: self.chain.clone(),
            registered: self.registered,
            computed: self.computed,
            in_flight: Part::default(),
            drafted: Part::default(),
            copy: None,
            prompt_rows_from: None,
            started: true,
            cached_tokens: self.cached_tokens,
        };
        others.into_iter().map(sibling).collect()
    }

    /// Appends a sampled token of its one choice; why the sequence ends with it, where it does.
    pub(super) fn push(&mut self, id: u32) -> Progress {
        self.tokens.push(id);
        let output = self.tokens.len() - self.prompt_len;
        let stopped = output > self.ending.min_tokens && self.ending.stop_ids.contains(&id);
        let full = self.tokens.len() >= self.ending.tokens_max;
        let finished = stopped.then_some(FinishReason::Stop).or(full.then_some(FinishReason::Length));
        Progress { seq: self.choices[0], finished }
    }
}
