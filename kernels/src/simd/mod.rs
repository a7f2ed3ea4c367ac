//! Sixteen lanes of f32 on each instruction set, and the choice between them at run time.
//!
//! Kernels are written once over [`Simd`] and compiled once an instruction set. Invariant: every operation is one
//! IEEE operation a lane with the same operand order, so every instruction set gives the same bits. No reduction
//! across lanes lives in an instruction set; [`sum_lanes`] and [`max_lanes`] fix their order in plain code.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use bytemuck::{Pod, Zeroable};
use half::bf16;

/// Lanes of a vector, output rows of a tile, tokens of a KV block.
pub(crate) const LANES: usize = 16;

/// Sixteen f32, aligned to a cache line.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct F32x16(pub(crate) [f32; LANES]);

/// Sixteen bf16, aligned to half a cache line.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(32))]
pub(crate) struct Bf16x16(pub(crate) [bf16; LANES]);

impl F32x16 {
    pub(crate) const ZERO: Self = Self([0.0; LANES]);
}

/// Row-major f32 view of lanes.
pub(crate) fn as_floats(lanes: &[F32x16]) -> &[f32] {
    bytemuck::cast_slice(lanes)
}

/// Operations on sixteen lanes. A value of the type is the proof that the machine has the instructions.
pub(crate) trait Simd: Copy {
    /// Sixteen f32 in registers.
    type F: Copy;
    /// Whether there are 32 registers of sixteen lanes: larger register blocks pay.
    const WIDE: bool;

    fn splat(self, x: f32) -> Self::F;
    fn load(self, from: &[f32; LANES]) -> Self::F;
    fn load_bf16(self, from: &[bf16; LANES]) -> Self::F;
    fn store(self, x: Self::F, to: &mut [f32; LANES]);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c` rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a < b ? a : b`, so `b` where either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a > b ? a : b`, so `b` where either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? yes : no`.
    fn select_lt(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F;
    /// The f32 whose bits are `(bits(x) << 23) + bits(1.0)`: 2ⁿ when the low bits of `x` hold n.
    fn pow2_of_low_bits(self, x: Self::F) -> Self::F;
}

/// Work that is compiled for each instruction set. `run` and all it calls must be `#[inline(always)]` and free of
/// closures, or the instructions would sit in functions of their own.
pub(crate) trait Kernel {
    fn run<S: Simd>(self, s: S);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Scalar(scalar::Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
}

/// An instruction set that this machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Level);

impl Isa {
    /// Every instruction set of this machine, narrowest first; scalar is always one.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let mut found = vec![Self(Level::Scalar(scalar::Scalar))];
        #[cfg(target_arch = "x86_64")]
        {
            found.extend(avx2::Avx2::detect().map(|t| Self(Level::Avx2(t))));
            found.extend(avx512::Avx512::detect().map(|t| Self(Level::Avx512(t))));
        }
        found
    }

    /// The widest one.
    #[must_use]
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(t) = avx512::Avx512::detect() {
                return Self(Level::Avx512(t));
            }
            if let Some(t) = avx2::Avx2::detect() {
                return Self(Level::Avx2(t));
            }
        }
        Self(Level::Scalar(scalar::Scalar))
    }

    /// `scalar`, `avx2` or `avx512`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Scalar(_) => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(_) => "avx512",
        }
    }

    pub(crate) fn run<K: Kernel>(self, kernel: K) {
        match self.0 {
            Level::Scalar(s) => kernel.run(s),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(s) => s.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(s) => s.run(kernel),
        }
    }
}

/// Sum of the lanes by halves: 8 + 8, 4 + 4, 2 + 2, 1 + 1.
#[inline(always)]
pub(crate) fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Largest of the lanes; a NaN loses to what stands after it.
#[inline(always)]
pub(crate) fn max_lanes(lanes: [f32; LANES]) -> f32 {
    let mut best = lanes[0];
    let mut i = 1;
    while i < LANES {
        if lanes[i] > best {
            best = lanes[i];
        }
        i += 1;
    }
    best
}

/// The first `n ≤ 16` elements at the start of `from`, zeros after them.
#[inline(always)]
pub(crate) fn load_part<S: Simd>(s: S, from: &[f32]) -> S::F {
    let mut lanes = [0.0; LANES];
    lanes[..from.len()].copy_from_slice(from);
    s.load(&lanes)
}

/// Stores as many lanes as `to` has places.
#[inline(always)]
pub(crate) fn store_part<S: Simd>(s: S, x: S::F, to: &mut [f32]) {
    let mut lanes = [0.0; LANES];
    s.store(x, &mut lanes);
    to.copy_from_slice(&lanes[..to.len()]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_summed_by_halves() {
        let mut lanes = [0.0; LANES];
        (lanes[0], lanes[8], lanes[1]) = (1e8, -1e8, 1.0);
        assert_eq!(sum_lanes(lanes), 1.0, "0 + 8 first");
        (lanes[8], lanes[1]) = (1.0, -1e8);
        assert_eq!(sum_lanes(lanes), 0.0, "0 + 8 before 0 + 1");
    }

    #[test]
    fn the_largest_lane_is_found_past_a_nan() {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        (lanes[3], lanes[4], lanes[15]) = (2.0, f32::NAN, 1.0);
        assert_eq!(max_lanes(lanes), 2.0);
    }
}
