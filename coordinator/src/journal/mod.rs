//! What keeps a stream beyond the life of the gateway that tells it: a copy of its request, and of the ids that were taken,
//! at one other coordinator.
//!
//! ```text
//!  desk: streams that are told here ──courier, in batches──▶ shelf of one other coordinator; while it does not acknowledge a
//!        stream's opening, of another one too
//!  claim: whoever goes on with a stream asks every desk and every shelf, its own too; the newest entry counts
//! ```
//! Not here: how a stream is told, or goes on (`gateway`). Invariants: no stream waits for its journal; both what is kept for
//! others and what is held here of own streams is bounded in bytes; an entry that nobody renews is forgotten.

mod claim;
mod courier;
mod desk;
mod peers;
mod recorder;
mod shelf;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use protocol::journal::{JournalEntry, JournalRequest, JournalResponse};
use tokio::sync::Notify;

pub(crate) use claim::Claimed;
use desk::Desk;
pub use peers::{PeerSilent, Peers};
pub(crate) use recorder::Recorder;
use shelf::{Shelf, Shelved};

use crate::runtime;

/// One coordinator's journal. Clones share it.
#[derive(Clone, Default)]
pub struct Journal(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// What is told here.
    desk: Mutex<Desk>,
    /// What is kept for others, or here for want of others.
    shelf: Mutex<Shelf>,
    /// That the desk has something to send.
    news: Notify,
    /// Nobody, until this coordinator's links are up.
    peers: OnceLock<Arc<dyn Peers>>,
}

/// How much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JournalStats {
    /// Streams that are told here and kept elsewhere.
    pub streams: u64,
    /// Entries that are kept here.
    pub entries: u64,
    /// Memory of both, bytes.
    pub bytes: u64,
}

impl Journal {
    /// Says who the other coordinators are; once.
    pub fn connect(&self, peers: Arc<dyn Peers>) {
        if self.0.peers.set(peers).is_err() {
            tracing::warn!("the journal has its peers already");
        }
        self.0.news.notify_one();
    }

    /// Answers another coordinator.
    pub fn serve(&self, request: JournalRequest) -> JournalResponse {
        let now = runtime::now();
        match request {
            JournalRequest::Begin(entry) => match self.shelf().begin(*entry, now) {
                Shelved::Kept => JournalResponse::Kept,
                Shelved::Full => JournalResponse::Full,
            },
            JournalRequest::Take(taken) => {
                let mut shelf = self.shelf();
                let unknown: Vec<_> =
                    taken.into_iter().filter_map(|t| (!shelf.take(&t, now)).then_some(t.id)).collect();
                if unknown.is_empty() { JournalResponse::Kept } else { JournalResponse::Unknown(unknown) }
            }
            JournalRequest::Claim { id, principal } => {
                JournalResponse::Found(self.give_up(id, &principal, now).map(Box::new))
            }
        }
    }

    /// Has a stream that is told from now on kept; `None` where it is too large, or too much is held already.
    pub(crate) fn record(&self, entry: JournalEntry, deadline: Instant) -> Option<Recorder> {
        let (id, version) = (entry.id, entry.version);
        let taken_over = self.desk().open(entry, deadline, runtime::now())?;
        self.0.news.notify_one();
        Some(Recorder::new(self.clone(), id, version, taken_over))
    }

    /// How much is held now.
    #[must_use]
    pub fn stats(&self) -> JournalStats {
        let (streams, own) = self.desk().held();
        let (entries, kept) = self.shelf().held(runtime::now());
        JournalStats { streams, entries, bytes: own + kept }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.0.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.0.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of two entries of an id the one of the greater age counts: of one version, the one that has more of the answer.
fn age(entry: &JournalEntry) -> (u64, usize) {
    (entry.version, entry.taken.iter().map(Vec::len).sum())
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
