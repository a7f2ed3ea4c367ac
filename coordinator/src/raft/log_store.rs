//! The log and the vote on disk, in one redb file of fixed name.
//!
//! Not here: the state that the log leads to (`state_machine`). Invariants: an entry, a vote or a truncation is on the
//! disk before it is acknowledged; the log has no hole; a record that was changed since it was written stops the
//! coordinator and is named; a committed index is on the disk before what it commits is applied, so that a coordinator that
//! starts alone serves by what it served by before. What is only an optimisation (purging) waits for the next fsync.

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{AnyError, OptionalSend, RaftLogReader};
use redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use serde::de::DeserializeOwned;

use super::codec::{self, CodecError};
use super::snapshot::write_durably;
use super::type_config::{Entry, LogId, StorageError, StorageIOError, TypeConfig, Vote};
use super::waits::Waits;

const FILE: &str = "raft.redb";
/// Says that there was a log here once: one that is gone took its votes along.
const BEGUN: &str = "raft.begun";
const BEGUN_TEMPORARY: &str = "raft.begun.tmp";
/// Entries by index.
const LOG: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("log");
/// Single records by name.
const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";
const ENTERED: &str = "entered";
/// Memory that redb may keep pages in, bytes: the log is short.
const CACHE_BYTES: usize = 4 << 20;
/// Most entries that are read for one message to a follower.
const READ_ENTRIES_MAX: u64 = 256;

/// What to do about a file that is not what was written.
pub(super) const REPLACE: &str = "restore the state directory, or replace this coordinator by one with a new id (with \
                                  this id and an empty directory it would forget its votes)";

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be opened or read.
    #[error("raft log {path}: {source}; if it is damaged, {REPLACE}")]
    File {
        /// The file.
        path: PathBuf,
        /// What redb says.
        source: Box<redb::Error>,
    },
    /// There was a log, and there is none.
    #[error("raft log {path} is missing or empty; {REPLACE}")]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// A record was changed since it was written.
    #[error("raft log {path}: {record} is damaged ({source}); {REPLACE}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which record.
        record: String,
        /// What is wrong with it.
        source: CodecError,
    },
    /// The entries do not follow one another.
    #[error("raft log {path}: entry {expected} is missing; {REPLACE}")]
    Hole {
        /// The file.
        path: PathBuf,
        /// The first missing index.
        expected: u64,
    },
}

/// The log store; clones share one file.
#[derive(Debug, Clone)]
pub(super) struct LogStore {
    db: Arc<Database>,
    path: Arc<PathBuf>,
    waits: Waits,
}

impl LogStore {
    /// Opens or makes the log in `dir` and checks every record of it. Blocks on the disk.
    ///
    /// # Errors
    /// [`LogError`]: the file or the record that is wrong, and what to do.
    pub(super) fn open(dir: &Path) -> Result<Self, LogError> {
        let path = dir.join(FILE);
        let io = |source| LogError::File { path: path.clone(), source: Box::new(redb::Error::Io(source)) };
        let begun = fs::exists(dir.join(BEGUN)).map_err(io)?;
        if begun && !fs::metadata(&path).is_ok_and(|file| file.len() > 0) {
            return Err(LogError::Gone { path });
        }
        let store = Self::over(&path, |builder| builder.create(&path))?;
        if !begun {
            write_durably(dir, BEGUN_TEMPORARY, BEGUN, b"").map_err(io)?;
        }
        Ok(store)
    }

    /// The same on whatever disk `create` knows; `path` is its name in errors.
    pub(super) fn over(
        path: &Path,
        create: impl FnOnce(&Builder) -> Result<Database, DatabaseError>,
    ) -> Result<Self, LogError> {
        let file = |source: redb::Error| LogError::File { path: path.to_owned(), source: Box::new(source) };
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        let db = create(&builder).map_err(|e| file(e.into()))?;
        let store = Self { db: Arc::new(db), path: Arc::new(path.to_owned()), waits: Waits::default() };
        store.create_tables().map_err(file)?;
        store.check()?;
        Ok(store)
    }

    /// The same log, whose writes wait in another way.
    #[cfg(feature = "sim")]
    pub(super) fn waiting(self, waits: Waits) -> Self {
        Self { waits, ..self }
    }

    fn create_tables(&self) -> Result<(), redb::Error> {
        let tx = begin(&self.db, Durability::Immediate)?;
        tx.open_table(LOG)?;
        tx.open_table(META)?;
        Ok(tx.commit()?)
    }

    fn check(&self) -> Result<(), LogError> {
        self.meta::<Vote>(VOTE)?;
        self.meta::<LogId>(COMMITTED)?;
        let mut expected = self.purged()?.map(|id| id.index + 1);
        for entry in self.entries(0..)? {
            let index = entry.log_id.index;
            if expected.is_some_and(|e| e != index) {
                return Err(LogError::Hole { path: self.path.to_path_buf(), expected: expected.unwrap_or(index) });
            }
            expected = Some(index + 1);
        }
        Ok(())
    }

    /// The last entry that was dropped because a snapshot has it.
    ///
    /// # Errors
    /// [`LogError`].
    pub(super) fn purged(&self) -> Result<Option<LogId>, LogError> {
        self.meta(PURGED)
    }

    /// Whether there is an entry or a vote, ever was an entry, or the mark that there may be.
    ///
    /// # Errors
    /// [`LogError`].
    pub(super) fn is_begun(&self) -> Result<bool, LogError> {
        let is_marked = self.meta::<()>(ENTERED)?.is_some();
        Ok(is_marked || self.purged()?.is_some() || self.last()?.is_some() || self.meta::<Vote>(VOTE)?.is_some())
    }

    /// Marks that entries and votes may come. Durable on return.
    ///
    /// # Errors
    /// [`LogError`].
    pub(super) async fn mark_entered(&self) -> Result<(), LogError> {
        let wrote = self.put_meta(Durability::Immediate, ENTERED, codec::encode(&())).await;
        wrote.map_err(|e| LogError::File { path: self.path.to_path_buf(), source: Box::new(e) })
    }

    fn meta<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, LogError> {
        let bytes = self.read(|db| {
            let table = db.begin_read()?.open_table(META)?;
            Ok(table.get(key)?.map(|guard| guard.value().to_vec()))
        })?;
        bytes.map(|b| codec::decode(&b).map_err(|e| self.damaged(key.to_owned(), e))).transpose()
    }

    fn entries(&self, range: impl RangeBounds<u64>) -> Result<Vec<Entry>, LogError> {
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        let records = self.read(|db| {
            let table = db.begin_read()?.open_table(LOG)?;
            let mut records = Vec::new();
            for item in table.range::<u64>(bounds)? {
                let (index, bytes) = item?;
                records.push((index.value(), bytes.value().to_vec()));
            }
            Ok(records)
        })?;
        let decode = |(index, bytes): (u64, Vec<u8>)| {
            codec::decode(&bytes).map_err(|e| self.damaged(format!("entry {index}"), e))
        };
        records.into_iter().map(decode).collect()
    }

    fn last(&self) -> Result<Option<LogId>, LogError> {
        let index = self.read(|db| {
            let table = db.begin_read()?.open_table(LOG)?;
            Ok(table.last()?.map(|(index, _)| index.value()))
        })?;
        let Some(index) = index else { return Ok(None) };
        Ok(self.entries(index..=index)?.pop().map(|e| e.log_id))
    }

    fn read<T>(&self, f: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, LogError> {
        f(&self.db).map_err(|e| LogError::File { path: self.path.to_path_buf(), source: Box::new(e) })
    }

    fn damaged(&self, record: String, source: CodecError) -> LogError {
        LogError::Damaged { path: self.path.to_path_buf(), record, source }
    }

    /// One transaction, off the async threads: a commit waits for the disk.
    async fn write<F>(&self, durability: Durability, f: F) -> Result<(), redb::Error>
    where
        F: FnOnce(&WriteTransaction) -> Result<(), redb::Error> + Send + 'static,
    {
        let db = Arc::clone(&self.db);
        let commit = move || {
            let tx = begin(&db, durability)?;
            f(&tx)?;
            Ok(tx.commit()?)
        };
        self.waits.run(commit).await
    }

    async fn put_meta(&self, durability: Durability, key: &'static str, record: Vec<u8>) -> Result<(), redb::Error> {
        self.write(durability, move |tx| {
            tx.open_table(META)?.insert(key, record.as_slice())?;
            Ok(())
        })
        .await
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.entries(range).map_err(|e| StorageIOError::read_logs(AnyError::new(&e)).into())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.try_get_log_entries(start..end.min(start.saturating_add(READ_ENTRIES_MAX))).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let read = |e: LogError| StorageError::from(StorageIOError::read_logs(AnyError::new(&e)));
        let last_purged_log_id = self.purged().map_err(read)?;
        let last_log_id = self.last().map_err(read)?.or(last_purged_log_id);
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let wrote = self.put_meta(Durability::Immediate, VOTE, codec::encode(vote)).await;
        wrote.map_err(|e| StorageIOError::write_vote(AnyError::new(&e)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        self.meta(VOTE).map_err(|e| StorageIOError::read_vote(AnyError::new(&e)).into())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let Some(committed) = committed else { return Ok(()) };
        let wrote = self.put_meta(self.waits.durability(), COMMITTED, codec::encode(&committed)).await;
        wrote.map_err(|e| StorageIOError::write(AnyError::new(&e)).into())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        self.meta(COMMITTED).map_err(|e| StorageIOError::read(AnyError::new(&e)).into())
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records: Vec<_> = entries.into_iter().map(|e| (e.log_id.index, codec::encode(&e))).collect();
        let wrote = self
            .write(self.waits.durability(), move |tx| {
                let mut table = tx.open_table(LOG)?;
                for (index, record) in &records {
                    table.insert(*index, record.as_slice())?;
                }
                Ok(())
            })
            .await;
        match wrote {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(e) => {
                let error = StorageIOError::write_logs(AnyError::new(&e));
                callback.log_io_completed(Err(io::Error::other(e)));
                Err(error.into())
            }
        }
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let wrote = self.write(Durability::Immediate, move |tx| remove(tx, log_id.index..)).await;
        wrote.map_err(|e| StorageIOError::write_logs(AnyError::new(&e)).into())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let wrote = self
            .write(Durability::None, move |tx| {
                tx.open_table(META)?.insert(PURGED, codec::encode(&log_id).as_slice())?;
                remove(tx, ..=log_id.index)
            })
            .await;
        wrote.map_err(|e| StorageIOError::write_logs(AnyError::new(&e)).into())
    }
}

/// A commit in one phase cannot be told from a torn one once a byte of it has changed: opening would silently go back to the
/// commit before. After one in two phases it is damage, and is refused.
fn begin(db: &Database, durability: Durability) -> Result<WriteTransaction, redb::Error> {
    let mut tx = db.begin_write()?;
    tx.set_durability(durability)?;
    tx.set_two_phase_commit(true);
    Ok(tx)
}

fn remove(tx: &WriteTransaction, range: impl RangeBounds<u64>) -> Result<(), redb::Error> {
    let bounds: (Bound<u64>, Bound<u64>) = (range.start_bound().cloned(), range.end_bound().cloned());
    let mut table = tx.open_table(LOG)?;
    table.retain_in::<u64, _>(bounds, |_, _| false)?;
    Ok(())
}
