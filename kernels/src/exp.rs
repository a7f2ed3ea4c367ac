//! eˣ of our own, so that every machine and instruction set gives the same bits. Within 1 ulp of the true value.
//!
//! x = n·ln 2 + r with |r| ≤ ln 2 / 2 (Cody and Waite's two-part ln 2), eʳ by its Taylor series to r⁷ (the rest is
//! below 2⁻²⁷), then times 2ⁿ. Under -86.9 the result is 0 rather than subnormal; over 88.72 it is infinite.

use crate::simd::Simd;

/// Adding it leaves round(x) in the low bits of an f32: 1.5 · 2²³.
const ROUND: f32 = 12_582_912.0;
/// Lowest x whose 2ⁿ⁻¹ is a normal number, a little above.
const MIN: f32 = -86.9;
/// Largest x with a finite result.
const MAX: f32 = 88.722_83;
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// 1/7!, 1/6!, … 1/2!.
const TAYLOR: [f32; 6] = [1.984_127e-4, 1.388_888_9e-3, 8.333_334e-3, 4.166_666_8e-2, 0.166_666_67, 0.5];

/// eˣ of each lane; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    let low = s.splat(MIN);
    let high = s.splat(MAX);
    let clamped = s.max(low, s.min(high, x));
    let shifted = s.fma(clamped, s.splat(std::f32::consts::LOG2_E), s.splat(ROUND));
    let n = s.sub(shifted, s.splat(ROUND));
    let r = s.fma(n, s.splat(-LN2_HIGH), clamped);
    let r = s.fma(n, s.splat(-LN2_LOW), r);
    let mut p = s.splat(TAYLOR[0]);
    let mut i = 1;
    while i < TAYLOR.len() {
        p = s.fma(p, r, s.splat(TAYLOR[i]));
        i += 1;
    }
    // 1 + r + r²p, with r the larger part of the tail added last.
    let tail = s.fma(s.mul(r, r), p, r);
    let e_r = s.add(tail, s.splat(1.0));
    // n reaches 128, where 2ⁿ is no f32: multiply by 2ⁿ⁻¹ and 2.
    let half = s.pow2_of_low_bits(s.sub(shifted, s.splat(1.0)));
    let y = s.mul(s.mul(e_r, half), s.splat(2.0));
    let y = s.select_lt(x, low, s.splat(0.0), y);
    s.select_lt(high, x, s.splat(f32::INFINITY), y)
}
