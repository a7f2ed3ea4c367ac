//! Philox4x32-10, a counter-based generator: the draw at a position is a function of the key and that position alone.
//!
//! Written from J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3",
//! SC'11, section 3.3; the test vectors are those published with it.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Weyl constants: the golden ratio and √3 − 1.
const KEY_BUMPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..ROUNDS {
        if round > 0 {
            key = [key[0].wrapping_add(KEY_BUMPS[0]), key[1].wrapping_add(KEY_BUMPS[1])];
        }
        let (hi0, lo0) = split(u64::from(MULTIPLIERS[0]) * u64::from(counter[0]));
        let (hi1, lo1) = split(u64::from(MULTIPLIERS[1]) * u64::from(counter[2]));
        counter = [hi1 ^ counter[1] ^ key[0], lo1, hi0 ^ counter[3] ^ key[1], lo0];
    }
    counter
}

fn split(x: u64) -> (u32, u32) {
    let low = u32::try_from(x & 0xFFFF_FFFF).expect("masked to 32 bits");
    let high = u32::try_from(x >> 32).expect("the upper 32 bits");
    (high, low)
}

/// The uniform number in [0, 1) that belongs to `position` of the `choice`-th answer under `seed`; 53 random bits.
pub(super) fn uniform(seed: u64, choice: u16, position: u64) -> f64 {
    let (seed_high, seed_low) = split(seed);
    let (position_high, position_low) = split(position);
    let bits = philox4x32([position_low, position_high, u32::from(choice), 0], [seed_low, seed_high]);
    let x = (u64::from(bits[0]) << 32 | u64::from(bits[1])) >> 11;
    x as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_random123() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn draws_are_uniform_enough_and_depend_on_every_argument() {
        let mean = (0..20_000).map(|i| uniform(i % 20, 0, i / 20)).sum::<f64>() / 20_000.0;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        assert_ne!(uniform(7, 0, 0), uniform(8, 0, 0));
        assert_ne!(uniform(7, 0, 0), uniform(7, 1, 0));
        assert_ne!(uniform(7, 0, 0), uniform(7, 0, 1));
        assert_eq!(uniform(7, 2, 3), uniform(7, 2, 3));
    }
}
