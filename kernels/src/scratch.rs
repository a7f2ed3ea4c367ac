//! Buffers that a thread keeps between calls, so that a call in the decode loop allocates nothing.

use std::cell::RefCell;

use crate::simd::F32x16;

thread_local! {
    /// Free buffers, the outermost caller's last: calls nest two deep, and each finds the buffer it had before.
    static FREE: RefCell<Vec<Vec<F32x16>>> = const { RefCell::new(Vec::new()) };
}

/// Lanes kept for the next call, 16 MiB; a larger buffer is given back to the system.
const KEPT_LANES_MAX: usize = 1 << 18;

/// Runs `f` with `lanes` lanes of unspecified contents.
pub(crate) fn with<R>(lanes: usize, f: impl FnOnce(&mut [F32x16]) -> R) -> R {
    let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < lanes {
        buffer.resize(lanes, F32x16::ZERO);
    }
    let result = f(&mut buffer[..lanes]);
    if buffer.len() <= KEPT_LANES_MAX {
        FREE.with_borrow_mut(|free| free.push(buffer));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_calls_find_their_buffers_again() {
        let addresses = || with(100, |outer| (outer.as_ptr(), with(10, |inner| inner.as_ptr())));
        let (outer, inner) = addresses();
        assert_ne!(outer, inner);
        assert_eq!(addresses(), (outer, inner));
    }

    #[test]
    fn a_buffer_past_the_bound_is_not_kept() {
        with(KEPT_LANES_MAX + 1, |_| ());
        assert!(FREE.with_borrow(Vec::is_empty));
    }
}
