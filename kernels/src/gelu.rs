//! GELU with the exact error function, element by element.
//!
//! The error function is of our own, in f64 and of additions, products and divisions alone, so that every machine
//! gives the same bits; no library's `exp` or `erf` has a say.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use crate::Pool;
use crate::disjoint::Disjoint;
use crate::error::{KernelError, expect_len};

/// Multiply-adds that one element's series weighs.
const WORK_PER_ELEMENT: usize = 128;
/// From here on the error function is 1 to the last bit of an f64: its complement is below 2⁻⁵⁴.
const ERF_IS_ONE: f64 = 6.0;

/// `y = x · (1 + erf(x / √2)) / 2`, rounded once from f64.
///
/// # Errors
/// [`KernelError::Shape`].
pub fn gelu(pool: &Pool, x: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
    expect_len("gelu", "y", y.len(), &[x.len()])?;
    let out = Disjoint::new(y);
    let pieces = pool.pieces((x.len() * WORK_PER_ELEMENT) as u64).min(x.len().max(1));
    pool.run(pieces, |piece| {
        let (from, to) = (piece * x.len() / pieces, (piece + 1) * x.len() / pieces);
        // SAFETY: the pieces' ranges follow each other without overlap.
        let y = unsafe { out.range(from, to - from) };
        for (y, x) in y.iter_mut().zip(&x[from..to]) {
            let x = f64::from(*x);
            #[expect(clippy::cast_possible_truncation, reason = "the result is f32")]
            let value = (0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2))) as f32;
            *y = value;
        }
    });
    Ok(())
}

/// The error function, by its series of positive terms (Abramowitz and Stegun 7.1.6):
/// `erf z = 2/√π · e^(−z²) · Σ 2ⁿ z²ⁿ⁺¹ / (1·3·…·(2n+1))`. NaN stays NaN.
fn erf(z: f64) -> f64 {
    let a = z.abs();
    if a >= ERF_IS_ONE {
        return 1.0_f64.copysign(z);
    }
    let square = a * a;
    let (mut term, mut sum, mut n) = (a, a, 1.0);
    // At z = 6 the terms rise for 36 steps and are below an f64's last bit after about 130.
    while term > sum * (f64::EPSILON / 4.0) {
        term *= 2.0 * square / (2.0 * n + 1.0);
        sum += term;
        n += 1.0;
    }
    (FRAC_2_SQRT_PI * sum / exp_of_square(square)).copysign(z)
}

/// `e^y` of `0 ≤ y < 36`, relative error below 1e-13: `(e^(y/64))⁶⁴`, the inner one by its Taylor series.
fn exp_of_square(y: f64) -> f64 {
    let x = y / 64.0;
    let mut e = 1.0;
    // x < 0.57: the first term left out, x¹⁵/15!, is below 2⁻⁵².
    for n in (1..=14).rev() {
        e = 1.0 + e * x / f64::from(n);
    }
    for _ in 0..6 {
        e *= e;
    }
    e
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_at_tabulated_points() {
        // Abramowitz and Stegun, table 7.1, and the complement at 3, 4 and 5.
        for (z, expected) in [
            (0.0, 0.0),
            (0.02, 0.022_564_574_7),
            (0.5, 0.520_499_877_8),
            (1.0, 0.842_700_792_9),
            (1.5, 0.966_105_146_5),
            (2.0, 0.995_322_265_0),
        ] {
            assert!((erf(z) - expected).abs() < 6e-11, "erf {z} = {}", erf(z));
            assert_eq!(erf(-z).to_bits(), (-erf(z)).to_bits());
        }
        for (z, complement) in [(3.0, 2.209_049_699_858_544e-5), (4.0, 1.541_725_790_028_002e-8), (5.0, 1.5375e-12)] {
            assert!((1.0 - erf(z) - complement).abs() < 1e-14, "erfc {z} = {:e}", 1.0 - erf(z));
        }
        assert_eq!((erf(ERF_IS_ONE), erf(f64::NEG_INFINITY)), (1.0, -1.0));
        // The worst of all: the series and e^(z²) are each some hundred roundings long.
        assert!((erf(ERF_IS_ONE.next_down()) - 1.0).abs() < 1e-13 && erf(f64::NAN).is_nan());
    }
}
