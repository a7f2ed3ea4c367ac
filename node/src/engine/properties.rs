//! Properties of the scheduler over random arrivals, cancellations and lengths, held against a plain model of what
//! every rank's cache contains.

use std::collections::{BTreeMap, HashMap, HashSet};

use kernels::BLOCK_TOKENS;
use proptest::prelude::*;
use protocol::SeqId;
use protocol::generate::FinishReason;
use protocol::step::{LogitsWanted, StepPlan};

use super::*;

const STOP: u32 = 7;

/// The token a model gives after `context`: depends on all of it, and is [`STOP`] now and then.
fn model(context: &[u32]) -> u32 {
    context.iter().fold(17u32, |h, t| h.wrapping_mul(31).wrapping_add(*t)) >> 3 & 63
}

/// What one sequence alone would produce.
fn alone(new: &NewSequence, context_tokens: usize) -> (Vec<u32>, FinishReason) {
    let mut tokens = [new.prompt.clone(), new.resume.clone()].concat();
    let mut output = new.resume.clone();
    loop {
        let id = model(&tokens);
        tokens.push(id);
        output.push(id);
        if output.len() > new.min_tokens as usize && new.stop_ids.contains(&id) {
            return (output, FinishReason::Stop);
        }
        if output.len() >= new.max_tokens as usize || tokens.len() >= context_tokens {
            return (output, FinishReason::Length);
        }
    }
}

/// A cache that remembers which token of which sequence lies where, and a sampler over it.
struct Harness {
    scheduler: Scheduler,
    cache: HashMap<(u32, usize), (SeqId, u32)>,
    live: BTreeMap<SeqId, (NewSequence, Vec<u32>)>,
    finished: usize,
}

impl Harness {
    fn new(limits: EngineLimits) -> Self {
        Self { scheduler: Scheduler::new(limits), cache: HashMap::new(), live: BTreeMap::new(), finished: 0 }
    }

    fn add(&mut self, new: NewSequence) {
        match self.scheduler.add(new.clone()) {
            Ok(Admission::Queued(seq)) => {
                let output = new.resume.clone();
                assert!(self.live.insert(seq, (new, output)).is_none(), "a sequence id was reused");
            }
            Ok(Admission::Finished(_)) => assert!(!new.resume.is_empty() || new.max_tokens == 0),
            Err(AdmitError::QueueFull { waiting, max }) => assert!(waiting >= max as usize),
            Err(AdmitError::TooLong { tokens, context_tokens }) => assert!(tokens + 1 > context_tokens as usize),
            Err(AdmitError::Empty) => assert!(new.prompt.is_empty()),
        }
    }

    /// Plans, checks, "computes" and completes one step.
    fn step(&mut self, cancel_in_flight: bool) {
        let Some(plan) = self.scheduler.schedule() else {
            assert!(self.live.is_empty(), "sequences are there and no step is planned");
            assert!(self.scheduler.is_idle());
            return;
        };
        self.check(&plan);
        let mut sampled = Vec::new();
        for seq in &plan.seqs {
            let (new, output) = &self.live[&seq.seq];
            let tokens = [new.prompt.as_slice(), output].concat();
            let start = seq.start as usize;
            assert_eq!(seq.tokens, tokens[start..start + seq.tokens.len()], "the step brings other tokens");
            for (i, token) in seq.tokens.iter().enumerate() {
                let at = start + i;
                self.cache.insert((seq.blocks[at / BLOCK_TOKENS], at % BLOCK_TOKENS), (seq.seq, *token));
            }
            if seq.logits != LogitsWanted::None {
                let end = start + seq.tokens.len();
                assert_eq!(end, tokens.len(), "logits are wanted before the last token is in");
                for (at, token) in tokens.iter().enumerate() {
                    let slot = (seq.blocks[at / BLOCK_TOKENS], at % BLOCK_TOKENS);
                    assert_eq!(self.cache.get(&slot), Some(&(seq.seq, *token)), "position {at} is not in the cache");
                }
                sampled.push((seq.seq, model(&tokens)));
            }
        }
        if cancel_in_flight {
            let victim = plan.seqs[0].seq;
            assert!(self.scheduler.cancel(victim));
            self.live.remove(&victim);
        }
        self.complete(&sampled);
    }

    fn complete(&mut self, sampled: &[(SeqId, u32)]) {
        let by_seq: HashMap<SeqId, u32> = sampled.iter().copied().collect();
        for progress in self.scheduler.complete(sampled) {
            let (_, output) = self.live.get_mut(&progress.seq).expect("progress of a cancelled sequence");
            output.push(by_seq[&progress.seq]);
            if let Some(reason) = progress.finished {
                let (new, output) = self.live.remove(&progress.seq).expect("it is live");
                let context = self.scheduler.limits().context_tokens() as usize;
                assert_eq!((output, reason), alone(&new, context), "not what it produces alone");
                self.finished += 1;
            }
        }
    }

    fn check(&self, plan: &StepPlan) {
        let limits = self.scheduler.limits();
        assert!(plan.num_tokens() <= limits.step_tokens() as usize, "the step's budget is broken");
        assert!(plan.num_tokens() > 0 && plan.seqs.len() <= usize::from(limits.max_seqs()));
        let mut owned = HashSet::new();
        for seq in &plan.seqs {
            assert!(!seq.tokens.is_empty());
            assert!(seq.blocks.len() * BLOCK_TOKENS >= seq.start as usize + seq.tokens.len());
            for block in &seq.blocks {
                assert!(*block < limits.kv_blocks(), "no such block");
                assert!(owned.insert(*block), "block {block} is in two sequences");
            }
        }
        assert!(owned.len() <= self.scheduler.pool().used());
        assert_eq!(self.scheduler.num_running() + self.scheduler.num_waiting(), self.live.len(), "a sequence is lost");
    }
}

#[derive(Debug, Clone)]
enum Action {
    Add(NewSequence),
    Cancel(usize),
    Step,
    StepAndCancel,
}

fn new_sequence() -> impl Strategy<Value = NewSequence> {
    let ids = |len| prop::collection::vec(8u32..64, len);
    (ids(0..90), prop_oneof![3 => ids(0..1), 1 => ids(1..20)], 0u32..60, 0u32..8).prop_map(
        |(prompt, resume, max_tokens, min_tokens)| NewSequence {
            prompt,
            resume,
            max_tokens,
            min_tokens,
            stop_ids: vec![STOP],
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => new_sequence().prop_map(Action::Add),
        1 => any::<usize>().prop_map(Action::Cancel),
        6 => Just(Action::Step),
        1 => Just(Action::StepAndCancel),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn any_history_keeps_blocks_budget_and_tokens(
        actions in prop::collection::vec(action(), 1..160),
        step_tokens in 1u32..48, max_seqs in 1u16..8, waiting_max in 0u32..12, context in 2u32..120, kv in 16u32..200,
    ) {
        let mut harness = Harness::new(EngineLimits::new(step_tokens, max_seqs, waiting_max, context, kv)?);
        for action in actions {
            match action {
                Action::Add(new) => harness.add(new),
                Action::Cancel(nth) => {
                    if let Some(seq) = harness.live.keys().copied().nth(nth % harness.live.len().max(1)) {
                        prop_assert!(harness.scheduler.cancel(seq));
                        harness.live.remove(&seq);
                    }
                }
                Action::Step => harness.step(false),
                Action::StepAndCancel if harness.live.is_empty() => {}
                Action::StepAndCancel => harness.step(true),
            }
        }
        // Progress: whatever is left ends within a bound that only recomputation can stretch.
        let mut steps = 0;
        while !harness.live.is_empty() {
            harness.step(false);
            steps += 1;
            prop_assert!(steps < 20_000, "{} sequences do not end", harness.live.len());
        }
        prop_assert!(harness.scheduler.is_idle());
        prop_assert_eq!(harness.scheduler.pool().used(), 0);
    }
}

fn plain(prompt_len: u32, max_tokens: u32) -> NewSequence {
    NewSequence { prompt: (0..prompt_len).collect(), resume: vec![], max_tokens, min_tokens: 0, stop_ids: vec![] }
}

#[test]
fn a_long_prompt_is_prefilled_beside_decodes() {
    let mut harness = Harness::new(EngineLimits::new(32, 8, 8, 512, 1024).expect("workable"));
    harness.add(plain(10, 50));
    harness.step(false);
    harness.add(plain(300, 4));
    for _ in 0..9 {
        let plan = harness.scheduler.schedule().expect("two sequences");
        assert_eq!(plan.seqs.iter().map(|s| s.tokens.len()).collect::<Vec<_>>(), [1, 31]);
        let sampled = [(plan.seqs[0].seq, 9)];
        assert_eq!(harness.scheduler.complete(&sampled).len(), 1);
    }
}

#[test]
fn the_youngest_is_preempted_and_recomputed() {
    // Five blocks: two sequences of two blocks each, until both need a third.
    let mut harness = Harness::new(EngineLimits::new(64, 4, 4, 60, 80).expect("workable"));
    harness.add(plain(17, 40));
    harness.step(false);
    harness.add(plain(17, 40));
    while !harness.live.is_empty() {
        harness.step(false);
    }
    assert!(harness.scheduler.preemptions() >= 1);
    assert_eq!(harness.finished, 2);
}

#[test]
fn a_resumed_sequence_that_was_complete_ends_at_once() {
    let mut scheduler = Scheduler::new(EngineLimits::new(8, 2, 2, 64, 64).expect("workable"));
    let base = NewSequence { prompt: vec![1], resume: vec![2, 3], max_tokens: 9, min_tokens: 0, stop_ids: vec![3] };
    let at = |s: &mut Scheduler, new: NewSequence| s.add(new).expect("fits");
    assert_eq!(at(&mut scheduler, base.clone()), Admission::Finished(FinishReason::Stop));
    let full = NewSequence { max_tokens: 2, stop_ids: vec![], ..base.clone() };
    assert_eq!(at(&mut scheduler, full), Admission::Finished(FinishReason::Length));
    assert!(matches!(at(&mut scheduler, NewSequence { min_tokens: 2, ..base }), Admission::Queued(_)));
}
