//! Rows read from between the rows of a square table by bicubic interpolation: learned positions at another grid.
//!
//! Keys' cubic convolution with a = −0.75; a tap beyond the table is its nearest edge. Each value is computed in f32 in
//! one order: four sums along the columns, then one along the rows.

use crate::Pool;
use crate::disjoint::Disjoint;
use crate::error::{KernelError, expect_len};

/// Keys' parameter as PyTorch's `grid_sample` has it.
const A: f32 = -0.75;
/// Multiply-adds of one element.
const WORK_PER_ELEMENT: usize = 20;

/// A place in the table, in rows and columns from the middle of its first cell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TablePlace {
    /// Rows down.
    pub row: f32,
    /// Columns right.
    pub column: f32,
}

/// `y[i] = x[i] + table at places[i]`: `table` `[side, side, width]`, `x` and `y` `[places, width]`.
///
/// # Errors
/// [`KernelError::Shape`].
pub fn add_bicubic(
    pool: &Pool,
    (table, side): (&[f32], usize),
    places: &[TablePlace],
    x: &[f32],
    y: &mut [f32],
) -> Result<(), KernelError> {
    let cells = side.saturating_mul(side);
    let width = table.len().checked_div(cells).unwrap_or(0);
    expect_len("add_bicubic", "table", table.len(), &[side, side, width])?;
    expect_len("add_bicubic", "x", x.len(), &[places.len(), width])?;
    expect_len("add_bicubic", "y", y.len(), &[places.len(), width])?;
    if width == 0 {
        return Ok(());
    }
    let out = Disjoint::new(y);
    let pieces = pool.pieces((x.len() * WORK_PER_ELEMENT) as u64).min(places.len().max(1));
    pool.run(pieces, |piece| {
        for i in piece * places.len() / pieces..(piece + 1) * places.len() / pieces {
            // SAFETY: each place has a range of its own, and is in one piece.
            let y = unsafe { out.range(i * width, width) };
            let (rows, down) = taps(places[i].row, side);
            let (columns, across) = taps(places[i].column, side);
            let cells = rows.map(|row| columns.map(|column| &table[(row * side + column) * width..][..width]));
            for (c, (y, x)) in y.iter_mut().zip(&x[i * width..]).enumerate() {
                let lines = cells.map(|line| weighted(line.map(|cell| cell[c]), across));
                *y = x + weighted(lines, down);
            }
        }
    });
    Ok(())
}

#[inline(always)]
fn weighted(values: [f32; 4], weights: [f32; 4]) -> f32 {
    values[0] * weights[0] + values[1] * weights[1] + values[2] * weights[2] + values[3] * weights[3]
}

/// The four cells around `at` on an axis of `side` cells, and their weights.
fn taps(at: f32, side: usize) -> ([usize; 4], [f32; 4]) {
    let floor = at.floor();
    let t = at - floor;
    #[expect(clippy::cast_possible_truncation, reason = "a place far outside saturates, and is clamped to the edge")]
    let first = (floor as i64).saturating_sub(1);
    let cell = |i: i64| usize::try_from(first.saturating_add(i)).unwrap_or(0).min(side - 1);
    ([cell(0), cell(1), cell(2), cell(3)], [outer(t + 1.0), inner(t), inner(1.0 - t), outer(2.0 - t)])
}

/// The kernel at a distance of at most 1.
fn inner(x: f32) -> f32 {
    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
}

/// The kernel at a distance of 1 to 2.
fn outer(x: f32) -> f32 {
    ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
}
