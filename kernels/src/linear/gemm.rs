//! The loops around the register block: chunks of rows, groups of tiles (shared out over threads), sum trees, and
//! ranges of the input short enough that their weights stay in the second-level cache.

use std::ops::Range;

use super::micro::{Accs, ROWS_MAX, Rows, TILES_MAX, TileRow, Tiles, product};
use super::tree::SumTree;
use crate::Pool;
use crate::disjoint::Disjoint;
use crate::scratch;
use crate::simd::{F32x16, Isa, Kernel, LANES, Simd, as_floats};

/// Rows that run through all weights together; a multiple of [`ROWS_MAX`].
const CHUNK_ROWS_MAX: usize = 192;
/// Elements of a chunk's copy of x, 8 MiB.
const CHUNK_ELEMENTS_MAX: usize = 1 << 21;
/// Input columns of a tile group between two visits of the accumulators, where there is more than one block of rows.
const COLUMNS_PER_VISIT: usize = 256;
/// Tiles in a group, where there is more than one row.
const GROUP_TILES: usize = 4;

#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) tokens: usize,
    pub(super) in_features: usize,
    pub(super) out_features: usize,
}

/// `y[tree, row, :]` of every tree and row. Shapes and trees have been checked.
pub(super) fn multiply<W: TileRow>(
    pool: &Pool,
    shape: Shape,
    panels: &[W],
    x: &[f32],
    trees: &[SumTree],
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    let Shape { tokens, in_features, out_features } = shape;
    if tokens == 0 || out_features == 0 || trees.is_empty() {
        return;
    }
    let fitting = CHUNK_ELEMENTS_MAX / in_features.max(1) / ROWS_MAX * ROWS_MAX;
    let chunk_rows = fitting.clamp(ROWS_MAX, CHUNK_ROWS_MAX);
    let y = Disjoint::new(y);
    for first in (0..tokens).step_by(chunk_rows) {
        let rows = chunk_rows.min(tokens - first);
        let x = &x[first * in_features..][..rows * in_features];
        let job = Job { shape, panels, x, packed: false, rows, first, trees, bias, y };
        if rows <= ROWS_MAX {
            job.spread(pool);
        } else {
            scratch::with((rows * in_features).div_ceil(LANES), |copy| {
                interleave(pool, x, rows, in_features, copy);
                Job { x: &as_floats(copy)[..rows * in_features], packed: true, ..job }.spread(pool);
            });
        }
    }
}

/// Copies x so that the rows of one register block stand side by side: `[blocks, in_features, rows of the block]`. A
/// block then reads one stream, where rows a power of two apart would fight for the same cache sets.
fn interleave(pool: &Pool, x: &[f32], rows: usize, in_features: usize, copy: &mut [F32x16]) {
    let floats = copy.len() * LANES;
    // SAFETY: `F32x16` is repr(C) over [f32; 16] without padding, and `copy` is borrowed mutably for the whole call.
    let copy = unsafe { std::slice::from_raw_parts_mut(copy.as_mut_ptr().cast::<f32>(), floats) };
    let copy = Disjoint::new(copy);
    let blocks = rows.div_ceil(ROWS_MAX);
    let pieces = pool.pieces((rows * in_features) as u64).min(blocks);
    pool.run(pieces, |piece| {
        for block in piece * blocks / pieces..(piece + 1) * blocks / pieces {
            let first = block * ROWS_MAX;
            let height = ROWS_MAX.min(rows - first);
            // SAFETY: each block has a range of its own, and each block is in one piece.
            let to = unsafe { copy.range(first * in_features, height * in_features) };
            let from = &x[first * in_features..];
            for (k, to) in to.chunks_exact_mut(height).enumerate() {
                for (m, to) in to.iter_mut().enumerate() {
                    *to = from[m * in_features + k];
                }
            }
        }
    });
}

/// One chunk of rows against all weights.
struct Job<'a, W> {
    shape: Shape,
    panels: &'a [W],
    /// `[rows, in_features]`, or interleaved when `packed`.
    x: &'a [f32],
    packed: bool,
    rows: usize,
    /// Row of y where the chunk starts.
    first: usize,
    trees: &'a [SumTree],
    bias: Option<&'a [f32]>,
    y: Disjoint<'a, f32>,
}

impl<W: TileRow> Job<'_, W> {
    fn spread(&self, pool: &Pool) {
        let tiles = self.shape.out_features.div_ceil(LANES);
        let group_tiles = if self.rows == 1 { TILES_MAX } else { GROUP_TILES };
        let groups = tiles.div_ceil(group_tiles);
        let levels = self.trees.iter().map(SumTree::levels).max().unwrap_or(1);
        let work = (self.rows * self.shape.in_features) as u64 * self.shape.out_features as u64;
        let pieces = pool.pieces(work).min(groups);
        pool.run(pieces, |piece| {
            let tiles = piece * groups / pieces * group_tiles..((piece + 1) * groups / pieces * group_tiles).min(tiles);
            scratch::with(levels * self.rows * group_tiles, |accs| self.groups(pool.isa(), tiles, group_tiles, accs));
        });
    }

    /// The groups of `tiles`, one after the other. `accs`: `[levels, rows, group_tiles]`.
    fn groups(&self, isa: Isa, tiles: Range<usize>, group_tiles: usize, accs: &mut [F32x16]) {
        for first in tiles.clone().step_by(group_tiles) {
            let group = Group { job: self, first, count: group_tiles.min(tiles.end - first) };
            for (i, tree) in self.trees.iter().enumerate() {
                group.sum(isa, tree, accs);
                group.finish(i, accs);
            }
        }
    }
}

/// `count` tiles from tile `first`.
struct Group<'a, W> {
    job: &'a Job<'a, W>,
    first: usize,
    count: usize,
}

impl<W: TileRow> Group<'_, W> {
    /// Leaves the sum of `tree` in the first `[rows, count]` of `accs`; what follows is room for right-hand sums.
    fn sum(&self, isa: Isa, tree: &SumTree, accs: &mut [F32x16]) {
        let len = self.job.rows * self.count;
        match tree {
            SumTree::Leaf { cols } if cols.is_empty() => accs[..len].fill(F32x16::ZERO),
            SumTree::Leaf { cols } => isa.run(Leaf { group: self, cols: cols.clone(), accs: &mut accs[..len] }),
            SumTree::Node(left, right) => {
                self.sum(isa, left, accs);
                let (sums, rest) = accs.split_at_mut(len);
                self.sum(isa, right, rest);
                isa.run(AddTo { sums, right: &rest[..len] });
            }
        }
    }

    /// Writes `[rows, count]` sums of one tree to their columns of y, with the bias.
    fn finish(&self, tree: usize, sums: &[F32x16]) {
        let Shape { tokens, out_features, .. } = self.job.shape;
        let column = self.first * LANES;
        let width = (self.count * LANES).min(out_features - column);
        for (row, sums) in sums.chunks_exact(self.count).take(self.job.rows).enumerate() {
            let at = (tree * tokens + self.job.first + row) * out_features + column;
            // SAFETY: each (tree, row, group) has a range of its own and is finished once.
            let y = unsafe { self.job.y.range(at, width) };
            let sums = &as_floats(sums)[..width];
            match self.job.bias {
                None => y.copy_from_slice(sums),
                Some(bias) => {
                    for ((y, sum), bias) in y.iter_mut().zip(sums).zip(&bias[column..]) {
                        *y = sum + bias;
                    }
                }
            }
        }
    }
}

/// The sum over a range of columns, for all rows of the chunk and all tiles of a group.
struct Leaf<'a, 'b, W> {
    group: &'a Group<'a, W>,
    cols: Range<usize>,
    /// `[rows, count]`.
    accs: &'b mut [F32x16],
}

impl<W: TileRow> Kernel for Leaf<'_, '_, W> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Group { job, first, count } = *self.group;
        let in_features = job.shape.in_features;
        let visit = if job.rows <= ROWS_MAX { self.cols.len() } else { COLUMNS_PER_VISIT };
        assert!(self.accs.len() == job.rows * count && job.x.len() == job.rows * in_features);
        assert!(self.cols.end <= in_features && (first + count) * in_features <= job.panels.len());
        let mut at = self.cols.start;
        while at < self.cols.end {
            let k = visit.min(self.cols.end - at);
            let mut row = 0;
            while row < job.rows {
                let height = ROWS_MAX.min(job.rows - row);
                // SAFETY: the asserts above bound rows, columns `at..at + k` and tiles `first..first + count`; a block
                // of x has `height * in_features` elements whether interleaved or not; `accs` is borrowed mutably.
                unsafe {
                    let x = job.x.as_ptr().add(row * in_features);
                    let x = if job.packed {
                        Rows { start: x.add(at * height), row: 1, step: height }
                    } else {
                        Rows { start: x.add(at), row: in_features, step: 1 }
                    };
                    let w = Tiles { start: job.panels.as_ptr().add(first * in_features + at), tile: in_features };
                    let acc = Accs { start: self.accs.as_mut_ptr().add(row * count), row: count };
                    product(s, (height, count, k), x, w, acc, at == self.cols.start);
                }
                row += height;
            }
            at += k;
        }
    }
}

/// `sums += right`.
struct AddTo<'a> {
    sums: &'a mut [F32x16],
    right: &'a [F32x16],
}

impl Kernel for AddTo<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (sum, right) in self.sums.iter_mut().zip(self.right) {
            let total = s.add(s.load(&sum.0), s.load(&right.0));
            s.store(total, &mut sum.0);
        }
    }
}
