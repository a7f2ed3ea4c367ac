//! Whether a request is taken at all, decided before any work is done for it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::errors::ApiError;

/// A bounded number of requests in flight.
#[derive(Debug)]
pub(super) struct Admission {
    places: Arc<Semaphore>,
    max: usize,
}

/// A place; given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    _place: OwnedSemaphorePermit,
}

impl Admission {
    pub(super) fn new(max: usize) -> Self {
        let max = max.clamp(1, Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(max)), max }
    }

    /// A place now, or no.
    ///
    /// # Errors
    /// [`ApiError::TooManyRequests`].
    pub(super) fn admit(&self) -> Result<Permit, ApiError> {
        let place = self.places.clone().try_acquire_owned();
        place.map(|place| Permit { _place: place }).map_err(|_| ApiError::TooManyRequests { max: self.max })
    }
}
