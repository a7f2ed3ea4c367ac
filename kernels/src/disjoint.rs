//! An output that several threads write at once, each its own ranges.

use std::marker::PhantomData;

/// A `&mut [T]` that can be cut into ranges from several threads.
#[derive(Clone, Copy)]
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a `&mut [T]`, which may go to another thread where T may; `range` is unsafe, and asks that no
// two live ranges overlap, so sharing it hands out the same as `split_at_mut` would.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Elements `at..at + len`.
    ///
    /// # Safety
    /// No two ranges that live at the same time overlap.
    #[inline(always)]
    pub(crate) unsafe fn range(&self, at: usize, len: usize) -> &'a mut [T] {
        assert!(at <= self.len && len <= self.len - at, "{at} + {len} of {}", self.len);
        // SAFETY: inside the slice (checked above); not aliased, which the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}
