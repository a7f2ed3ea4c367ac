//! The replicated state in memory, as the log says it, and its snapshots.
//!
//! Not here: what a command does (`state`). Invariant: the state is that of exactly the entries up to `last_applied`;
//! what is published was applied before.

use std::io::Cursor;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot};
use tokio::sync::watch;

use super::codec;
use super::snapshot::{Meta, Place, SnapshotError, StoredSnapshot};
use super::type_config::{Entry, LogId, Outcome, StorageError, StorageIOError, StoredMembership, TypeConfig};
use crate::state::ClusterState;

/// The state as of one log index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppliedState {
    /// Index of the last applied entry; 0 before the first.
    pub index: u64,
    /// The state there.
    pub state: Arc<ClusterState>,
}

/// The state machine; clones share one state.
#[derive(Debug, Clone)]
pub(super) struct StateMachine {
    place: Place,
    inner: Arc<Mutex<Inner>>,
    published: Arc<watch::Sender<AppliedState>>,
}

#[derive(Debug, Default)]
struct Inner {
    last_applied: Option<LogId>,
    membership: StoredMembership,
    state: Arc<ClusterState>,
    snapshot: Option<StoredSnapshot>,
    /// Snapshots built since the start: part of their ids.
    num_built: u64,
}

impl StateMachine {
    /// Starts from the newest snapshot in `dir`, or from nothing where the log has dropped nothing (`purged`). Blocks on the
    /// disk.
    ///
    /// # Errors
    /// [`SnapshotError`]: a snapshot that cannot be read or is missing, and what to do.
    pub(super) fn open(dir: &Path, purged: Option<LogId>) -> Result<Self, SnapshotError> {
        Self::at(Place::Dir(dir.into()), purged)
    }

    /// The same, wherever the snapshot is.
    pub(super) fn at(place: Place, purged: Option<LogId>) -> Result<Self, SnapshotError> {
        let mut inner = Inner::default();
        if let Some(stored) = place.load()? {
            let damaged = |source| SnapshotError::Damaged { path: place.path(), source };
            inner.state = Arc::new(codec::decode(&stored.data).map_err(damaged)?);
            inner.install(stored);
        }
        if let Some(purged) = purged.filter(|purged| inner.last_applied < Some(*purged)) {
            let last = inner.last_applied.map_or(0, |id| id.index);
            return Err(SnapshotError::Behind { path: place.path(), last, purged: purged.index });
        }
        let published = Arc::new(watch::Sender::new(inner.published()));
        Ok(Self { place, inner: Arc::new(Mutex::new(inner)), published })
    }

    /// The applied state, always the newest.
    #[must_use]
    pub(super) fn subscribe(&self) -> watch::Receiver<AppliedState> {
        self.published.subscribe()
    }

    /// The membership as applied.
    #[must_use]
    pub(super) fn membership(&self) -> StoredMembership {
        self.lock().membership.clone()
    }

    /// Whether nothing was ever applied, nor a snapshot read.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.lock().last_applied.is_none()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while it holds the state")
    }

    async fn store(&self, stored: StoredSnapshot) -> Result<StoredSnapshot, SnapshotError> {
        let place = self.place.clone();
        self.place.waits().run(move || place.store(&stored).map(|()| stored)).await
    }
}

impl Inner {
    fn apply(&mut self, entry: Entry) -> Outcome {
        self.last_applied = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => Outcome::Internal,
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                Outcome::Internal
            }
            EntryPayload::Normal(command) => Outcome::Command(Arc::make_mut(&mut self.state).apply(command)),
        }
    }

    fn install(&mut self, stored: StoredSnapshot) {
        self.last_applied = stored.meta.last_log_id;
        self.membership = stored.meta.last_membership.clone();
        self.snapshot = Some(stored);
    }

    fn published(&self) -> AppliedState {
        AppliedState { index: self.last_applied.map_or(0, |id| id.index), state: Arc::clone(&self.state) }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let inner = self.lock();
        Ok((inner.last_applied, inner.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcome>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut inner = self.lock();
        let outcomes = entries.into_iter().map(|entry| inner.apply(entry)).collect();
        let published = inner.published();
        drop(inner);
        self.published.send_replace(published);
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(&mut self, meta: &Meta, data: Box<Cursor<Vec<u8>>>) -> Result<(), StorageError> {
        let data = data.into_inner();
        let state = codec::decode::<ClusterState>(&data)
            .map_err(|e| StorageIOError::read_snapshot(Some(meta.signature()), AnyError::new(&e)))?;
        let stored = self
            .store(StoredSnapshot { meta: meta.clone(), data })
            .await
            .map_err(|e| StorageIOError::write_snapshot(Some(meta.signature()), AnyError::new(&e)))?;
        let mut inner = self.lock();
        inner.state = Arc::new(state);
        inner.install(stored);
        let published = inner.published();
        drop(inner);
        self.published.send_replace(published);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        Ok(self.lock().snapshot.as_ref().map(open))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let (meta, state) = {
            let mut inner = self.lock();
            inner.num_built += 1;
            let index = inner.last_applied.map_or(0, |id| id.index);
            let meta = Meta {
                last_log_id: inner.last_applied,
                last_membership: inner.membership.clone(),
                snapshot_id: format!("{index}-{}", inner.num_built),
            };
            (meta, Arc::clone(&inner.state))
        };
        let signature = meta.signature();
        let stored = self
            .store(StoredSnapshot { meta, data: codec::encode(state.as_ref()) })
            .await
            .map_err(|e| StorageIOError::write_snapshot(Some(signature), AnyError::new(&e)))?;
        let snapshot = open(&stored);
        self.lock().snapshot = Some(stored);
        Ok(snapshot)
    }
}

fn open(stored: &StoredSnapshot) -> Snapshot<TypeConfig> {
    Snapshot { meta: stored.meta.clone(), snapshot: Box::new(Cursor::new(stored.data.clone())) }
}
