//! Properties of the scheduler over random arrivals, classes, choices, prefixes, cancellations and lengths, held
//! against a plain model of what every rank's cache contains.
//!
//! A slot of the modelled cache holds a digest of everything its keys and values would depend on: the salt and all
//! tokens up to its position. A sequence whose blocks do not read as its own history has been given another's.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use kernels::BLOCK_TOKENS;
use proptest::prelude::*;
use protocol::SeqId;
use protocol::generate::{FinishReason, Priority};
use protocol::step::{LogitsWanted, StepSeq};

use super::*;

const STOP: u32 = 7;

/// What the keys and values of the last of `tokens` depend on.
fn digest(salt: &str, tokens: &[u32]) -> u64 {
    let salt = salt.bytes().map(u32::from);
    salt.chain([u32::MAX])
        .chain(tokens.iter().copied())
        .fold(17, |h: u64, t| (h ^ u64::from(t)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23))
}

/// The token a model gives choice number `choice` after `context`: depends on all of it, and is [`STOP`] now and then.
fn model(context: &[u32], choice: usize) -> u32 {
    let h = context.iter().fold(17u32, |h, t| h.wrapping_mul(31).wrapping_add(*t));
    h.wrapping_add(choice as u32 * 97) >> 3 & 63
}

/// What one choice alone would produce.
fn alone(new: &NewRequest, choice: usize, context_tokens: usize) -> (Vec<u32>, FinishReason) {
    let mut output = new.choices[choice].clone();
    loop {
        let tokens = [new.prompt.as_slice(), &output].concat();
        if output.len() >= new.max_tokens as usize || tokens.len() >= context_tokens {
            return (output, FinishReason::Length);
        }
        let id = model(&tokens, choice);
        output.push(id);
        if output.len() > new.min_tokens as usize && new.stop_ids.contains(&id) {
            return (output, FinishReason::Stop);
        }
    }
}

/// One choice, as its client sees it.
struct Choice {
    request: usize,
    index: usize,
    output: Vec<u32>,
}

/// A cache that remembers what lies in which slot, and a sampler over it.
struct Harness {
    scheduler: Scheduler,
    draft: Draft,
    cache: HashMap<(u32, usize), u64>,
    requests: Vec<NewRequest>,
    /// Prompt rows handed out of each request.
    prompt_rows: Vec<usize>,
    /// Every choice ever queued; the live ones are those in `live`.
    choices: BTreeMap<SeqId, Choice>,
    live: BTreeSet<SeqId>,
    finished: usize,
}

impl Harness {
    fn new(limits: EngineLimits) -> Self {
        Self {
            scheduler: Scheduler::new(limits, "a digest"),
            draft: Draft::default(),
            cache: HashMap::new(),
            requests: Vec::new(),
            prompt_rows: Vec::new(),
            choices: BTreeMap::new(),
            live: BTreeSet::new(),
            finished: 0,
        }
    }

    fn add(&mut self, new: NewRequest) {
        let limits = *self.scheduler.limits();
        let context = limits.context_tokens() as usize;
        match self.scheduler.add(&new) {
            Ok(admissions) => {
                assert_eq!(admissions.len(), new.choices.len());
                for (index, admission) in admissions.into_iter().enumerate() {
                    let output = new.choices[index].clone();
                    match admission {
                        Admission::Queued(seq) => {
                            assert!(self.live.insert(seq));
                            let choice = Choice { request: self.requests.len(), index, output };
                            assert!(self.choices.insert(seq, choice).is_none(), "a sequence id was reused");
                        }
                        Admission::Finished(reason) => {
                            let full = output.len() >= new.max_tokens as usize;
                            let stopped = output.last() == Some(&STOP) && output.len() > new.min_tokens as usize;
                            assert_eq!(reason == FinishReason::Stop, stopped);
                            assert!(full || stopped);
                        }
                    }
                }
                self.requests.push(new);
                self.prompt_rows.push(0);
            }
            Err(AdmitError::QueueFull { waiting, max }) => assert!(waiting >= max as usize),
            Err(AdmitError::QueueTokens { waiting, more, max }) => assert!(waiting > 0 && waiting + more > max),
            Err(AdmitError::TooLong { tokens, context_tokens }) => {
                assert!(tokens + 1 > context_tokens as usize && context_tokens as usize == context);
            }
            Err(AdmitError::Empty) => assert!(new.prompt.is_empty()),
        }
    }

    fn nth_live(&self, nth: usize) -> Option<SeqId> {
        self.live.iter().copied().nth(nth % self.live.len().max(1))
    }

    /// One choice is not wanted any more.
    fn cancel(&mut self, nth: usize) {
        if let Some(seq) = self.nth_live(nth) {
            assert!(self.scheduler.cancel(seq));
            assert!(!self.scheduler.cancel(seq));
            self.live.remove(&seq);
        }
    }

    /// A client is gone.
    fn cancel_request(&mut self, nth: usize) {
        let Some(seq) = self.nth_live(nth) else { return };
        let request = self.choices[&seq].request;
        let gone: Vec<SeqId> = self.live.iter().copied().filter(|s| self.choices[s].request == request).collect();
        for seq in gone {
            assert!(self.scheduler.cancel(seq));
            self.live.remove(&seq);
        }
    }

    /// Plans, checks, "computes" and completes one step; `meanwhile` happens while it computes.
    fn step(&mut self, ahead: bool, meanwhile: impl FnOnce(&mut Self)) {
        let draft = std::mem::take(&mut self.draft);
        let Some(step) = self.scheduler.schedule(draft) else {
            assert!(self.live.is_empty(), "sequences are there and no step is planned");
            assert!(self.scheduler.is_idle());
            return;
        };
        self.check(&step);
        let sampled = self.compute(&step);
        if ahead {
            self.draft = self.scheduler.schedule_ahead();
        }
        meanwhile(self);
        self.complete(&sampled);
    }

    /// The tokens of a live choice.
    fn tokens_of(&self, seq: SeqId) -> (Vec<u32>, &NewRequest) {
        assert!(self.live.contains(&seq), "{seq} is gone and in a step");
        let choice = &self.choices[&seq];
        let new = &self.requests[choice.request];
        ([new.prompt.as_slice(), &choice.output].concat(), new)
    }

    fn compute(&mut self, step: &Step) -> Vec<(SeqId, u32)> {
        for copy in &step.plan.copies {
            for slot in 0..BLOCK_TOKENS {
                match self.cache.get(&(copy.from, slot)).copied() {
                    Some(content) => self.cache.insert((copy.to, slot), content),
                    None => self.cache.remove(&(copy.to, slot)),
                };
            }
        }
        for part in &step.plan.seqs {
            let (tokens, new) = self.tokens_of(part.seq);
            let (start, end) = (part.start as usize, part.start as usize + part.tokens.len());
            assert_eq!(part.tokens, tokens[start..end], "the step brings other tokens");
            let written: Vec<u64> = (start..end).map(|at| digest(&new.cache_salt, &tokens[..=at])).collect();
            for (at, content) in (start..end).zip(written) {
                self.cache.insert((part.blocks[at / BLOCK_TOKENS], at % BLOCK_TOKENS), content);
            }
        }
        for part in &step.plan.seqs {
            let (tokens, new) = self.tokens_of(part.seq);
            for at in 0..part.start as usize + part.tokens.len() {
                let slot = (part.blocks[at / BLOCK_TOKENS], at % BLOCK_TOKENS);
                let expected = digest(&new.cache_salt, &tokens[..=at]);
                assert_eq!(self.cache.get(&slot), Some(&expected), "position {at} of {} reads another's", part.seq);
            }
        }
        self.prompts(step);
        let mut sampled = Vec::new();
        for sample in &step.samples {
            let part = &step.plan.seqs[sample.entry];
            let (tokens, _) = self.tokens_of(sample.seq);
            assert_eq!(part.start as usize + part.tokens.len(), tokens.len(), "sampled before the last token is in");
            assert_eq!(sample.row + 1, first_row(step, sample.entry) + part.logits.rows(part.tokens.len()));
            sampled.push((sample.seq, model(&tokens, self.choices[&sample.seq].index)));
        }
        sampled
    }

    /// Rows of a prompt are handed out once each, in order.
    fn prompts(&mut self, step: &Step) {
        for prompt in &step.prompts {
            let request = self.choices[&prompt.seq].request;
            let of_request =
                |part: &&StepSeq| self.choices[&part.seq].request == request && part.logits == LogitsWanted::All;
            let entry = step.plan.seqs.iter().position(|p| of_request(&p)).expect("a part of the request");
            let part = &step.plan.seqs[entry];
            assert_eq!(prompt.rows.start - first_row(step, entry) + part.start as usize, prompt.from);
            assert!(!prompt.rows.is_empty() && prompt.rows.end <= first_row(step, entry) + part.tokens.len());
            assert_eq!(self.prompt_rows[request], prompt.from);
            self.prompt_rows[request] += prompt.rows.len();
            assert!(self.prompt_rows[request] < self.requests[request].prompt.len());
        }
    }

    fn complete(&mut self, sampled: &[(SeqId, u32)]) {
        let by_seq: HashMap<SeqId, u32> = sampled.iter().copied().collect();
        let context = self.scheduler.limits().context_tokens() as usize;
        for progress in self.scheduler.complete(sampled) {
            assert!(self.live.contains(&progress.seq), "progress of a cancelled choice");
            let choice = self.choices.get_mut(&progress.seq).expect("live");
            choice.output.extend(by_seq.get(&progress.seq));
            if let Some(reason) = progress.finished {
                let new = &self.requests[choice.request];
                let expected = alone(new, choice.index, context);
                assert_eq!((&choice.output, reason), (&expected.0, expected.1), "not what it produces alone");
                if new.prompt_logits && new.choices.len() == 1 {
                    assert_eq!(self.prompt_rows[choice.request], new.prompt.len() - 1, "prompt rows are missing");
                }
                self.live.remove(&progress.seq);
                self.finished += 1;
            }
        }
    }

    fn check(&self, step: &Step) {
        let limits = self.scheduler.limits();
        let plan = &step.plan;
        assert!(plan.num_tokens() <= limits.step_tokens() as usize, "the step's budget is broken");
        assert!(plan.num_tokens() > 0 && plan.seqs.len() <= usize::from(limits.max_seqs()));
        let all = plan.seqs.iter().filter(|p| p.logits == LogitsWanted::All);
        assert!(all.map(|p| p.tokens.len()).sum::<usize>() <= limits.prompt_rows() as usize, "too many prompt rows");
        let targets: HashSet<u32> = plan.copies.iter().map(|c| c.to).collect();
        assert_eq!(targets.len(), plan.copies.len(), "a block is the target of two copies");
        assert!(plan.copies.iter().all(|c| !targets.contains(&c.from)), "a block is source and target");
        let (mut written, mut read) = (HashSet::new(), HashMap::new());
        for part in &plan.seqs {
            assert!(!part.tokens.is_empty());
            let (start, end) = (part.start as usize, part.start as usize + part.tokens.len());
            assert!(part.blocks.len() * BLOCK_TOKENS >= end);
            for (at, block) in part.blocks.iter().enumerate() {
                assert!(*block < limits.kv_blocks(), "no such block");
                *read.entry(*block).or_insert(0) += 1;
                if at >= start / BLOCK_TOKENS {
                    assert!(written.insert(*block), "block {block} is written by two sequences");
                }
            }
        }
        assert!(written.iter().all(|block| read[block] == 1), "a block is written that another sequence reads");
        assert!(read.len() <= self.scheduler.pool().used());
        for started in &step.started {
            let new = &self.requests[self.choices[&started.seq].request];
            let cached = started.cached_tokens as usize;
            assert!(cached <= new.prompt.len() && (cached == 0 || !new.prompt_logits || new.choices.len() > 1));
        }
    }

    /// Steps until all have ended; the steps it took.
    fn finish(&mut self, ahead: bool) -> usize {
        let mut steps = 0;
        while !self.live.is_empty() {
            self.step(ahead, |_| {});
            steps += 1;
            assert!(steps < 20_000, "{} choices do not end", self.live.len());
        }
        self.step(ahead, |_| {});
        let pool = self.scheduler.pool();
        assert!(self.scheduler.is_idle());
        assert_eq!((pool.used(), pool.available()), (0, pool.capacity() as usize));
        steps
    }
}

fn first_row(step: &Step, entry: usize) -> usize {
    step.plan.seqs[..entry].iter().map(|p| p.logits.rows(p.tokens.len())).sum()
}

#[derive(Debug, Clone)]
enum Action {
    Add(NewRequest),
    Cancel(usize),
    CancelRequest(usize),
    Step {
        ahead: bool,
    },
    /// Whatever can happen while a step computes.
    StepAnd {
        ahead: bool,
        cancel: Option<usize>,
        gone: Option<usize>,
        add: Option<NewRequest>,
    },
}

/// Prompts that share beginnings: a run of one of two texts, and a tail of its own.
fn prompt() -> impl Strategy<Value = Vec<u32>> {
    let tail = prop_oneof![Just(vec![]), prop::collection::vec(8u32..12, 0..20)];
    (0u32..2, 0usize..90, tail).prop_map(|(text, len, tail)| {
        let shared = (0..len as u32).map(|i| 8 + (i * (3 + 2 * text)) % 50);
        shared.chain(tail).collect()
    })
}

fn new_request() -> impl Strategy<Value = NewRequest> {
    let resume = prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(8u32..64, 1..20)];
    let choices =
        prop_oneof![3 => prop::collection::vec(resume.clone(), 1..2), 1 => prop::collection::vec(resume, 2..6)];
    let priority = prop_oneof![Just(Priority::High), Just(Priority::Normal), Just(Priority::Low)];
    let flags = (prop_oneof![4 => Just(false), 1 => Just(true)], prop_oneof![3 => Just(""), 1 => Just("salt")]);
    (prompt(), choices, 0u32..60, 0u32..8, priority, flags).prop_map(
        |(prompt, choices, max_tokens, min_tokens, priority, (prompt_logits, salt))| NewRequest {
            choices,
            min_tokens,
            stop_ids: vec![STOP],
            priority,
            cache_salt: salt.to_owned(),
            prompt_logits,
            ..NewRequest::new(prompt, max_tokens)
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    let meanwhile = (
        any::<bool>(),
        prop::option::of(any::<usize>()),
        prop::option::weighted(0.2, any::<usize>()),
        prop::option::weighted(0.3, new_request()),
    );
    prop_oneof![
        3 => new_request().prop_map(Action::Add),
        1 => any::<usize>().prop_map(Action::Cancel),
        1 => any::<usize>().prop_map(Action::CancelRequest),
        6 => any::<bool>().prop_map(|ahead| Action::Step { ahead }),
        2 => meanwhile.prop_map(|(ahead, cancel, gone, add)| Action::StepAnd { ahead, cancel, gone, add }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn any_history_keeps_blocks_budget_and_tokens(
        actions in prop::collection::vec(action(), 1..160),
        step_tokens in 1u32..48, max_seqs in 1u16..8, waiting_max in 0u32..12, context in 2u32..120, kv in 16u32..200,
        prompt_rows in 1u32..40, ahead: bool,
    ) {
        let limits = EngineLimits::new(step_tokens, max_seqs, waiting_max, context, kv)?.with_prompt_rows(prompt_rows);
        let mut harness = Harness::new(limits);
        for action in actions {
            match action {
                Action::Add(new) => harness.add(new),
                Action::Cancel(nth) => harness.cancel(nth),
                Action::CancelRequest(nth) => harness.cancel_request(nth),
                Action::Step { ahead } => harness.step(ahead, |_| {}),
                Action::StepAnd { ahead, cancel, gone, add } => harness.step(ahead, |harness| {
                    cancel.into_iter().for_each(|nth| harness.cancel(nth));
                    gone.into_iter().for_each(|nth| harness.cancel_request(nth));
                    add.into_iter().for_each(|new| harness.add(new));
                }),
            }
        }
        harness.finish(ahead);
    }
}

fn harness(step_tokens: u32, max_seqs: u16, context: u32, kv: u32) -> Harness {
    Harness::new(EngineLimits::new(step_tokens, max_seqs, 64, context, kv).expect("workable"))
}

fn plain(prompt_len: u32, max_tokens: u32) -> NewRequest {
    NewRequest::new((0..prompt_len).collect(), max_tokens)
}

fn of_class(priority: Priority, first: u32) -> NewRequest {
    NewRequest { priority, ..NewRequest::new(vec![first; 4], 3) }
}

#[test]
fn a_long_prompt_is_prefilled_beside_decodes() {
    let mut harness = harness(32, 8, 512, 1024);
    harness.add(plain(10, 50));
    harness.step(false, |_| {});
    harness.add(plain(300, 4));
    for _ in 0..9 {
        let step = harness.scheduler.schedule(Draft::default()).expect("two sequences");
        assert_eq!(step.plan.seqs.iter().map(|s| s.tokens.len()).collect::<Vec<_>>(), [1, 31]);
        let sampled = [(step.samples[0].seq, 9)];
        assert_eq!(harness.scheduler.complete(&sampled).len(), 1);
    }
}

#[test]
fn the_youngest_is_preempted_and_finds_its_blocks_again_or_computes_them_anew() {
    // Five blocks: two sequences of two blocks each, until both need a third.
    let mut harness = harness(64, 4, 60, 80);
    harness.add(plain(17, 40));
    harness.step(false, |_| {});
    harness.add(NewRequest::new((30..47).collect(), 40));
    harness.finish(false);
    assert!(harness.scheduler.counts().preemptions >= 1);
    assert_eq!(harness.finished, 2);
}

#[test]
fn the_lowest_class_pays_with_its_blocks_first() {
    let mut harness = harness(64, 4, 64, 96);
    for (class, first) in [(Priority::Low, 1), (Priority::High, 20), (Priority::Normal, 40)] {
        harness.add(NewRequest { priority: class, ..NewRequest::new((first..first + 17).collect(), 40) });
    }
    harness.step(false, |_| {});
    assert_eq!((harness.scheduler.num_running(), harness.scheduler.num_waiting()), (2, 1));
    harness.step(false, |_| {});
    let step = harness.scheduler.schedule(Draft::default()).expect("two run");
    let classes: Vec<Priority> =
        step.samples.iter().map(|s| harness.requests[harness.choices[&s.seq].request].priority).collect();
    assert_eq!(classes, [Priority::High, Priority::Normal]);
}

#[test]
fn a_low_request_gets_its_turn_under_an_endless_load_of_high_ones() {
    let mut harness = harness(8, 1, 64, 64);
    harness.add(of_class(Priority::High, 1));
    harness.step(false, |_| {});
    harness.add(of_class(Priority::Low, 2));
    let low = *harness.live.last().expect("it waits");
    let mut arrivals = 0;
    while harness.live.contains(&low) {
        if harness.scheduler.num_waiting() < 8 {
            harness.add(of_class(Priority::High, arrivals));
            arrivals += 1;
        }
        harness.step(false, |_| {});
        assert!(arrivals < 1100, "the low one is starved");
    }
    assert!(arrivals > 900, "classes do not count for much: {arrivals}");
}

#[test]
fn a_prefix_is_found_again_and_leaves_one_token_to_compute() {
    let mut harness = harness(64, 4, 128, 512);
    harness.add(plain(48, 1));
    harness.finish(false);
    let cached = |harness: &mut Harness, new: NewRequest| {
        harness.add(new);
        let step = harness.scheduler.schedule(Draft::default()).expect("a sequence");
        let sampled = harness.compute(&step);
        harness.complete(&sampled);
        harness.finish(false);
        step.started[0].cached_tokens
    };
    assert_eq!(cached(&mut harness, plain(48, 1)), 32, "48 are cached, and one must be computed");
    assert_eq!(cached(&mut harness, plain(49, 1)), 48);
    assert_eq!(cached(&mut harness, plain(40, 1)), 32);
    assert_eq!(cached(&mut harness, NewRequest { cache_salt: "other".into(), ..plain(48, 1) }), 0);
    assert_eq!(cached(&mut harness, NewRequest { prompt_logits: true, ..plain(48, 1) }), 0);
    let counts = harness.scheduler.counts();
    assert_eq!((counts.prefix_queries, counts.prefix_hits), (48 + 48 + 49 + 40 + 48, 32 + 48 + 32));
}

#[test]
fn choices_compute_their_prompt_once_and_share_its_full_blocks() {
    let mut harness = harness(64, 8, 128, 512);
    harness.add(NewRequest { choices: vec![vec![]; 4], ..plain(40, 30) });
    let step = harness.scheduler.schedule(Draft::default()).expect("a sequence");
    assert_eq!((step.plan.num_tokens(), step.samples.len()), (40, 4));
    let sampled = harness.compute(&step);
    harness.complete(&sampled);
    assert_eq!((harness.scheduler.num_running(), harness.scheduler.pool().used()), (4, 3));
    let step = harness.scheduler.schedule(Draft::default()).expect("four sequences");
    assert_eq!((step.plan.seqs.len(), step.plan.copies.len()), (4, 3), "the last writer needs no copy");
    assert_eq!(harness.scheduler.pool().used(), 2 + 4);
    let sampled = harness.compute(&step);
    harness.complete(&sampled);
    harness.finish(true);
    assert_eq!(harness.finished, 4);
}

#[test]
fn more_choices_than_may_run_all_come_to_their_end() {
    let mut harness = harness(16, 3, 64, 96);
    harness.add(NewRequest { choices: vec![vec![]; 40], ..plain(20, 30) });
    harness.finish(false);
    assert_eq!(harness.finished, 40);
}

#[test]
fn a_draft_stands_unless_somebody_has_come() {
    let mut harness = harness(64, 4, 128, 512);
    harness.add(NewRequest { stop_ids: vec![], ..plain(10, 50) });
    harness.step(false, |_| {});
    harness.step(true, |_| {});
    assert!(!harness.draft.is_empty());
    harness.step(true, |harness| harness.add(plain(20, 50)));
    let draft = std::mem::take(&mut harness.draft);
    let step = harness.scheduler.schedule(draft).expect("two sequences");
    assert_eq!(step.plan.seqs.iter().map(|s| s.tokens.len()).collect::<Vec<_>>(), [1, 20]);
}

#[test]
fn only_a_prompt_is_computed_where_only_its_logits_are_wanted() {
    let mut harness = harness(8, 4, 64, 96);
    harness.add(NewRequest { prompt_logits: true, ..plain(20, 0) });
    assert_eq!((harness.finish(true), harness.finished, harness.prompt_rows[0]), (3, 1, 19));
    harness.add(plain(20, 0));
    assert!(harness.live.is_empty(), "nothing is to be done");
}

#[test]
fn the_queue_is_bounded_in_tokens_too() {
    let mut scheduler = Scheduler::new(EngineLimits::new(8, 1, 1000, 64, 64).expect("workable"), "");
    let taken = (0..100).take_while(|_| scheduler.add(&plain(30, 20)).is_ok()).count();
    assert_eq!(taken, 5, "four caches of 64 tokens hold five requests of 50");
    assert_eq!(scheduler.tokens_ahead(), 250);
    let refused = scheduler.add(&plain(30, 20));
    assert_eq!(refused, Err(AdmitError::QueueTokens { waiting: 250, more: 50, max: 256 }));
}

#[test]
fn a_resumed_choice_that_was_complete_ends_at_once() {
    let mut scheduler = Scheduler::new(EngineLimits::new(8, 2, 2, 64, 64).expect("workable"), "");
    let base = NewRequest { choices: vec![vec![2, 3]], stop_ids: vec![3], ..NewRequest::new(vec![1], 9) };
    let mut at = |new: NewRequest| scheduler.add(&new).expect("fits")[0];
    assert_eq!(at(base.clone()), Admission::Finished(FinishReason::Stop));
    let full = NewRequest { max_tokens: 2, stop_ids: vec![], ..base.clone() };
    assert_eq!(at(full), Admission::Finished(FinishReason::Length));
    assert!(matches!(at(NewRequest { min_tokens: 2, ..base }), Admission::Queued(_)));
}

#[test]
fn a_choice_that_filled_the_context_does_not_keep_the_others_from_being_resumed() {
    let mut scheduler = Scheduler::new(EngineLimits::new(8, 2, 2, 64, 64).expect("workable"), "");
    let context = 8 * 16;
    let full = vec![2; context - 1];
    let new = NewRequest { choices: vec![full, vec![2]], ..NewRequest::new(vec![1], context as u32 - 1) };
    let admissions = scheduler.add(&new).expect("the second one fits");
    assert!(matches!(admissions[..], [Admission::Finished(FinishReason::Length), Admission::Queued(_)]));
}
