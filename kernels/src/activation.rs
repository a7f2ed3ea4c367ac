//! The gate of the MLP: up · silu(gate), element by element.

use crate::Pool;
use crate::disjoint::Disjoint;
use crate::error::{KernelError, expect_len};
use crate::exp::exp;
use crate::simd::{Kernel, LANES, Simd, load_part, store_part};

/// Multiply-adds that one element's exponential and division weigh.
const WORK_PER_ELEMENT: usize = 32;

/// `y = up · gate / (1 + e^-gate)` of a fused product: `gate_up` `[tokens, 2 · width]` with the gate half first, `y`
/// `[tokens, width]`.
///
/// # Errors
/// [`KernelError::Shape`].
pub fn silu_mul(pool: &Pool, gate_up: &[f32], width: usize, y: &mut [f32]) -> Result<(), KernelError> {
    let tokens = y.len().checked_div(width).unwrap_or(0);
    expect_len("silu_mul", "y", y.len(), &[tokens, width])?;
    expect_len("silu_mul", "gate_up", gate_up.len(), &[tokens, width.saturating_mul(2)])?;
    let out = Disjoint::new(y);
    let pieces = pool.pieces((tokens * width * WORK_PER_ELEMENT) as u64).min(tokens.max(1));
    pool.run(pieces, |piece| {
        for row in piece * tokens / pieces..(piece + 1) * tokens / pieces {
            let (gate, up) = gate_up[row * 2 * width..][..2 * width].split_at(width);
            // SAFETY: each row has a range of its own, and is in one piece.
            let y = unsafe { out.range(row * width, width) };
            pool.isa().run(Gate { gate, up, y });
        }
    });
    Ok(())
}

/// As [`silu_mul`] with the halves apart: `gate`, `up` and `y` of one shape.
///
/// # Errors
/// [`KernelError::Shape`].
pub fn silu_mul_split(pool: &Pool, gate: &[f32], up: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
    expect_len("silu_mul", "up", up.len(), &[gate.len()])?;
    expect_len("silu_mul", "y", y.len(), &[gate.len()])?;
    let blocks = gate.len().div_ceil(LANES);
    let out = Disjoint::new(y);
    let pieces = pool.pieces((gate.len() * WORK_PER_ELEMENT) as u64).min(blocks.max(1));
    pool.run(pieces, |piece| {
        let end = |piece: usize| (piece * blocks / pieces * LANES).min(gate.len());
        let own = end(piece)..end(piece + 1);
        // SAFETY: the pieces' ranges follow each other without overlap.
        let y = unsafe { out.range(own.start, own.len()) };
        pool.isa().run(Gate { gate: &gate[own.clone()], up: &up[own], y });
    });
    Ok(())
}

struct Gate<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Gate<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (gates, gate_rest) = self.gate.as_chunks::<LANES>();
        let (ups, up_rest) = self.up.as_chunks::<LANES>();
        let (ys, y_rest) = self.y.as_chunks_mut::<LANES>();
        for ((gate, up), y) in gates.iter().zip(ups).zip(ys) {
            s.store(silu_times(s, s.load(gate), s.load(up)), y);
        }
        if !y_rest.is_empty() {
            store_part(s, silu_times(s, load_part(s, gate_rest), load_part(s, up_rest)), y_rest);
        }
    }
}

#[inline(always)]
fn silu_times<S: Simd>(s: S, gate: S::F, up: S::F) -> S::F {
    let e = exp(s, s.sub(s.splat(0.0), gate));
    s.mul(s.div(gate, s.add(s.splat(1.0), e)), up)
}
