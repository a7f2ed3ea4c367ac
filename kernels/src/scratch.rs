//! Buffers that a thread keeps between calls, so that a call in the decode loop allocates nothing.

use std::cell::Cell;

use crate::simd::F32x16;

thread_local! {
    static FREE: Cell<Vec<F32x16>> = const { Cell::new(Vec::new()) };
}

/// Lanes kept for the next call, 16 MiB; a larger buffer is given back to the system.
const KEPT_LANES_MAX: usize = 1 << 18;

/// Runs `f` with `lanes` lanes of unspecified contents.
pub(crate) fn with<R>(lanes: usize, f: impl FnOnce(&mut [F32x16]) -> R) -> R {
    let mut buffer = FREE.take();
    if buffer.len() < lanes {
        buffer.resize(lanes, F32x16::ZERO);
    }
    let result = f(&mut buffer[..lanes]);
    if buffer.len() <= KEPT_LANES_MAX {
        FREE.set(buffer);
    }
    result
}
