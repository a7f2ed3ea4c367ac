//! Self-attention: q, k and v column-parallel by heads, the output product row-parallel by heads.
//!
//! Not here: the KV cache's blocks (the caller's) and norms. Invariant: a rank computes its query heads only and holds
//! the KV heads that those read; ranks that share a KV head compute the same bits for it.

use std::sync::Mutex;

use candle_core::Tensor;
use kernels::{KvLayer, RotaryStyle};
use protocol::{Plan, Rank, ReductionTree};

use super::{ColumnParallel, LoadError, Loader, Point, RowParallel, Step, StepError, Tap};
use crate::planner::head_cols;
use crate::spec::ModelSpec;

/// One layer's self-attention.
#[derive(Debug)]
pub struct Attention {
    layer: usize,
    q: ColumnParallel,
    k: ColumnParallel,
    v: ColumnParallel,
    o: RowParallel,
    head_dim: usize,
    /// Local KV head of each local query head.
    kv_head_of: Vec<usize>,
    num_kv_heads: usize,
    scale: f32,
}

impl Attention {
    /// Loads the four products under `name`.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(
        loader: &mut Loader<'_>,
        name: &str,
        layer: usize,
        spec: &ModelSpec,
        plan: &Plan,
        rank: Rank,
        tree: &ReductionTree,
    ) -> Result<Self, LoadError> {
        let cut = &plan.ranks[rank.index()].cut;
        let own = head_cols(spec, cut.head_atoms);
        let group = spec.heads_per_kv_head();
        Ok(Self {
            layer,
            q: ColumnParallel::load(loader, &format!("{name}.q_proj"))?,
            k: ColumnParallel::load(loader, &format!("{name}.k_proj"))?,
            v: ColumnParallel::load(loader, &format!("{name}.v_proj"))?,
            o: RowParallel::load(loader, &format!("{name}.o_proj"), rank, tree.clone(), own, |run| {
                head_cols(spec, run)
            })?,
            head_dim: spec.head_dim as usize,
            kv_head_of: cut.heads.range().map(|h| h / group as usize - cut.kv_heads.range().start).collect(),
            num_kv_heads: cut.kv_heads.range().len(),
            #[expect(clippy::cast_possible_truncation, reason = "scores are f32")]
            scale: f64::from(spec.head_dim).powf(-0.5) as f32,
        })
    }

    /// `x` `[tokens, hidden]` → `[tokens, hidden]`, all-reduced; writes the rows' keys and values to `kv`.
    ///
    /// # Errors
    /// [`StepError`].
    pub fn forward(&self, step: &mut Step<'_>, kv: &Mutex<KvLayer>, x: &Tensor) -> Result<Tensor, StepError> {
        let tokens = x.dim(0)?;
        let (heads, kv_heads) = (self.kv_head_of.len(), self.num_kv_heads);
        let q = self.q.forward(step.pool, x)?;
        let k = self.k.forward(step.pool, x)?;
        let v = self.v.forward(step.pool, x)?;
        step.see(Point::Layer(self.layer, Tap::Query), &q);
        step.see(Point::Layer(self.layer, Tap::Key), &k);
        step.see(Point::Layer(self.layer, Tap::Value), &v);
        // A rank without heads takes part in the exchange alone.
        let heads_out = if heads == 0 {
            q
        } else {
            let rotate = |x: Tensor, heads: usize| -> Result<Tensor, StepError> {
                let x = x.reshape((tokens, heads, self.head_dim))?;
                Ok(kernels::ops::rotary(RotaryStyle::Interleaved, &x, step.cos, step.sin)?)
            };
            let (q, k) = (rotate(q, heads)?, rotate(k, kv_heads)?);
            let v = v.reshape((tokens, kv_heads, self.head_dim))?;
            step.see(Point::Layer(self.layer, Tap::QueryRotated), &q);
            step.see(Point::Layer(self.layer, Tap::KeyRotated), &k);
            kernels::ops::attention(kv, step.pool, step.seqs, (&q, &k, &v), &self.kv_head_of, self.scale)?
        };
        self.o.forward(step, &heads_out)
    }
}
