//! Where a write waits for its disk: on a thread of its own, or, on a simulated disk, for as long as that says.
//!
//! Not here: what is written. Invariant: no runtime thread waits for a real disk.

use redb::Durability;

#[cfg(feature = "sim")]
use super::simulated::{Planted, SimDisk};

/// How a store's writes wait.
#[derive(Debug, Clone, Default)]
pub(super) enum Waits {
    /// On one of the runtime's blocking threads.
    #[default]
    OnThread,
    /// In simulated time, in the caller's turn: a thread would finish when it likes, and no run would be like another.
    #[cfg(feature = "sim")]
    Simulated(SimDisk),
}

impl Waits {
    /// How entries, and the mark that says how far they are committed, are written: on the disk when that returns. The simulator can
    /// put a bug back here; one of the two synced would hide that the other is not.
    pub(super) fn durability(&self) -> Durability {
        match self {
            #[cfg(feature = "sim")]
            Self::Simulated(disk) if disk.has(Planted::EntriesNotSynced) => Durability::None,
            _ => Durability::Immediate,
        }
    }

    /// Does `write` where it may wait.
    pub(super) async fn run<T: Send + 'static>(&self, write: impl FnOnce() -> T + Send + 'static) -> T {
        match self {
            Self::OnThread => {
                tokio::task::spawn_blocking(write).await.expect("a write does not panic, and is never aborted")
            }
            #[cfg(feature = "sim")]
            Self::Simulated(disk) => {
                disk.seek().await;
                let written = write();
                disk.seek().await;
                written
            }
        }
    }
}
