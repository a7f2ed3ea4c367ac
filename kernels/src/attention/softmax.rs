//! The weights of one (row, head): e^(scale · score - largest), and their sum.

use super::BLOCK_TOKENS;
use crate::exp::exp;
use crate::simd::{F32x16, LANES, Simd, max_lanes, sum_lanes};

/// Turns scores of `positions` positions into weights (zero after the last position) and returns their sum: position p
/// is summed in lane p mod 16, ascending, then the lanes by halves.
#[inline(always)]
pub(super) fn weigh<S: Simd>(s: S, scores: &mut [F32x16], positions: usize, scale: f32) -> f32 {
    let factor = s.splat(scale);
    let mut largest = s.splat(f32::NEG_INFINITY);
    let last = scores.len() - 1;
    for (i, lanes) in scores.iter_mut().enumerate() {
        s.store(s.mul(s.load(&lanes.0), factor), &mut lanes.0);
        if i == last {
            let mut slot = positions - last * BLOCK_TOKENS;
            while slot < LANES {
                lanes.0[slot] = f32::NEG_INFINITY;
                slot += 1;
            }
        }
        largest = s.max(s.load(&lanes.0), largest);
    }
    let mut lanes = [0.0; LANES];
    s.store(largest, &mut lanes);
    let largest = s.splat(max_lanes(lanes));
    let mut sums = s.splat(0.0);
    for lanes in scores.iter_mut() {
        let weight = exp(s, s.sub(s.load(&lanes.0), largest));
        s.store(weight, &mut lanes.0);
        sums = s.add(sums, weight);
    }
    s.store(sums, &mut lanes);
    sum_lanes(lanes)
}
