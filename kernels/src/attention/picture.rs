//! Full attention within one picture: every patch sees every patch, nothing is cached.
//!
//! The heads run one after the other: a head's keys, turned, and its values are packed into tiles once, then groups of
//! query rows pass over them. Memory beside the operands is one head's tiles and, per thread, the scores of one group:
//! never patches × patches. Invariant: a (patch, head) is the same three passes over positions in ascending order as
//! in the causal kernel, whatever the threads and the grouping of rows.

use super::softmax;
use crate::Pool;
use crate::disjoint::Disjoint;
use crate::error::{KernelError, expect_len};
use crate::linear::micro::{Accs, ROWS_MAX, Rows, Tiles, product};
use crate::rotary::turn;
use crate::scratch;
use crate::simd::{F32x16, Kernel, LANES, Simd, as_floats};

/// Query rows that share one pass over keys and values: enough that the pass is paid for by arithmetic.
const GROUP_ROWS: usize = 8 * ROWS_MAX;
/// Groups of sixteen positions whose keys, or values, stay in the first-level cache while all rows of a group meet them.
const VISIT_BLOCKS: usize = 4;

/// `out[patch, head] = softmax(scale · q · Kᵀ) · V` over all patches: `qkv` `[patches, 3, heads, head_dim]`, `out`
/// `[patches, heads, head_dim]`. Queries and keys are turned first: dimension i with i + head_dim / 2 by the angle of
/// `cos` and `sin` `[patches, head_dim / 2]`.
///
/// # Errors
/// [`KernelError::RotaryDims`] for an odd head; [`KernelError::Shape`].
pub fn picture_attention(
    pool: &Pool,
    qkv: &[f32],
    (heads, head_dim): (usize, usize),
    (cos, sin): (&[f32], &[f32]),
    scale: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    if !head_dim.is_multiple_of(2) {
        return Err(KernelError::RotaryDims { rot: head_dim, head_dim });
    }
    let width = heads.saturating_mul(head_dim);
    let patches = out.len().checked_div(width).unwrap_or(0);
    expect_len("picture_attention", "out", out.len(), &[patches, heads, head_dim])?;
    expect_len("picture_attention", "qkv", qkv.len(), &[patches, 3, heads, head_dim])?;
    if patches == 0 {
        return Ok(());
    }
    expect_len("picture_attention", "cos", cos.len(), &[patches, head_dim / 2])?;
    expect_len("picture_attention", "sin", sin.len(), &[patches, head_dim / 2])?;
    let blocks = patches.div_ceil(LANES);
    let tiles = head_dim.div_ceil(LANES);
    let mut keys = vec![F32x16::ZERO; blocks * head_dim];
    let mut values = vec![F32x16::ZERO; tiles * blocks * LANES];
    let source = Source { qkv, width, head_dim, cos, sin };
    let out = Disjoint::new(out);
    let groups = patches.div_ceil(GROUP_ROWS);
    let work = (2 * patches * head_dim) as u64 * patches as u64;
    let pieces = pool.pieces(work).min(groups);
    for head in 0..heads {
        source.pack(pool, head, &mut keys, &mut values);
        let job = Job { source, keys: &keys, values: &values, patches, scale, head, out };
        pool.run(pieces, |piece| {
            // Groups are alike, so runs of them are even.
            for group in piece * groups / pieces..(piece + 1) * groups / pieces {
                job.group(pool, group * GROUP_ROWS);
            }
        });
    }
    Ok(())
}

/// The fused product and the angles.
#[derive(Clone, Copy)]
struct Source<'a> {
    qkv: &'a [f32],
    /// `heads * head_dim`.
    width: usize,
    head_dim: usize,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Source<'_> {
    /// Query (0), key (1) or value (2) of a patch, `[head_dim]`.
    fn row(&self, patch: usize, which: usize, head: usize) -> &[f32] {
        &self.qkv[(3 * patch + which) * self.width + head * self.head_dim..][..self.head_dim]
    }

    /// Calls `put(dimension, value)` for every dimension of a turned query or key.
    #[inline(always)]
    fn turned(&self, patch: usize, which: usize, head: usize, mut put: impl FnMut(usize, f32)) {
        let half = self.head_dim / 2;
        let (low, high) = self.row(patch, which, head).split_at(half);
        let (cos, sin) = (&self.cos[patch * half..][..half], &self.sin[patch * half..][..half]);
        for i in 0..half {
            let [a, b] = turn([low[i], high[i]], cos[i], sin[i]);
            put(i, a);
            put(half + i, b);
        }
    }

    /// One head's `keys` `[blocks, head_dim]` groups of sixteen positions and `values` `[tiles, positions]` groups of sixteen
    /// dimensions. Positions past the last patch keep the zeros they came with.
    fn pack(&self, pool: &Pool, head: usize, keys: &mut [F32x16], values: &mut [F32x16]) {
        let patches = self.qkv.len() / (3 * self.width);
        let blocks = patches.div_ceil(LANES);
        let (keys, values) = (Disjoint::new(keys), Disjoint::new(values));
        let pieces = pool.pieces((2 * patches * self.head_dim) as u64).min(blocks);
        pool.run(pieces, |piece| {
            for block in piece * blocks / pieces..(piece + 1) * blocks / pieces {
                // SAFETY: each block has a range of its own, and is in one piece.
                let keys = unsafe { keys.range(block * self.head_dim, self.head_dim) };
                for slot in 0..LANES.min(patches - block * LANES) {
                    let patch = block * LANES + slot;
                    self.turned(patch, 1, head, |d, k| keys[d].0[slot] = k);
                    for (tile, v) in self.row(patch, 2, head).chunks(LANES).enumerate() {
                        // SAFETY: each (tile, patch) is one place, and each patch is in one block.
                        let to = unsafe { values.range(tile * blocks * LANES + patch, 1) };
                        to[0].0[..v.len()].copy_from_slice(v);
                    }
                }
            }
        });
    }
}

/// One head of a picture.
struct Job<'a> {
    source: Source<'a>,
    keys: &'a [F32x16],
    values: &'a [F32x16],
    patches: usize,
    scale: f32,
    head: usize,
    out: Disjoint<'a, f32>,
}

impl Job<'_> {
    /// Up to [`GROUP_ROWS`] query rows from `first` on.
    fn group(&self, pool: &Pool, first: usize) {
        let head_dim = self.source.head_dim;
        let (blocks, tiles) = (self.patches.div_ceil(LANES), head_dim.div_ceil(LANES));
        let rows = GROUP_ROWS.min(self.patches - first);
        scratch::with(rows * (tiles + blocks + tiles), |lanes| {
            let (queries, lanes) = lanes.split_at_mut(rows * tiles);
            for (i, query) in queries.chunks_exact_mut(tiles).enumerate() {
                self.source.turned(first + i, 0, self.head, |d, q| query[d / LANES].0[d % LANES] = q);
            }
            let (scores, sums) = lanes.split_at_mut(rows * blocks);
            let mut totals = [0.0; GROUP_ROWS];
            pool.isa().run(Group {
                queries,
                keys: self.keys,
                values: self.values,
                positions: self.patches,
                head_dim,
                scale: self.scale,
                scores,
                sums,
                totals: &mut totals[..rows],
            });
            for (i, (sums, total)) in sums.chunks_exact(tiles).zip(totals).enumerate() {
                let at = (first + i) * self.source.width + self.head * head_dim;
                // SAFETY: each (patch, head) has a range of its own, and is in one group.
                let out = unsafe { self.out.range(at, head_dim) };
                for (out, sum) in out.iter_mut().zip(as_floats(sums)) {
                    *out = sum / total;
                }
            }
        });
    }
}

/// Some query rows of one head against all its keys and values.
struct Group<'a> {
    /// `[rows, tiles]` groups of sixteen dimensions.
    queries: &'a [F32x16],
    /// `[blocks, head_dim]`.
    keys: &'a [F32x16],
    /// `[tiles, 16 · blocks]`.
    values: &'a [F32x16],
    positions: usize,
    head_dim: usize,
    scale: f32,
    /// Room for `[rows, blocks]`.
    scores: &'a mut [F32x16],
    /// Room for `[rows, tiles]`.
    sums: &'a mut [F32x16],
    /// Room for the rows' sums of weights.
    totals: &'a mut [f32],
}

impl Kernel for Group<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.totals.len();
        let (blocks, tiles) = (self.positions.div_ceil(LANES), self.head_dim.div_ceil(LANES));
        assert!(self.queries.len() == rows * tiles && self.sums.len() == rows * tiles);
        assert!(self.scores.len() == rows * blocks && self.keys.len() == blocks * self.head_dim);
        assert!(self.values.len() == tiles * blocks * LANES);
        let mut block = 0;
        while block < blocks {
            let visit = VISIT_BLOCKS.min(blocks - block);
            let mut row = 0;
            while row < rows {
                let height = ROWS_MAX.min(rows - row);
                // SAFETY: rows `row..row + height` and blocks `block..block + visit` lie inside what the asserts above
                // bound; a row of `queries` holds `16 · tiles ≥ head_dim` f32; `scores` is borrowed mutably.
                unsafe {
                    let q = self.queries.as_ptr().add(row * tiles).cast::<f32>();
                    let q = Rows { start: q, row: tiles * LANES, step: 1 };
                    let w = Tiles { start: self.keys.as_ptr().add(block * self.head_dim), tile: self.head_dim };
                    let acc = Accs { start: self.scores.as_mut_ptr().add(row * blocks + block), row: blocks };
                    product(s, (height, visit, self.head_dim), q, w, acc, true);
                }
                row += height;
            }
            block += visit;
        }
        for (total, scores) in self.totals.iter_mut().zip(self.scores.chunks_exact_mut(blocks)) {
            *total = softmax::weigh(s, scores, self.positions, self.scale);
        }
        let mut at = 0;
        while at < self.positions {
            let visit = (VISIT_BLOCKS * LANES).min(self.positions - at);
            let mut row = 0;
            while row < rows {
                let height = ROWS_MAX.min(rows - row);
                // SAFETY: as above; a row of `scores` holds `16 · blocks ≥ positions` f32, a tile of `values` as many
                // lanes; `sums` is borrowed mutably, and the first visit makes them.
                unsafe {
                    let weights = self.scores.as_ptr().add(row * blocks).cast::<f32>().add(at);
                    let weights = Rows { start: weights, row: blocks * LANES, step: 1 };
                    let w = Tiles { start: self.values.as_ptr().add(at), tile: blocks * LANES };
                    let acc = Accs { start: self.sums.as_mut_ptr().add(row * tiles), row: tiles };
                    product(s, (height, tiles, visit), weights, w, acc, at == 0);
                }
                row += height;
            }
            at += visit;
        }
    }
}
