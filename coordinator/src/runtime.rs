//! The runtime's own clock and its threads for what blocks, so that both can be simulated.
//!
//! Invariant: outside a simulation this is the system's monotonic clock, and what blocks is on a thread of its own.

use std::time::Instant;

use tokio::task::JoinError;

/// The present moment, by the runtime's clock; the system's where there is no runtime.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Does what would hold up the runtime.
///
/// # Errors
/// When it panics.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    // A thread would finish when it likes, and no run would be like another.
    #[cfg(feature = "sim")]
    if crate::raft::simulated::is_simulated() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}
