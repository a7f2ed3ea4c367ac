//! The GLM-4 text model as one rank runs it, with the vision tower of Glm4v beside it.
//!
//! Not here: which sequences run and where their KV blocks lie (the step plan says), sampling. Invariant: a row's result
//! depends on its own sequence alone, not on the batch, the chunking of its prompt, the threads or the world size.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Mutex;

use candle_core::Tensor;
use kernels::{BLOCK_TOKENS, KvLayer, Pool};
use protocol::step::{BlockCopy, StepPlan};
use protocol::{AtomSpace, Dtype, Plan, Rank, ReductionTree};

use super::sight::Sights;
use super::step::{WantedRows, attn_seqs};
use super::{
    DecoderLayer, Group, LmHead, LoadError, Loader, Logits, Observer, Point, RmsNorm, Rope, Sight, Step, StepError,
    Unobserved, VisionTower, VocabParallelEmbedding,
};
use crate::checkpoint::{Checkpoint, Weights};
use crate::planner::{canary_block, check_plan, mlp_atoms};
use crate::spec::ModelSpec;

/// One rank's shard of a dense GLM text model, with its KV cache, and the whole vision tower where the model has one.
#[derive(Debug)]
pub struct Glm4Text {
    rank: Rank,
    world_size: u16,
    vocab_size: u32,
    embedding: VocabParallelEmbedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    lm_head: LmHead,
    rope: Rope,
    vision: Option<VisionTower>,
    /// One a layer, `kv_tokens / BLOCK_TOKENS` blocks each, and one for canaries. The lock is the custom ops' need: there is one caller.
    kv: Vec<Mutex<KvLayer>>,
    /// KV blocks a layer.
    blocks: usize,
    pool: Pool,
    bytes_read: u64,
    bytes_held: u64,
}

impl Glm4Text {
    /// Maps the checkpoint in `dir` and loads what `plan` gives `rank`; `progress` hears bytes read and bytes in all.
    ///
    /// # Errors
    /// [`LoadError`]: a checkpoint that does not fit `spec`, a plan that is not one of this model.
    pub fn load(
        dir: &Path,
        spec: &ModelSpec,
        plan: &Plan,
        rank: Rank,
        dtype: Dtype,
        pool: Pool,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, LoadError> {
        check_plan(spec, plan)?;
        let Some(own) = plan.ranks.get(rank.index()) else {
            return Err(LoadError::NoSuchRank { rank, ranks: plan.ranks.len() });
        };
        let checkpoint = Checkpoint::open(dir)?;
        checkpoint.check(spec)?;
        let loader = &mut Loader::new(Weights::map(checkpoint)?, spec, &own.cut, dtype, progress);
        let tree = |atoms: AtomSpace, runs: &[_]| {
            ReductionTree::new(atoms.atoms(), runs).expect("check_plan found that the runs cover the atoms")
        };
        let heads = tree(AtomSpace::new(spec.num_heads), &plan.head_runs());
        let mlp = tree(mlp_atoms(spec), &plan.mlp_runs());
        let prefix = spec.family.text_prefix();
        let embed = format!("{prefix}.embed_tokens");
        let embedding = VocabParallelEmbedding::load(loader, &embed, plan, rank, spec.hidden_size as usize)?;
        let layers = (0..spec.num_layers as usize)
            .map(|layer| DecoderLayer::load(loader, layer, spec, plan, rank, (&heads, &mlp)))
            .collect::<Result<Vec<_>, _>>()?;
        let norm = RmsNorm::load(loader, &format!("{prefix}.norm"), spec.rms_norm_eps)?;
        let lm_head = LmHead::load(loader, if spec.tie_word_embeddings { &embed } else { "lm_head" }, plan)?;
        let vision = spec.vision.as_ref().map(|vision| VisionTower::load(loader, vision, pool.clone())).transpose()?;
        let blocks = canary_block(plan) as usize + 1;
        let kv_layer = || Mutex::new(KvLayer::new(blocks, own.cut.kv_heads.range().len(), spec.head_dim as usize));
        Ok(Self {
            rank,
            world_size: plan.world_size.get(),
            vocab_size: spec.vocab_size,
            kv: layers.iter().map(|_| kv_layer()).collect(),
            embedding,
            layers,
            norm,
            lm_head,
            rope: Rope::new(&spec.rope),
            vision,
            blocks,
            pool,
            bytes_read: loader.bytes_read(),
            bytes_held: loader.bytes_held(),
        })
    }

    /// Bytes of the checkpoint that this rank read.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Bytes that its weights take in memory, without the KV cache.
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        self.bytes_held
    }

    /// The vision tower, where the model has one.
    #[must_use]
    pub fn vision(&self) -> Option<&VisionTower> {
        self.vision.as_ref()
    }

    /// Runs one forward pass; every rank of the group calls it with the same plan. The logits come out on rank 0.
    ///
    /// # Errors
    /// [`StepError`].
    pub fn step(&mut self, group: &mut dyn Group, plan: &StepPlan) -> Result<Option<Logits>, StepError> {
        self.step_observed(group, plan, &[], &mut Unobserved)
    }

    /// As [`Self::step`], with sequences that see pictures (`sights`, in the order of the plan) and somebody who looks on.
    ///
    /// # Errors
    /// [`StepError`].
    pub fn step_observed(
        &mut self,
        group: &mut dyn Group,
        plan: &StepPlan,
        sights: &[Sight<'_>],
        observer: &mut dyn Observer,
    ) -> Result<Option<Logits>, StepError> {
        self.check(group, plan)?;
        let sights = Sights::check(sights, plan, self.embedding.hidden())?;
        if plan.num_tokens() == 0 {
            return Ok(self.leads().then(Logits::default));
        }
        let copies: Vec<(u32, u32)> = plan.copies.iter().map(|c| (c.from, c.to)).collect();
        if !copies.is_empty() {
            self.kv.iter().try_for_each(|kv| kernels::ops::copy_blocks(kv, &copies))?;
        }
        let (cos, sin) = self.rope.angles(&sights.positions(plan))?;
        let seqs = attn_seqs(plan);
        let mut x = sights.embed(&self.embedding, group, plan)?;
        let step = &mut Step { pool: &self.pool, seqs: &seqs, cos: &cos, sin: &sin, group, observer };
        step.see(Point::Hidden(0), &x);
        for (i, (layer, kv)) in self.layers.iter().zip(&self.kv).enumerate() {
            x = layer.forward(step, kv, &x)?;
            step.see(Point::Hidden(i + 1), &x);
        }
        self.logits(step, &x, &WantedRows::of(plan))
    }

    /// Norm and LM head of the rows that want logits; no other row needs them.
    fn logits(&self, step: &mut Step<'_>, x: &Tensor, wanted: &WantedRows) -> Result<Option<Logits>, StepError> {
        if wanted.rows.is_empty() {
            return Ok(self.leads().then(Logits::default));
        }
        let x = x.index_select(&Tensor::new(wanted.rows.as_slice(), x.device())?, 0)?;
        let x = self.norm.forward(step.pool, &x)?;
        step.see(Point::Norm, &x);
        let rows = self.lm_head.forward(step.pool, step.group, &x, &wanted.wanted)?;
        Ok(self.leads().then_some(Logits { rows }))
    }

    fn leads(&self) -> bool {
        self.rank == Rank(0)
    }

    /// What would otherwise fail on one rank and leave the others waiting.
    fn check(&self, group: &dyn Group, plan: &StepPlan) -> Result<(), StepError> {
        let (rank, world) = (group.rank().0, group.world_size().get());
        if (rank, world) != (self.rank.0, self.world_size) {
            return Err(StepError::WrongGroup {
                step: plan.step,
                expected_rank: self.rank.0,
                expected_world: self.world_size,
                rank,
                world,
            });
        }
        let targets: HashSet<u32> = plan.copies.iter().map(|c| c.to).collect();
        let fits = |c: &BlockCopy| {
            c.from.max(c.to) < u32::try_from(self.blocks).unwrap_or(u32::MAX) && !targets.contains(&c.from)
        };
        let twice = plan.copies.len() > targets.len();
        if let Some(copy) = plan.copies.iter().find(|c| twice || !fits(c)) {
            let (step, BlockCopy { from, to }, blocks) = (plan.step, *copy, self.blocks);
            return Err(StepError::Copy { step, from, to, blocks });
        }
        for seq in &plan.seqs {
            if let Some(token) = seq.tokens.iter().find(|t| **t >= self.vocab_size) {
                return Err(StepError::Token {
                    step: plan.step,
                    seq: seq.seq.0,
                    token: *token,
                    vocab_size: self.vocab_size,
                });
            }
            let needed = (seq.start as usize + seq.tokens.len()).div_ceil(BLOCK_TOKENS);
            let fits = seq.blocks.get(..needed).is_some_and(|b| b.iter().all(|b| (*b as usize) < self.blocks));
            if !fits {
                let found = seq.blocks.iter().copied().take(8).collect();
                return Err(StepError::Blocks { step: plan.step, seq: seq.seq.0, needed, blocks: self.blocks, found });
            }
        }
        Ok(())
    }
}
