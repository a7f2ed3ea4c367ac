//! The one inner loop: `acc[m][n] += x[m][k] · w[n][k]` for a few rows m and a few tiles n of sixteen outputs each.
//!
//! Every product of this crate runs here: linear layers, attention scores, attention over values. Invariant: for each
//! output the products enter one accumulator in ascending k by fused multiply-add, whatever M, N and the instruction
//! set; an accumulator that is stored and loaded again between two calls keeps its bits.

use crate::simd::{Bf16x16, F32x16, Simd};

/// Most rows in one register block.
pub(crate) const ROWS_MAX: usize = 6;
/// Most tiles in one register block.
pub(crate) const TILES_MAX: usize = 8;

/// Sixteen weights that share one k.
pub(crate) trait TileRow: Copy + Send + Sync {
    fn load<S: Simd>(&self, s: S) -> S::F;
}

impl TileRow for F32x16 {
    #[inline(always)]
    fn load<S: Simd>(&self, s: S) -> S::F {
        s.load(&self.0)
    }
}

impl TileRow for Bf16x16 {
    #[inline(always)]
    fn load<S: Simd>(&self, s: S) -> S::F {
        s.load_bf16(&self.0)
    }
}

/// Rows of x: element k of row m stands at `start + m * row + k * step`.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) start: *const f32,
    pub(crate) row: usize,
    pub(crate) step: usize,
}

/// Accumulators: tile n of row m stands at `start + m * row + n`.
#[derive(Clone, Copy)]
pub(crate) struct Accs {
    pub(crate) start: *mut F32x16,
    pub(crate) row: usize,
}

/// Tiles: element k of tile n stands at `start + n * tile + k`.
#[derive(Clone, Copy)]
pub(crate) struct Tiles<W> {
    pub(crate) start: *const W,
    pub(crate) tile: usize,
}

/// Adds `k` products to each of `m × n` accumulators, or to zero where `fresh`.
///
/// # Safety
/// `1 ≤ m ≤ ROWS_MAX`. For every row below `m`, tile below `n` and k below `k`: the elements of `x` and `w` are readable;
/// those of `acc` writable, initialised, and not aliased by `x` or `w`.
#[inline(always)]
pub(crate) unsafe fn product<S: Simd, W: TileRow>(
    s: S,
    (m, n, k): (usize, usize, usize),
    x: Rows,
    w: Tiles<W>,
    acc: Accs,
    fresh: bool,
) {
    let mut at = 0;
    while at < n {
        let step = tiles_per_block::<S>(m, n - at);
        // SAFETY: tiles `at..at + step` are among the n; the rest is the caller's promise.
        unsafe {
            let w = Tiles { start: w.start.add(at * w.tile), tile: w.tile };
            let acc = Accs { start: acc.start.add(at), row: acc.row };
            match step {
                8 => block::<S, W, 1, 8>(s, k, x, w, acc, fresh),
                4 => rows::<S, W, 4>(s, m, k, x, w, acc, fresh),
                2 => rows::<S, W, 2>(s, m, k, x, w, acc, fresh),
                _ => rows::<S, W, 1>(s, m, k, x, w, acc, fresh),
            }
        }
        at += step;
    }
}

/// As many accumulators as the registers hold, so that the latency of one multiply-add is hidden by the others.
#[inline(always)]
fn tiles_per_block<S: Simd>(m: usize, left: usize) -> usize {
    match (S::WIDE, m) {
        (true, 1) if left >= 8 => 8,
        (true, _) if left >= 4 => 4,
        (false, 1) if left >= 4 => 4,
        (true, _) | (false, 1..=3) if left >= 2 => 2,
        _ => 1,
    }
}

/// # Safety
/// As [`product`].
#[inline(always)]
unsafe fn rows<S: Simd, W: TileRow, const N: usize>(
    s: S,
    m: usize,
    k: usize,
    x: Rows,
    w: Tiles<W>,
    acc: Accs,
    fresh: bool,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match m {
            1 => block::<S, W, 1, N>(s, k, x, w, acc, fresh),
            2 => block::<S, W, 2, N>(s, k, x, w, acc, fresh),
            3 => block::<S, W, 3, N>(s, k, x, w, acc, fresh),
            4 => block::<S, W, 4, N>(s, k, x, w, acc, fresh),
            5 => block::<S, W, 5, N>(s, k, x, w, acc, fresh),
            _ => block::<S, W, 6, N>(s, k, x, w, acc, fresh),
        }
    }
}

/// # Safety
/// As [`product`], of M rows and N tiles.
#[inline(always)]
unsafe fn block<S: Simd, W: TileRow, const M: usize, const N: usize>(
    s: S,
    k: usize,
    x: Rows,
    w: Tiles<W>,
    acc: Accs,
    fresh: bool,
) {
    let mut sums = [[s.splat(0.0); N]; M];
    // SAFETY: all places are those the caller vouches for.
    unsafe {
        if !fresh {
            for (m, row) in sums.iter_mut().enumerate() {
                for (n, sum) in row.iter_mut().enumerate() {
                    *sum = s.load(&(*acc.start.add(m * acc.row + n)).0);
                }
            }
        }
        let mut xs = [x.start; M];
        for (m, p) in xs.iter_mut().enumerate() {
            *p = x.start.add(m * x.row);
        }
        for i in 0..k {
            let mut weights = [s.splat(0.0); N];
            for (n, weight) in weights.iter_mut().enumerate() {
                *weight = (*w.start.add(n * w.tile + i)).load(s);
            }
            for (m, row) in sums.iter_mut().enumerate() {
                let x = s.splat(*xs[m].add(i * x.step));
                for (n, sum) in row.iter_mut().enumerate() {
                    *sum = s.fma(x, weights[n], *sum);
                }
            }
        }
        for (m, row) in sums.iter().enumerate() {
            for (n, sum) in row.iter().enumerate() {
                s.store(*sum, &mut (*acc.start.add(m * acc.row + n)).0);
            }
        }
    }
}
