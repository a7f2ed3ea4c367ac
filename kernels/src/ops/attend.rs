//! Attention as a custom op: it writes the step's keys and values, then attends.

use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::{dims, expect_dims, floats, refused};
use crate::{AttnSeq, KernelError, KvLayer, Pool};

/// Puts `k` and `v` `[tokens, kv_heads, head_dim]` into the cache and attends with `q` `[tokens, heads, head_dim]` →
/// `[tokens, heads · head_dim]`. `kv_head_of` `[heads]` names each query head's KV head.
///
/// The lock is held for the call; a rank has one caller, so it never waits.
///
/// # Errors
/// Shapes or sequences that do not fit the cache ([`KernelError`]; the cache is then as it was); operands that are not
/// f32, contiguous and on the CPU.
pub fn attention(
    kv: &Mutex<KvLayer>,
    pool: &Pool,
    seqs: &[AttnSeq<'_>],
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    kv_head_of: &[usize],
    scale: f32,
) -> Result<Tensor> {
    let [tokens, heads, head_dim] = dims("attention", "q", q, [None, Some(kv_head_of.len()), None])?;
    let [_, kv_heads, _] = dims("attention", "k", k, [Some(tokens), None, Some(head_dim)])?;
    expect_dims("attention", "v", v, &[tokens, kv_heads, head_dim])?;
    q.apply_op3_no_bwd(k, v, &Attend { kv, pool, seqs, kv_head_of, scale, out: (tokens, heads * head_dim) })
}

/// Copies KV blocks `(from, to)`, one after the other. The lock as in [`attention`].
///
/// # Errors
/// Blocks that the cache does not have ([`KernelError`]); those before them have been copied then.
pub fn copy_blocks(kv: &Mutex<KvLayer>, copies: &[(u32, u32)]) -> Result<()> {
    let mut kv = kv.lock().map_err(|_| refused(KernelError::KvPoisoned { op: "kv_copy" }))?;
    copies.iter().try_for_each(|(from, to)| kv.copy_block(*from, *to)).map_err(refused)
}

struct Attend<'a> {
    kv: &'a Mutex<KvLayer>,
    pool: &'a Pool,
    seqs: &'a [AttnSeq<'a>],
    kv_head_of: &'a [usize],
    scale: f32,
    out: (usize, usize),
}

impl CustomOp3 for Attend<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        lq: &Layout,
        k: &CpuStorage,
        lk: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let q = floats("attention", "q", q, lq)?;
        let (k, v) = (floats("attention", "k", k, lk)?, floats("attention", "v", v, lv)?);
        let mut kv = self.kv.lock().map_err(|_| refused(KernelError::KvPoisoned { op: "attention" }))?;
        kv.write(self.seqs, k, v).map_err(refused)?;
        let mut out = vec![0.0; self.out.0 * self.out.1];
        crate::attention(self.pool, &kv, self.seqs, q, self.kv_head_of, self.scale, &mut out).map_err(refused)?;
        Ok((CpuStorage::F32(out), Shape::from(self.out)))
    }
}
