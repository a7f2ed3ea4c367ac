//! Causal attention over a paged KV cache, several query heads to a KV head.
//!
//! A row's positions are taken in order from 0, block by block, in three passes: scores, softmax, values. Invariant:
//! what a (row, head) gives depends on its query, its position and the cached rows up to it alone; slots after its
//! position are never multiplied, so what a freed block still holds cannot leak in.

mod kv;
mod picture;
mod softmax;
mod zeroed;

pub use kv::{AttnSeq, BLOCK_TOKENS, KvLayer};
pub use picture::picture_attention;

use crate::Pool;
use crate::disjoint::Disjoint;
use crate::error::{KernelError, expect_len};
use crate::linear::micro::{Accs, ROWS_MAX, Rows, Tiles, product};
use crate::scratch;
use crate::simd::{F32x16, Kernel, LANES, Simd, as_floats};

/// `out[row, head] = softmax(scale · q · Kᵀ) · V` over positions `0..=position of the row`: `q` and `out` `[tokens, heads,
/// head_dim]`; `kv_head_of` `[heads]` names each query head's KV head in `kv`. The new rows' keys and values must have
/// been written ([`KvLayer::write`]).
///
/// # Errors
/// [`KernelError::Rows`], [`KernelError::Blocks`], [`KernelError::BlockIndex`], [`KernelError::KvHead`],
/// [`KernelError::Shape`].
pub fn attention(
    pool: &Pool,
    kv: &KvLayer,
    seqs: &[AttnSeq<'_>],
    q: &[f32],
    kv_head_of: &[usize],
    scale: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let tokens = kv.check("attention", seqs)?;
    let (heads, head_dim) = (kv_head_of.len(), kv.head_dim());
    expect_len("attention", "q", q.len(), &[tokens, heads, head_dim])?;
    expect_len("attention", "out", out.len(), &[tokens, heads, head_dim])?;
    if let Some((head, kv_head)) = kv_head_of.iter().enumerate().find(|(_, k)| **k >= kv.kv_heads()) {
        return Err(KernelError::KvHead { head, kv_head: *kv_head, kv_heads: kv.kv_heads() });
    }
    let out = Disjoint::new(out);
    let scored = seqs.iter().map(|s| s.rows.len() as u64 * (s.start + s.rows.len()) as u64).sum::<u64>();
    let pieces = pool.pieces(scored * 2 * (heads * head_dim) as u64).min(tokens * heads).max(1);
    let job = Job { pool, kv, q, kv_head_of, scale, out };
    pool.run(pieces, |piece| {
        // A piece takes every `pieces`-th row-and-group: late rows of a prompt attend to more, so runs would be uneven.
        let mut turn = 0;
        for seq in seqs {
            for (i, row) in seq.rows.clone().enumerate() {
                let mut head = 0;
                while head < heads {
                    let count = job.group_len(head);
                    if turn % pieces == piece {
                        job.group(seq, row, seq.start + i + 1, head, count);
                    }
                    turn += 1;
                    head += count;
                }
            }
        }
    });
    Ok(())
}

struct Job<'a> {
    pool: &'a Pool,
    kv: &'a KvLayer,
    q: &'a [f32],
    kv_head_of: &'a [usize],
    scale: f32,
    out: Disjoint<'a, f32>,
}

impl Job<'_> {
    /// How many heads from `head` on share a KV head and fit one register block.
    fn group_len(&self, head: usize) -> usize {
        let shared = self.kv_head_of[head..].iter().take_while(|k| **k == self.kv_head_of[head]).count();
        shared.min(ROWS_MAX)
    }

    /// `count` heads of one row over its first `positions` positions.
    fn group(&self, seq: &AttnSeq<'_>, row: usize, positions: usize, head: usize, count: usize) {
        let head_dim = self.kv.head_dim();
        let at = (row * self.kv_head_of.len() + head) * head_dim;
        // SAFETY: each (row, head) has a range of its own, and is in one group.
        let out = unsafe { self.out.range(at, count * head_dim) };
        let blocks = &seq.blocks[..positions.div_ceil(BLOCK_TOKENS)];
        scratch::with(count * (blocks.len() + self.kv.value_tiles()), |lanes| {
            let (scores, sums) = lanes.split_at_mut(count * blocks.len());
            self.pool.isa().run(Heads {
                kv: self.kv,
                blocks,
                positions,
                kv_head: self.kv_head_of[head],
                count,
                scale: self.scale,
                q: &self.q[at..][..count * head_dim],
                scores,
                sums,
                out,
            });
        });
    }
}

/// Query heads of one row that share a KV head.
struct Heads<'a> {
    kv: &'a KvLayer,
    /// Blocks that hold the positions; the last may be full in part.
    blocks: &'a [u32],
    positions: usize,
    kv_head: usize,
    count: usize,
    scale: f32,
    /// `[count, head_dim]`.
    q: &'a [f32],
    /// Room for `[count, blocks]` groups of 16 positions.
    scores: &'a mut [F32x16],
    /// Room for `[count, value_tiles]`.
    sums: &'a mut [F32x16],
    /// `[count, head_dim]`.
    out: &'a mut [f32],
}

impl Kernel for Heads<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let head_dim = self.kv.head_dim();
        let (count, num_blocks, tiles) = (self.count, self.blocks.len(), self.kv.value_tiles());
        if head_dim == 0 {
            return;
        }
        assert!(count <= ROWS_MAX && self.q.len() == count * head_dim && self.out.len() == count * head_dim);
        assert!(self.scores.len() == count * num_blocks && self.sums.len() == count * tiles);
        for (i, block) in self.blocks.iter().enumerate() {
            let keys = self.kv.keys_of(*block as usize, self.kv_head);
            // SAFETY: `keys` is one tile of head_dim; q has `count` rows of head_dim and scores `count` rows of
            // num_blocks (asserted); scores are borrowed mutably.
            unsafe {
                let q = Rows { start: self.q.as_ptr(), row: head_dim, step: 1 };
                let w = Tiles { start: keys.as_ptr(), tile: head_dim };
                let acc = Accs { start: self.scores.as_mut_ptr().add(i), row: num_blocks };
                product(s, (count, 1, head_dim), q, w, acc, true);
            }
        }
        let mut totals = [0.0; ROWS_MAX];
        for (total, scores) in totals.iter_mut().zip(self.scores.chunks_exact_mut(num_blocks)) {
            *total = softmax::weigh(s, scores, self.positions, self.scale);
        }
        for (i, block) in self.blocks.iter().enumerate() {
            let values = self.kv.values_of(*block as usize, self.kv_head);
            let slots = BLOCK_TOKENS.min(self.positions - i * BLOCK_TOKENS);
            // SAFETY: `values` is `tiles` tiles of 16 slots; scores have `count` rows of `16 * num_blocks` f32, sums
            // `count` rows of `tiles` (asserted); sums are borrowed mutably, and the first block makes them.
            unsafe {
                let weights = self.scores.as_ptr().cast::<f32>().add(i * BLOCK_TOKENS);
                let weights = Rows { start: weights, row: num_blocks * BLOCK_TOKENS, step: 1 };
                let w = Tiles { start: values.as_ptr(), tile: BLOCK_TOKENS };
                let acc = Accs { start: self.sums.as_mut_ptr(), row: tiles };
                product(s, (count, tiles, slots), weights, w, acc, i == 0);
            }
        }
        for ((out, sums), total) in self.out.chunks_exact_mut(head_dim).zip(self.sums.chunks_exact(tiles)).zip(totals) {
            for (out, sum) in out.iter_mut().zip(&as_floats(sums)[..head_dim]) {
                *out = sum / total;
            }
        }
    }
}

// The lanes of a block's scores are its slots.
const _: () = assert!(BLOCK_TOKENS == LANES);
