//! How many requests are in this gateway, from their first byte to their last: a number known before anything of them is
//! read.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bounded number of requests.
#[derive(Debug)]
pub(in crate::gateway) struct Places {
    free: Arc<Semaphore>,
    max: usize,
}

/// A place; given back when dropped.
#[derive(Debug)]
pub(in crate::gateway) struct Permit {
    _place: OwnedSemaphorePermit,
}

impl Places {
    pub(in crate::gateway) fn new(max: usize) -> Self {
        let max = max.clamp(1, Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(max)), max }
    }

    /// A place now, or `None`.
    pub(in crate::gateway) fn take(&self) -> Option<Permit> {
        self.free.clone().try_acquire_owned().ok().map(|place| Permit { _place: place })
    }

    /// How many there are.
    pub(in crate::gateway) fn max(&self) -> usize {
        self.max
    }

    /// How many are taken.
    pub(in crate::gateway) fn taken(&self) -> usize {
        self.max - self.free.available_permits()
    }
}
