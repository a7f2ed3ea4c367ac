//! How much memory the pictures of all requests may hold, from their decoding to the end of the request, which may have to
//! send them to another replica.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is counted, bytes.
const UNIT: u64 = 1 << 10;

/// A bounded number of bytes.
#[derive(Debug)]
pub(in crate::gateway) struct PictureMemory {
    free: Arc<Semaphore>,
    units: usize,
}

/// Bytes that are held; given back when dropped.
#[derive(Debug)]
pub(in crate::gateway) struct HeldBytes {
    _units: OwnedSemaphorePermit,
}

impl PictureMemory {
    pub(in crate::gateway) fn new(bytes_max: u64) -> Self {
        let units = usize::try_from(bytes_max / UNIT).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(units)), units }
    }

    /// The bound, bytes.
    pub(super) fn max(&self) -> u64 {
        self.units as u64 * UNIT
    }

    /// How much is held, bytes.
    pub(in crate::gateway) fn held(&self) -> u64 {
        self.units.saturating_sub(self.free.available_permits()) as u64 * UNIT
    }

    /// So many bytes now, or `None`.
    pub(super) fn hold(&self, bytes: u64) -> Option<HeldBytes> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).ok()?;
        self.free.clone().try_acquire_many_owned(units).ok().map(|units| HeldBytes { _units: units })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_free_again() {
        let memory = PictureMemory::new(4096);
        let first = memory.hold(3000).expect("room");
        assert_eq!((memory.held(), memory.max()), (3072, 4096));
        assert!(memory.hold(2000).is_none());
        drop(first);
        assert!(memory.hold(4096).is_some());
        assert_eq!(memory.held(), 0);
        assert!(memory.hold(u64::MAX).is_none());
    }
}
