//! Root-mean-square normalisation, row by row.

use crate::Pool;
use crate::disjoint::Disjoint;
use crate::error::{KernelError, expect_len};
use crate::simd::{Kernel, LANES, Simd, load_part, store_part, sum_lanes};

/// `y = weight · (x / √(mean(x²) + eps))`: `x` and `y` `[tokens, width]`, `weight` `[width]`. The squares are summed in
/// sixteen lanes (element i in lane i mod 16, ascending), then the lanes by halves.
///
/// # Errors
/// [`KernelError::Shape`].
pub fn rms_norm(pool: &Pool, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) -> Result<(), KernelError> {
    let width = weight.len();
    let tokens = x.len().checked_div(width).unwrap_or(0);
    expect_len("rms_norm", "x", x.len(), &[tokens, width])?;
    expect_len("rms_norm", "y", y.len(), &[tokens, width])?;
    let out = Disjoint::new(y);
    let pieces = pool.pieces((tokens * width) as u64).min(tokens.max(1));
    pool.run(pieces, |piece| {
        for row in piece * tokens / pieces..(piece + 1) * tokens / pieces {
            // SAFETY: each row has a range of its own, and is in one piece.
            let y = unsafe { out.range(row * width, width) };
            pool.isa().run(Row { x: &x[row * width..][..width], weight, eps, y });
        }
    });
    Ok(())
}

struct Row<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

impl Kernel for Row<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (xs, x_rest) = self.x.as_chunks::<LANES>();
        let mut squares = s.splat(0.0);
        for x in xs {
            let x = s.load(x);
            squares = s.fma(x, x, squares);
        }
        // Always: x² + 0 of empty lanes changes no bit.
        let rest = load_part(s, x_rest);
        squares = s.fma(rest, rest, squares);
        let mut lanes = [0.0; LANES];
        s.store(squares, &mut lanes);
        let mean = sum_lanes(lanes) / self.x.len() as f32;
        let scale = s.splat(1.0 / (mean + self.eps).sqrt());

        let (weights, weight_rest) = self.weight.as_chunks::<LANES>();
        let (ys, y_rest) = self.y.as_chunks_mut::<LANES>();
        for ((x, weight), y) in xs.iter().zip(weights).zip(ys) {
            s.store(s.mul(s.load(weight), s.mul(s.load(x), scale)), y);
        }
        if !y_rest.is_empty() {
            store_part(s, s.mul(load_part(s, weight_rest), s.mul(rest, scale)), y_rest);
        }
    }
}
