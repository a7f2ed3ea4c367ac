//! eˣ of our own, so that every machine and instruction set gives the same bits. Within 1.1 ulp of the true value.
//!
//! x = n·ln 2 + r with |r| ≤ ln 2 / 2 (Cody and Waite's two-part ln 2), eʳ by its Taylor series to r⁷ (the rest is
//! below 2⁻²⁷), then times 2ⁿ. Under -86.2 the result is 0 rather than subnormal; over 88.72 it is infinite.

use crate::simd::Simd;

/// Adding it leaves round(x) in the low bits of an f32: 1.5 · 2²³.
const ROUND: f32 = 12_582_912.0;
/// Lowest x that comes out as a normal number even before the last doubling, a little above.
const MIN: f32 = -86.2;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{F32x16, Isa, Kernel, LANES};

    struct Exp<'a>(&'a mut F32x16);

    impl Kernel for Exp<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            s.store(exp(s, s.load(&self.0.0)), &mut self.0.0);
        }
    }

    fn exp_on(isa: Isa, x: [f32; LANES]) -> [f32; LANES] {
        let mut lanes = F32x16(x);
        isa.run(Exp(&mut lanes));
        lanes.0
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits_close_to_the_truth() {
        let mut worst = (0.0_f64, 0.0);
        for i in 0..60_000 {
            let x: [f32; LANES] = std::array::from_fn(|lane| -90.0 + (i * LANES + lane) as f32 * 1.865e-4);
            let reference = exp_on(Isa::available()[0], x);
            for isa in Isa::available() {
                assert_eq!(exp_on(isa, x).map(f32::to_bits), reference.map(f32::to_bits), "{isa:?} {x:?}");
            }
            for (x, y) in x.into_iter().zip(reference) {
                let truth = f64::from(x).exp();
                if (MIN..=MAX).contains(&x) {
                    let ulp = f64::from((truth as f32).next_up()) - f64::from(truth as f32);
                    let error = (f64::from(y) - truth).abs() / ulp;
                    worst = if error > worst.0 { (error, x) } else { worst };
                } else {
                    assert_eq!(y, if x < 0.0 { 0.0 } else { f32::INFINITY });
                }
            }
        }
        assert!(worst.0 < 1.1, "{} ulp at {}", worst.0, worst.1);
    }

    #[test]
    fn ends_and_specials() {
        let mut x = [0.0; LANES];
        x[..8].copy_from_slice(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, MAX, MIN, -1e30, 1e30]);
        for isa in Isa::available() {
            let y = exp_on(isa, x);
            assert!(y[0].is_nan());
            assert_eq!(y[1..4], [f32::INFINITY, 0.0, 1.0]);
            assert!(y[4].is_finite() && y[4] > 3.4e38 && y[5] > 0.0, "{y:?}");
            assert_eq!(y[6..9], [0.0, f32::INFINITY, 1.0]);
        }
    }
}
