//! Zeroed lanes that take no memory until they are written. Not a buffer that grows or is handed on: a KV cache's own.
//!
//! Invariant: they start on a cache line, as every [`F32x16`] does.

use std::ops::{Deref, DerefMut};

use crate::simd::{F32x16, LANES};

/// A fixed number of lanes, zero until written.
#[derive(Debug)]
pub(super) struct ZeroedLanes {
    /// The lanes, with up to fifteen floats before and after them that alignment left over. Never resized: a buffer that
    /// moved would not keep `start` on a cache line.
    floats: Vec<f32>,
    /// First float of the first lane.
    start: usize,
    /// `16 * lanes`.
    len: usize,
}

impl ZeroedLanes {
    /// `lanes` zeros, of which the system backs a page when it is first touched.
    ///
    /// They are asked for as floats because std clears by hand, and so touches, whatever is aligned past the allocator's
    /// 16 bytes: `vec![F32x16::ZERO; n]` and `alloc_zeroed` of 64-byte alignment alike.
    ///
    /// # Panics
    /// As [`Vec`].
    pub(super) fn new(lanes: usize) -> Self {
        let len = lanes.saturating_mul(LANES);
        let floats = vec![0.0; len.saturating_add(LANES - 1)];
        let start = floats.as_ptr().align_offset(align_of::<F32x16>());
        Self { floats, start, len }
    }
}

impl Deref for ZeroedLanes {
    type Target = [F32x16];

    #[inline(always)]
    fn deref(&self) -> &[F32x16] {
        bytemuck::cast_slice(&self.floats[self.start..][..self.len])
    }
}

impl DerefMut for ZeroedLanes {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [F32x16] {
        bytemuck::cast_slice_mut(&mut self.floats[self.start..][..self.len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_is_there_zero_and_writable() {
        for lanes in [0, 1, 2, 15, 16, 1000] {
            let mut zeroed = ZeroedLanes::new(lanes);
            assert_eq!(*zeroed, vec![F32x16::ZERO; lanes]);
            zeroed.fill(F32x16([1.0; LANES]));
            assert_eq!(*zeroed, vec![F32x16([1.0; LANES]); lanes]);
        }
    }
}
