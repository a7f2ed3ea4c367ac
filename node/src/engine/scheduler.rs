//! Continuous batching over paged KV blocks: each step takes one token of every decoding sequence and fills up with
//! chunks of prompts; when blocks run out, the last in line gives its own back and is computed again later.
//!
//! ```text
//!  add ─▶ waiting ── admit: cached blocks, new blocks ─▶ running ── ended, cancelled ─▶ gone
//!             ▲                                            │  ▲
//!             └──────── preempt: blocks given back ────────┘  └─ fork: choices of a prompt that is computed
//! ```
//! Not here: clocks and logits.
//! Invariants: every choice is in exactly one sequence, and every sequence waits or runs; a waiting one holds no block,
//! so the first in line can always have them all; a running one holds blocks for all its tokens whenever a step is
//! planned; with any sequence present, a step is planned.

use std::collections::{BTreeMap, HashMap};

use protocol::SeqId;
use protocol::generate::FinishReason;
use protocol::step::StepPlan;

use super::block_pool::BlockPool;
use super::budget::share_out;
use super::limits::EngineLimits;
use super::order::Order;
use super::prefix_key::{PrefixChain, PrefixKey};
use super::request::{ANSWER_TOKENS_EXPECTED, Admission, AdmitError, Demand, NewRequest, Progress};
use super::sequence::Sequence;
use super::step::{Draft, PromptRows, Sample, Step};

/// What a scheduler counts from its start on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Steps planned.
    pub steps: u64,
    /// How often a sequence had to give its blocks back.
    pub preemptions: u64,
    /// Tokens that were looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Those of them that were found.
    pub prefix_hits: u64,
    /// Cached blocks that gave way to others.
    pub evictions: u64,
}

/// The scheduler of one replica.
#[derive(Debug)]
pub struct Scheduler {
    limits: EngineLimits,
    model_digest: String,
    pool: BlockPool,
    running: BTreeMap<Order, Sequence>,
    waiting: BTreeMap<Order, Sequence>,
    arrivals: u64,
    next_seq: u64,
    counts: Counts,
}

impl Scheduler {
    /// An empty scheduler for the model version of this digest.
    #[must_use]
    pub fn new(limits: EngineLimits, model_digest: &str) -> Self {
        Self {
            limits,
            model_digest: model_digest.to_owned(),
            pool: BlockPool::new(limits.kv_blocks()),
            running: BTreeMap::new(),
            waiting: BTreeMap::new(),
            arrivals: 0,
            next_seq: 1,
            counts: Counts::default(),
        }
    }

    /// Queues a request's choices; what became of each, in their order. Legal while a step is in flight.
    ///
    /// # Errors
    /// [`AdmitError`]; nothing was taken.
    pub fn add(&mut self, request: &NewRequest) -> Result<Vec<Admission>, AdmitError> {
        self.check(request, Demand::default())?;
        Ok(self.enter(request))
    }

    /// Whether there is room for a request in the queue, beside those that wait `elsewhere` to enter it.
    ///
    /// # Errors
    /// [`AdmitError`].
    pub fn check(&self, request: &NewRequest, elsewhere: Demand) -> Result<(), AdmitError> {
        if request.choices.iter().all(|output| request.ended(output).is_some()) {
            return Ok(());
        }
        let context_tokens = self.limits.context_tokens();
        if request.prompt.is_empty() {
            return Err(AdmitError::Empty);
        }
        let tokens = request.unfinished_len();
        if tokens + 1 > context_tokens as usize {
            return Err(AdmitError::TooLong { tokens, context_tokens });
        }
        let (waiting, max) = (self.waiting.len() + elsewhere.sequences, self.limits.waiting_max());
        if waiting >= max as usize {
            return Err(AdmitError::QueueFull { waiting, max });
        }
        let (waiting, more) = (demand(self.waiting.values()) + elsewhere.tokens, request.demand(context_tokens).tokens);
        let max = self.limits.waiting_tokens_max();
        // Whoever finds nobody waiting is taken, however much it brings.
        if waiting > 0 && waiting + more > max {
            return Err(AdmitError::QueueTokens { waiting, more, max });
        }
        Ok(())
    }

    /// As [`Self::add`], for a request that has passed [`Self::check`], now or some time ago.
    pub fn enter(&mut self, request: &NewRequest) -> Vec<Admission> {
        self.arrivals += 1;
        let root = PrefixKey::root(&self.model_digest, &request.cache_salt);
        let chain = PrefixChain::new(root, request.pictures.clone());
        let mut admissions = Vec::with_capacity(request.choices.len());
        let mut sequences: Vec<Sequence> = Vec::new();
        for output in &request.choices {
            let (seq, ended) = (SeqId(self.next_seq), request.ended(output));
            self.next_seq += 1;
            admissions.push(ended.map_or(Admission::Queued(seq), Admission::Finished));
            if ended.is_some() {
                continue;
            }
            // Fresh choices are one sequence until their prompt is computed.
            if let Some(fresh) = sequences.iter_mut().find(|s| output.is_empty() && s.is_fresh()) {
                fresh.add_choice(seq);
                continue;
            }
            let order = Order::new(self.arrivals, request.priority, seq);
            let empty = (self.pool.table(), chain.clone());
            sequences.push(Sequence::new(request, output, order, empty, self.limits.context_tokens()));
        }
        if let Some(first) = sequences.first_mut().filter(|_| request.prompt_logits) {
            first.want_prompt_rows();
        }
        self.waiting.extend(sequences.into_iter().map(|s| (s.order(), s)));
        admissions
    }

    /// Forgets a choice and frees its blocks; whether it was there. Legal while a step is in flight.
    pub fn cancel(&mut self, seq: SeqId) -> bool {
        for line in [&mut self.running, &mut self.waiting] {
            if let Some(order) = line.iter_mut().find_map(|(order, s)| s.forget(seq).then_some(*order)) {
                if line[&order].is_abandoned() {
                    line.remove(&order);
                }
                return true;
            }
        }
        false
    }

    /// The next step, or `None` when there is no sequence. [`Self::complete`] it before another. A `draft` of it stands,
    /// but for those who are gone, unless somebody has come who has no part in it.
    pub fn schedule(&mut self, mut draft: Draft) -> Option<Step> {
        draft.entries.retain(|e| self.running.contains_key(&e.order));
        self.reserve_running(&mut draft);
        self.admit_waiting();
        if self.running.values().any(Sequence::lacks_part) {
            self.discard(draft);
            draft = self.share_step();
        }
        self.pool.release_copy_sources();
        self.launch(draft)
    }

    /// A draft of the next step while one is in flight. Nobody is preempted for it: those who end in the step in flight
    /// may leave room enough.
    pub fn schedule_ahead(&mut self) -> Draft {
        if !self.running.values_mut().all(Sequence::reserve) {
            return Draft::default();
        }
        self.admit_waiting();
        self.share_step()
    }

    /// Blocks for the running sequences' new tokens, first in line first; the last in line pays where none are left.
    fn reserve_running(&mut self, draft: &mut Draft) {
        let line: Vec<Order> = self.running.keys().copied().collect();
        for order in line {
            // It may be the one that pays. Never the first one: a whole context fits the pool (`EngineLimits`).
            while let Some(seq) = self.running.get_mut(&order)
                && !seq.reserve()
            {
                let (last, mut payer) = self.running.pop_last().expect("somebody runs");
                payer.preempt();
                draft.entries.retain(|e| e.order != last);
                self.waiting.insert(last, payer);
                self.counts.preemptions += 1;
            }
        }
    }

    /// Starts waiting sequences in line while there is room. Beside others, a block for each of them must stay free, or
    /// the newcomer would be preempted as soon as they grow.
    fn admit_waiting(&mut self) {
        while self.running.len() < usize::from(self.limits.max_seqs())
            && let Some(mut next) = self.waiting.first_entry()
            && let Some(found) = next.get_mut().admit(&self.pool, self.running.len())
        {
            self.counts.prefix_queries += found.queried as u64;
            self.counts.prefix_hits += found.hit as u64;
            let (order, seq) = next.remove_entry();
            self.running.insert(order, seq);
        }
    }

    /// Shares the tokens of a step out among the running sequences; logits of prompts to the first in line.
    fn share_step(&mut self) -> Draft {
        let mut rows = self.limits.prompt_rows() as usize;
        let (mut entering, mut most) = (Vec::new(), Vec::new());
        for seq in self.running.values_mut() {
            let mut part = seq.part_max();
            if seq.wants_all_rows() {
                part = part.min(rows);
                rows -= part;
            }
            if part > 0 {
                entering.push(seq);
                most.push(part);
            }
        }
        let shares = share_out(&most, self.limits.step_tokens() as usize);
        let shared = entering.into_iter().zip(shares).filter(|(_, share)| *share > 0);
        Draft { entries: shared.map(|(seq, share)| seq.enter(share)).collect() }
    }

    fn discard(&mut self, draft: Draft) {
        for entry in draft.entries {
            self.running.get_mut(&entry.order).expect("the gone have left the draft").retract(entry);
        }
    }

    /// Makes a draft the step in flight.
    fn launch(&mut self, draft: Draft) -> Option<Step> {
        if draft.is_empty() {
            return None;
        }
        self.counts.steps += 1;
        let plan = StepPlan { seqs: Vec::with_capacity(draft.entries.len()), ..StepPlan::last(self.counts.steps) };
        let mut step = Step { plan, samples: Vec::new(), prompts: Vec::new(), started: Vec::new() };
        let mut rows = 0;
        for mut entry in draft.entries {
            let seq = self.running.get_mut(&entry.order).expect("the gone have left the draft");
            step.started.extend(seq.launch(&mut entry.part));
            step.plan.copies.extend(entry.copy);
            let first_row = rows;
            rows += entry.part.logits.rows(entry.part.tokens.len());
            if let Some(wanted_from) = entry.prompt_rows_from {
                let start = entry.part.start as usize;
                let from = wanted_from.max(start);
                let rows = first_row + from - start..rows - usize::from(seq.has_prompt());
                step.prompts.push(PromptRows { seq: seq.speaker(), rows, from });
            }
            let place = step.plan.seqs.len();
            step.samples.extend(seq.sampling().iter().map(|seq| Sample { entry: place, row: rows - 1, seq: *seq }));
            step.plan.seqs.push(entry.part);
        }
        Some(step)
    }

    /// A step without sequences, for whatever else the ranks are to do when [`Self::schedule`] plans none.
    pub fn empty_step(&mut self) -> Step {
        self.counts.steps += 1;
        Step { plan: StepPlan::last(self.counts.steps), samples: Vec::new(), prompts: Vec::new(), started: Vec::new() }
    }

    /// Takes the result of the step in flight: the token sampled for each of its choices that sample. A choice without
    /// one is forgotten; tokens of choices that are gone are dropped.
    pub fn complete(&mut self, sampled: &[(SeqId, u32)]) -> Vec<Progress> {
        let tokens: HashMap<SeqId, u32> = sampled.iter().copied().collect();
        let mut progress = Vec::with_capacity(sampled.len());
        let mut forked = Vec::new();
        self.running.retain(|_, seq| {
            if !seq.land() {
                let done = seq.is_done();
                if done {
                    progress.extend(seq.finished(FinishReason::Length));
                }
                return !done;
            }
            forked.extend(seq.fork());
            push(seq, &tokens, &mut progress)
        });
        for mut seq in forked {
            if push(&mut seq, &tokens, &mut progress) {
                self.settle(seq);
            }
        }
        progress
    }

    /// A sequence that has just forked runs on if there is room, else it waits like one that was preempted.
    fn settle(&mut self, mut seq: Sequence) {
        let running = self.running.len();
        if running < usize::from(self.limits.max_seqs()) && running < self.pool.available() {
            self.running.insert(seq.order(), seq);
        } else {
            seq.preempt();
            self.waiting.insert(seq.order(), seq);
        }
    }

    /// Tokens that all present sequences will need computed, answers of usual length supposed.
    #[must_use]
    pub fn tokens_ahead(&self) -> u64 {
        demand(self.running.values().chain(self.waiting.values()))
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

    /// What has happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { evictions: self.pool.evictions(), ..self.counts }
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

fn demand<'a>(sequences: impl IntoIterator<Item = &'a Sequence>) -> u64 {
    sequences.into_iter().map(|s| s.demand(ANSWER_TOKENS_EXPECTED)).sum()
}

/// Gives a sequence its token; whether it goes on.
fn push(seq: &mut Sequence, tokens: &HashMap<SeqId, u32>, progress: &mut Vec<Progress>) -> bool {
    let Some(token) = tokens.get(&seq.speaker()) else { return false };
    let pushed = seq.push(*token);
    progress.push(pushed);
    pushed.finished.is_none()
}
