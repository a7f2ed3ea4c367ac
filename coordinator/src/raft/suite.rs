//! openraft's own suite of tests for stores, and what it does not cover: reopening, and records and files that are gone.
//!
//! Not here: a disk that loses or changes bytes (`crash`).

use std::fs;
use std::path::{Path, PathBuf};

use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, EntryPayload, RaftLogReader, RaftSnapshotBuilder, StorageError, StorageHelper};
use protocol::{Epoch, ReplicaId};
use redb::{Database, TableDefinition};
use tempfile::TempDir;

use super::log_store::{LogError, LogStore};
use super::state_machine::StateMachine;
use super::type_config::{Entry, LogId, TypeConfig, Vote};
use crate::state::{Command, ReplicaCommand};

struct OnDisk;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<u64>> {
        let dir = tempfile::tempdir().expect("a directory");
        let log = LogStore::open(dir.path()).expect("an empty log opens");
        let state_machine = StateMachine::open(dir.path(), None).expect("no snapshot yet");
        Ok((dir, log, state_machine))
    }
}

#[test]
fn the_stores_pass_openrafts_suite() {
    Suite::test_all(OnDisk).expect("every test of the suite");
}

/// Agents and workers fence an earlier leader by its term alone.
#[test]
fn of_two_candidates_of_one_term_neither_goes_before_the_other_until_a_majority_took_one() {
    assert!(Vote::new(5, 1) < Vote::new(6, 1));
    assert_eq!(Vote::new(5, 1).partial_cmp(&Vote::new(5, 2)), None);
    assert!(Vote::new_committed(5, 1) > Vote::new(5, 2));
    assert!(Vote::new_committed(5, 2) > Vote::new(5, 1));
}

fn entry(index: u64) -> Entry {
    let lose = ReplicaCommand::Lose { replica: ReplicaId(index), epoch: Epoch(1), reason: "x".repeat(200) };
    let log_id = LogId::new(CommittedLeaderId::new(1, 1), index);
    Entry { log_id, payload: EntryPayload::Normal(Command::Replica(lose)) }
}

/// A log of twenty entries and a vote, closed.
async fn written(dir: &Path) -> Vec<Entry> {
    let entries: Vec<_> = (0..20).map(entry).collect();
    let mut log = LogStore::open(dir).expect("empty");
    log.save_vote(&Vote::new(3, 2)).await.expect("written");
    log.blocking_append(entries.clone()).await.expect("written");
    entries
}

fn file(dir: &Path) -> PathBuf {
    dir.join("raft.redb")
}

#[tokio::test]
async fn what_was_written_is_there_after_opening_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let entries = written(dir.path()).await;
    let mut log = LogStore::open(dir.path()).expect("whole");
    assert_eq!(log.try_get_log_entries(..).await.expect("readable"), entries);
    assert_eq!(log.read_vote().await.expect("readable"), Some(Vote::new(3, 2)));
    let limited = log.limited_get_log_entries(5, 8).await.expect("readable");
    assert_eq!(limited, &entries[5..8]);
}

#[tokio::test]
async fn a_changed_or_missing_record_is_named_with_what_to_do() {
    const LOG: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("log");
    for change in ["flip", "remove"] {
        let dir = tempfile::tempdir().expect("a directory");
        written(dir.path()).await;
        let db = Database::open(file(dir.path())).expect("a database");
        let tx = db.begin_write().expect("a transaction");
        {
            let mut table = tx.open_table(LOG).expect("the log");
            let record = table.remove(7).expect("readable").expect("there").value().to_vec();
            if change == "flip" {
                let mut record = record;
                record[30] ^= 4;
                table.insert(7, record.as_slice()).expect("written");
            }
        }
        tx.commit().expect("committed");
        drop(db);
        let error = LogStore::open(dir.path()).expect_err("not what was written");
        assert!(matches!(error, LogError::Damaged { .. } | LogError::Hole { .. }), "{error}");
        let line = error.to_string();
        assert!(line.contains("entry 7") && line.contains("replace this coordinator"), "{line}");
        assert_eq!(line.lines().count(), 1);
    }
}

#[tokio::test]
async fn a_log_that_is_gone_is_not_begun_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    written(dir.path()).await;
    fs::write(file(dir.path()), b"").expect("written");
    let refused = || LogStore::open(dir.path()).expect_err("its votes are forgotten").to_string();
    assert!(
        refused().contains("is missing or empty") && refused().contains("replace this coordinator"),
        "{}",
        refused()
    );
    fs::remove_file(file(dir.path())).expect("there");
    assert!(refused().contains("is missing or empty"), "{}", refused());
    assert!(!file(dir.path()).exists(), "it is left as it was found");
}

#[tokio::test]
async fn a_snapshot_that_the_log_relies_on_must_be_there() {
    let dir = tempfile::tempdir().expect("a directory");
    written(dir.path()).await;
    let mut log = LogStore::open(dir.path()).expect("whole");
    let mut state_machine = StateMachine::open(dir.path(), None).expect("nothing was dropped");
    state_machine.apply((0..10).map(entry)).await.expect("applied");
    state_machine.build_snapshot().await.expect("built");
    log.purge(entry(9).log_id).await.expect("dropped");
    log.save_vote(&Vote::new(4, 2)).await.expect("written");
    drop(log);
    let open = || {
        let log = LogStore::open(dir.path()).expect("whole");
        StateMachine::open(dir.path(), log.purged().expect("readable"))
    };
    open().expect("all of it is there");
    fs::remove_file(dir.path().join("snapshot")).expect("there");
    let error = open().expect_err("the first ten entries are nowhere").to_string();
    assert!(error.contains("entries up to 9") && error.contains("replace this coordinator"), "{error}");
}

/// A state directory as a coordinator leaves it that is killed right after an entry was committed: the entries are on the disk,
/// and no leader will ever say again which of them are committed.
#[tokio::test]
async fn a_store_that_is_opened_alone_applies_what_was_committed_and_no_more() {
    let dir = tempfile::tempdir().expect("a directory");
    {
        let mut log = LogStore::open(dir.path()).expect("empty");
        log.blocking_append((0..3).map(entry)).await.expect("written");
        log.save_committed(Some(entry(1).log_id)).await.expect("written");
        // Killed: what waits for the next fsync is lost.
        std::mem::forget(log);
    }
    // The file of a killed process is not locked any more; that of a forgotten handle is, so it is read from a copy.
    let copy = tempfile::tempdir().expect("a directory");
    fs::copy(file(dir.path()), file(copy.path())).expect("readable");
    let mut log = LogStore::open(copy.path()).expect("whole");
    let mut state_machine = StateMachine::open(copy.path(), None).expect("no snapshot");
    let initial = StorageHelper::new(&mut log, &mut state_machine).get_initial_state().await.expect("readable");
    assert_eq!(initial.committed, Some(entry(1).log_id));
    assert_eq!(state_machine.subscribe().borrow().index, 1);
}
