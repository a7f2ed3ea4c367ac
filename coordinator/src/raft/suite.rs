//! openraft's own suite of tests for stores, and what it does not cover: reopening and damage.

use openraft::StorageError;
use openraft::testing::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::log_store::LogStore;
use super::state_machine::StateMachine;
use super::type_config::TypeConfig;

struct OnDisk;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<u64>> {
        let dir = tempfile::tempdir().expect("a directory");
        let log = LogStore::open(dir.path()).expect("an empty log opens");
        let state_machine = StateMachine::open(dir.path()).expect("no snapshot yet");
        Ok((dir, log, state_machine))
    }
}

#[test]
fn the_stores_pass_openrafts_suite() {
    Suite::test_all(OnDisk).expect("every test of the suite");
}
