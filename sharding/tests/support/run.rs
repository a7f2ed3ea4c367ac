//! Runs a whole replica in one process: a thread a rank, the test's own thread as rank 0.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use candle_core::Tensor;
use kernels::Pool;
use protocol::step::{LogitsWanted, StepPlan, StepSeq};
use protocol::{Dtype, NodeId, Plan, Rank, SeqId, WorldSize};
use sharding::layers::{Glm4Text, Logits, Observer, Sight, Unobserved};
use sharding::picture::PromptPositions;
use sharding::planner::{Shares, cuts};
use sharding::{ModelSpec, NodeCapacity, PlanRequest, plan};

use super::golden::argmax;
use super::group::ThreadGroup;
use super::spec_of;

/// What to run and how.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) dir: PathBuf,
    pub(crate) spec: ModelSpec,
    pub(crate) dtype: Dtype,
    pub(crate) stored_f32: bool,
    /// One a rank.
    pub(crate) shares: Vec<u32>,
    pub(crate) threads: usize,
    pub(crate) kv_tokens: u32,
}

impl Setup {
    /// A checkpoint as it is, cut evenly over `world` ranks.
    pub(crate) fn new(dir: &Path, world: u16) -> Self {
        let spec = spec_of(dir.join("config.json"));
        let stored_f32 = sharding::Checkpoint::open(dir).expect("opens").stored_f32(&spec);
        let shares = vec![1; usize::from(world)];
        Self { dir: dir.to_owned(), spec, dtype: Dtype::F32, stored_f32, shares, threads: 1, kv_tokens: 4096 }
    }

    pub(crate) fn world(&self) -> WorldSize {
        WorldSize::new(u16::try_from(self.shares.len()).expect("small")).expect("in range")
    }

    pub(crate) fn plan(&self) -> Plan {
        let node = NodeCapacity { node: NodeId::new("here").expect("a label"), memory_free: 1 << 40 };
        let request = PlanRequest {
            world_size: self.world(),
            dtype: self.dtype,
            stored_f32: self.stored_f32,
            kv_tokens: Some(self.kv_tokens),
            context_tokens: None,
            step_tokens: 512,
            max_seqs: 32,
            nodes: &[node],
        };
        let mut plan = plan(&self.spec, &request).expect("fits");
        let shares = Shares::new(self.shares.clone()).expect("somebody has a share");
        for (rank, cut) in plan.ranks.iter_mut().zip(cuts(&self.spec, &shares)) {
            rank.cut = cut;
        }
        plan
    }

    pub(crate) fn load(&self, rank: Rank) -> Glm4Text {
        let threads = NonZeroUsize::new(self.threads).expect("not 0");
        let pool = Pool::new(threads).expect("threads start");
        Glm4Text::load(&self.dir, &self.spec, &self.plan(), rank, self.dtype, pool, &mut |_, _| ())
            .unwrap_or_else(|e| panic!("{}: {e}", self.dir.display()))
    }

    /// Runs `body` as rank 0 with all other ranks following its steps.
    pub(crate) fn run<T>(&self, body: impl FnOnce(&mut Lead) -> T) -> T {
        let mut groups = ThreadGroup::group(self.world()).into_iter();
        let group = groups.next().expect("rank 0");
        std::thread::scope(|scope| {
            let mut followers = Vec::new();
            for (mut group, rank) in groups.zip(self.world().ranks().skip(1)) {
                let (send, plans) = mpsc::sync_channel::<(StepPlan, Vec<Look>)>(1);
                followers.push(send);
                scope.spawn(move || {
                    let mut model = self.load(rank);
                    while let Ok((plan, looks)) = plans.recv() {
                        let sights = sights(&plan, &looks);
                        let logits = model.step_observed(&mut group, &plan, &sights, &mut Unobserved).expect("a step");
                        assert_eq!(logits, None, "logits come out on rank 0 alone");
                    }
                });
            }
            let kv_blocks = self.kv_tokens / 16;
            body(&mut Lead { model: self.load(Rank(0)), group, followers, step: 0, kv_blocks, looks: Vec::new() })
        })
    }
}

/// Rank 0.
pub(crate) struct Lead {
    model: Glm4Text,
    group: ThreadGroup,
    followers: Vec<mpsc::SyncSender<(StepPlan, Vec<Look>)>>,
    step: u64,
    kv_blocks: u32,
    /// What sequences see, in every step that they are in.
    pub(crate) looks: Vec<Look>,
}

/// The pictures of one sequence.
#[derive(Clone)]
pub(crate) struct Look {
    pub(crate) seq: SeqId,
    pub(crate) positions: PromptPositions,
    pub(crate) embeddings: Vec<Tensor>,
}

/// What the sequences of a step see.
fn sights<'a>(plan: &StepPlan, looks: &'a [Look]) -> Vec<Sight<'a>> {
    let look = |(index, seq): (usize, &StepSeq)| {
        let look = looks.iter().find(|look| look.seq == seq.seq)?;
        Some(Sight { index, positions: &look.positions, embeddings: &look.embeddings })
    };
    plan.seqs.iter().enumerate().filter_map(look).collect()
}

impl Lead {
    /// This rank's model.
    pub(crate) fn model(&self) -> &Glm4Text {
        &self.model
    }

    /// One forward pass of every rank.
    pub(crate) fn step(&mut self, seqs: Vec<StepSeq>) -> Rows {
        self.step_observed(seqs, &mut Unobserved)
    }

    pub(crate) fn step_observed(&mut self, seqs: Vec<StepSeq>, observer: &mut dyn Observer) -> Rows {
        Rows::of(&self.logits(seqs, observer))
    }

    /// As [`Self::step`], of sequences that do not want whole rows.
    pub(crate) fn logits(&mut self, seqs: Vec<StepSeq>, observer: &mut dyn Observer) -> Logits {
        self.step += 1;
        let plan = StepPlan { seqs, ..StepPlan::last(self.step) };
        for follower in &self.followers {
            follower.send((plan.clone(), self.looks.clone())).expect("the rank runs");
        }
        let sights = sights(&plan, &self.looks);
        let logits = self.model.step_observed(&mut self.group, &plan, &sights, observer).expect("a step");
        logits.expect("rank 0 has the logits")
    }

    /// KV blocks of the `index`-th of sequences of at most `tokens` tokens: neither adjacent nor in order.
    pub(crate) fn blocks(&self, index: usize, tokens: usize) -> Vec<u32> {
        let each = u32::try_from(tokens.div_ceil(16)).expect("small");
        let first = u32::try_from(index).expect("small") * each;
        // 7919 is prime and no divisor of the number of blocks, so this is a permutation of them.
        assert!(first + each <= self.kv_blocks && !self.kv_blocks.is_multiple_of(7919));
        (first..first + each).map(|b| (b * 7919) % self.kv_blocks).collect()
    }

    /// Greedy continuations of all prompts in one batch, and every row of logits that was sampled from. `penalty` is
    /// taken from a logit for each time its id is in the output already.
    pub(crate) fn greedy(&mut self, prompts: &[Vec<u32>], run: &Greedy<'_>) -> Vec<Answer> {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0) + run.tokens_max;
        let mut answers: Vec<Answer> = prompts.iter().map(|_| Answer::default()).collect();
        let mut live: Vec<usize> = (0..prompts.len()).collect();
        let mut seqs: Vec<StepSeq> = Vec::new();
        for (i, prompt) in prompts.iter().enumerate() {
            let blocks = self.blocks(i, longest);
            let last = prompt.len().saturating_sub(1) / run.chunk * run.chunk;
            for start in (0..last).step_by(run.chunk) {
                let tokens = prompt[start..start + run.chunk].to_vec();
                let none = self.step(vec![seq(i, start, tokens, &blocks, false)]);
                assert!(none.rows.is_empty());
            }
            seqs.push(seq(i, last, prompt[last..].to_vec(), &blocks, true));
        }
        while !live.is_empty() {
            let logits = self.step(seqs.clone());
            let mut next = Vec::new();
            let mut still = Vec::new();
            for ((i, row), seq) in live.iter().zip(logits.iter()).zip(&seqs) {
                let answer = &mut answers[*i];
                let id = answer.sample(row, run.penalty);
                if !run.stop.contains(&id) && answer.ids.len() < run.tokens_max {
                    let start = seq.start + u32::try_from(seq.tokens.len()).expect("small");
                    next.push(StepSeq { start, tokens: vec![id], ..seq.clone() });
                    still.push(*i);
                }
            }
            (seqs, live) = (next, still);
        }
        answers
    }
}

/// Whole rows of logits.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rows {
    /// `[rows, vocab]`.
    pub(crate) rows: Vec<f32>,
    vocab: usize,
}

impl Rows {
    fn of(logits: &Logits) -> Self {
        let rows: Vec<&[f32]> = logits.rows.iter().map(|row| row.whole().expect("whole rows were wanted")).collect();
        Self { rows: rows.concat(), vocab: rows.first().map_or(1, |row| row.len()) }
    }

    /// One row after the other.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.rows.chunks_exact(self.vocab)
    }
}

/// How to continue.
pub(crate) struct Greedy<'a> {
    pub(crate) tokens_max: usize,
    pub(crate) stop: &'a [u32],
    pub(crate) penalty: f32,
    /// Prompt tokens a step, before the last ones.
    pub(crate) chunk: usize,
}

impl<'a> Greedy<'a> {
    pub(crate) fn new(tokens_max: usize, stop: &'a [u32]) -> Self {
        Self { tokens_max, stop, penalty: 0.0, chunk: usize::MAX / 2 }
    }
}

/// A continuation.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) ids: Vec<u32>,
    /// `[ids, vocab]`, before penalties.
    pub(crate) logits: Vec<Vec<f32>>,
}

impl Answer {
    fn sample(&mut self, row: &[f32], penalty: f32) -> u32 {
        let mut scores = row.to_vec();
        for id in &self.ids {
            scores[*id as usize] -= penalty;
        }
        let id = argmax(&scores);
        self.ids.push(id);
        self.logits.push(row.to_vec());
        id
    }

    /// Every bit of every logit.
    pub(crate) fn bits(&self) -> Vec<Vec<u32>> {
        self.logits.iter().map(|row| row.iter().map(|x| x.to_bits()).collect()).collect()
    }
}

/// A sequence's part of a step.
pub(crate) fn seq(id: usize, start: usize, tokens: Vec<u32>, blocks: &[u32], wants_logits: bool) -> StepSeq {
    let start = u32::try_from(start).expect("small");
    let logits = if wants_logits { LogitsWanted::Last } else { LogitsWanted::None };
    StepSeq { seq: SeqId(id as u64), start, tokens, blocks: blocks.to_vec(), pictures: Vec::new(), logits }
}

/// A prompt as one-token sequences that share their blocks: a step writes all keys and values before it attends, so
/// this gives the logits after every token at once.
pub(crate) fn every_row(prompt: &[u32], blocks: &[u32]) -> Vec<StepSeq> {
    prompt.iter().enumerate().map(|(i, id)| seq(0, i, vec![*id], blocks, true)).collect()
}
