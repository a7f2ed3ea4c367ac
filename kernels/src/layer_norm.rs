//! Layer normalisation with a bias, row by row.

use crate::Pool;
use crate::disjoint::Disjoint;
use crate::error::{KernelError, expect_len};
use crate::simd::{Kernel, LANES, Simd, load_part, store_part, sum_lanes};

/// `y = weight · (x − mean(x)) / √(var(x) + eps) + bias`: `x` and `y` `[tokens, width]`, `weight` and `bias` `[width]`;
/// the variance is over `width`, not `width − 1`. Sums run in sixteen lanes (element i in lane i mod 16, ascending),
/// then over the lanes by halves; the deviations are squared, not the values, so that a large mean costs no digits.
///
/// # Errors
/// [`KernelError::Shape`].
pub fn layer_norm(
    pool: &Pool,
    x: &[f32],
    (weight, bias): (&[f32], &[f32]),
    eps: f32,
    y: &mut [f32],
) -> Result<(), KernelError> {
    let width = weight.len();
    let tokens = x.len().checked_div(width).unwrap_or(0);
    expect_len("layer_norm", "x", x.len(), &[tokens, width])?;
    expect_len("layer_norm", "y", y.len(), &[tokens, width])?;
    expect_len("layer_norm", "bias", bias.len(), &[width])?;
    let out = Disjoint::new(y);
    let pieces = pool.pieces((tokens * width) as u64).min(tokens.max(1));
    pool.run(pieces, |piece| {
        for row in piece * tokens / pieces..(piece + 1) * tokens / pieces {
            // SAFETY: each row has a range of its own, and is in one piece.
            let y = unsafe { out.range(row * width, width) };
            pool.isa().run(Row { x: &x[row * width..][..width], weight, bias, eps, y });
        }
    });
    Ok(())
}

struct Row<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

impl Kernel for Row<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.x.len() as f32;
        let (xs, x_rest) = self.x.as_chunks::<LANES>();
        let mut sums = s.splat(0.0);
        for x in xs {
            sums = s.add(sums, s.load(x));
        }
        sums = s.add(sums, load_part(s, x_rest));
        let mut lanes = [0.0; LANES];
        s.store(sums, &mut lanes);
        let mean = s.splat(sum_lanes(lanes) / width);

        let mut squares = s.splat(0.0);
        for x in xs {
            let d = s.sub(s.load(x), mean);
            squares = s.fma(d, d, squares);
        }
        // The empty lanes of the rest would be the mean's square.
        let rest = s.sub(load_part(s, x_rest), mean);
        let mut part = [0.0; LANES];
        s.store(rest, &mut part);
        let mut lane = x_rest.len();
        while lane < LANES {
            part[lane] = 0.0;
            lane += 1;
        }
        let rest = s.load(&part);
        squares = s.fma(rest, rest, squares);
        s.store(squares, &mut lanes);
        let scale = s.splat(1.0 / (sum_lanes(lanes) / width + self.eps).sqrt());

        let (weights, weight_rest) = self.weight.as_chunks::<LANES>();
        let (biases, bias_rest) = self.bias.as_chunks::<LANES>();
        let (ys, y_rest) = self.y.as_chunks_mut::<LANES>();
        for (((x, weight), bias), y) in xs.iter().zip(weights).zip(biases).zip(ys) {
            let normed = s.mul(s.sub(s.load(x), mean), scale);
            s.store(s.add(s.mul(s.load(weight), normed), s.load(bias)), y);
        }
        if !y_rest.is_empty() {
            let normed = s.mul(rest, scale);
            store_part(s, s.add(s.mul(load_part(s, weight_rest), normed), load_part(s, bias_rest)), y_rest);
        }
    }
}
