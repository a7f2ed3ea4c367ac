//! The public kernels against f64 references and against themselves: on each instruction set, at several numbers of
//! threads, alone and in a batch. Accuracy is compared by tolerance; invariance bit by bit.

mod attention;
mod golden;
mod linear;
mod ops;
mod picture;
mod rows;

use std::num::NonZeroUsize;

use kernels::{Isa, Pool};

/// `n` values in -1..1 that depend on `seed` alone (xorshift64*).
fn sample(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            let bits = state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40;
            bits as f32 / (1_u32 << 23) as f32 - 1.0
        })
        .collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn threads(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).expect("not 0")
}

/// A pool of each instruction set at 1, 2 and 3 threads.
fn pools() -> Vec<Pool> {
    let pool = |isa, n| Pool::with_isa(threads(n), isa).expect("threads start");
    Isa::available().into_iter().flat_map(|isa| (1..=3).map(move |n| pool(isa, n))).collect()
}

/// The plainest way to compute: one thread, no vectors.
fn scalar() -> Pool {
    Pool::with_isa(threads(1), Isa::available()[0]).expect("no thread to start")
}

/// Asserts that each value lies within `tolerance` of its reference, relative to `1 + |reference|`.
fn assert_close(found: &[f32], reference: &[f64], tolerance: f64) {
    assert_eq!(found.len(), reference.len());
    for (i, (x, r)) in found.iter().zip(reference).enumerate() {
        let error = (f64::from(*x) - r).abs() / (1.0 + r.abs());
        assert!(error <= tolerance, "element {i}: {x} for {r}, off by {error:e}");
    }
}

#[test]
fn every_machine_has_the_scalar_set_and_the_best_is_among_the_available() {
    let all = Isa::available();
    assert_eq!(all[0].name(), "scalar");
    assert!(all.contains(&Isa::best()));
}
