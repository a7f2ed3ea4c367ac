//! `exp` and `ln` in f64 from additions, multiplications and divisions only: the C library's differ between hosts in
//! the last bit, and a resumed stream must not.
//!
//! Accuracy: a few units in the last place of f64, far below what an f32 result shows.

/// High part of ln 2: its product with any exponent of a double is exact.
const LN2_HIGH: f64 = 6.931_471_803_691_238e-1;
const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
/// 1/k! from k = 13 down to 0; |x| ≤ ln 2 / 2 leaves a remainder below 2⁻⁵⁴.
const TAYLOR: [f64; 14] = [
    1.0 / 6_227_020_800.0,
    1.0 / 479_001_600.0,
    1.0 / 39_916_800.0,
    1.0 / 3_628_800.0,
    1.0 / 362_880.0,
    1.0 / 40_320.0,
    1.0 / 5_040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
    1.0,
    1.0,
];

/// eˣ for x ≤ 0; 0 where it is below 2⁻¹⁰²².
pub(super) fn exp_nonpositive(x: f64) -> f64 {
    debug_assert!(x <= 0.0 || x.is_nan());
    if x < -708.0 {
        return 0.0;
    }
    let n = (x * std::f64::consts::LOG2_E).round_ties_even();
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let p = TAYLOR.iter().fold(0.0, |acc, c| acc * r + c);
    p * power_of_two(n as i64)
}

/// ln x for a normal x > 0: the exponent, and Halley's iteration for the mantissa's part.
pub(super) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let exponent = i64::try_from(bits >> 52).expect("11 bits") - 1023;
    let mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    // −ln m through e^−y on [1, 2): four steps from a straight line triple the correct digits each time.
    let mut y = (mantissa - 1.0) * std::f64::consts::LN_2;
    for _ in 0..4 {
        let e = mantissa * exp_nonpositive(-y);
        y += 2.0 * (e - 1.0) / (e + 1.0);
    }
    (exponent as f64) * LN2_HIGH + (y + (exponent as f64) * LN2_LOW)
}

fn power_of_two(n: i64) -> f64 {
    f64::from_bits(u64::try_from(n + 1023).expect("n is at least -1022") << 52)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ends_of_the_range_hold() {
        assert_eq!((exp_nonpositive(0.0), exp_nonpositive(-1e9), exp_nonpositive(f64::NEG_INFINITY)), (1.0, 0.0, 0.0));
        assert_eq!(ln(1.0), 0.0);
    }

    proptest! {
        #[test]
        fn both_follow_the_library_closely(x in -700.0f64..0.0, y in 1e-12f64..1e12) {
            let (mine, library) = (exp_nonpositive(x), x.exp());
            prop_assert!((mine - library).abs() <= 4.0 * f64::EPSILON * library, "exp {x}: {mine} {library}");
            let (mine, library) = (ln(y), y.ln());
            prop_assert!((mine - library).abs() <= 4.0 * f64::EPSILON * library.abs().max(1.0), "ln {y}: {mine}");
        }
    }
}
