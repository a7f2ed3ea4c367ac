//! The newest snapshot as a file: written beside the old one, fsynced, then renamed over it.
//!
//! Not here: what is in the state. Invariant: after a crash at any point there is either the old snapshot or the new
//! one, whole; a changed one is refused.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::codec::{self, CodecError};
use super::log_store::REPLACE;
#[cfg(feature = "sim")]
use super::simulated::SimDisk;
use super::type_config::{Member, NodeId};
use super::waits::Waits;

const FILE: &str = "snapshot";
const TEMPORARY: &str = "snapshot.tmp";

pub(super) type Meta = openraft::SnapshotMeta<NodeId, Member>;

/// Why the snapshot cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file system says no.
    #[error("snapshot {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Its reason.
        source: io::Error,
    },
    /// The log has dropped what only a snapshot has, and that is not there.
    #[error("snapshot {path} ends at entry {last}, and the log has dropped entries up to {purged}; {REPLACE}")]
    Behind {
        /// The file.
        path: PathBuf,
        /// Its last entry; 0 where there is no snapshot.
        last: u64,
        /// The last entry that is not in the log any more.
        purged: u64,
    },
    /// The file was changed since it was written.
    #[error("snapshot {path} is damaged ({source}); {REPLACE}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CodecError,
    },
}

/// A snapshot: up to where, and the state there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredSnapshot {
    pub(super) meta: Meta,
    /// The record of a [`crate::state::ClusterState`].
    pub(super) data: Vec<u8>,
}

/// Where a coordinator's snapshot is.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// A file of this directory.
    Dir(Arc<Path>),
    /// A simulated disk.
    #[cfg(feature = "sim")]
    Simulated(SimDisk),
}

impl Place {
    /// Its name in errors.
    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::Dir(dir) => dir.join(FILE),
            #[cfg(feature = "sim")]
            Self::Simulated(_) => PathBuf::from("simulated/snapshot"),
        }
    }

    /// How writes of it wait.
    pub(super) fn waits(&self) -> Waits {
        match self {
            Self::Dir(_) => Waits::OnThread,
            #[cfg(feature = "sim")]
            Self::Simulated(disk) => Waits::Simulated(disk.clone()),
        }
    }

    /// As [`load`].
    pub(super) fn load(&self) -> Result<Option<StoredSnapshot>, SnapshotError> {
        match self {
            Self::Dir(dir) => load(dir),
            #[cfg(feature = "sim")]
            Self::Simulated(disk) => {
                let damaged = |source| SnapshotError::Damaged { path: self.path(), source };
                disk.snapshot().map(|bytes| codec::decode(&bytes).map_err(damaged)).transpose()
            }
        }
    }

    /// As [`store`].
    pub(super) fn store(&self, snapshot: &StoredSnapshot) -> Result<(), SnapshotError> {
        match self {
            Self::Dir(dir) => store(dir, snapshot),
            #[cfg(feature = "sim")]
            Self::Simulated(disk) => {
                let io = |source| SnapshotError::Io { path: self.path(), source };
                disk.put_snapshot(codec::encode(snapshot)).map_err(io)
            }
        }
    }
}

/// Reads the newest snapshot of `dir`; `None` when there is none yet. Takes away what a crash left half written.
pub(super) fn load(dir: &Path) -> Result<Option<StoredSnapshot>, SnapshotError> {
    let path = dir.join(FILE);
    match fs::remove_file(dir.join(TEMPORARY)) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(SnapshotError::Io { path, source }),
        _ => {}
    }
    match fs::read(&path) {
        Ok(bytes) => codec::decode(&bytes).map(Some).map_err(|source| SnapshotError::Damaged { path, source }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SnapshotError::Io { path, source }),
    }
}

/// Makes `snapshot` the newest one of `dir`; it is on the disk when this returns.
pub(super) fn store(dir: &Path, snapshot: &StoredSnapshot) -> Result<(), SnapshotError> {
    write_durably(dir, TEMPORARY, FILE, &codec::encode(snapshot))
        .map_err(|source| SnapshotError::Io { path: dir.join(FILE), source })
}

/// Writes `bytes` to `temporary`, then renames it to `name`; durable when this returns, whole or not there before.
pub(super) fn write_durably(dir: &Path, temporary: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(temporary);
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(id: &str) -> StoredSnapshot {
        StoredSnapshot { meta: Meta { snapshot_id: id.into(), ..Meta::default() }, data: vec![1, 2, 3] }
    }

    #[test]
    fn the_newest_whole_snapshot_is_found_and_half_a_one_is_swept() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(load(dir.path()).expect("empty"), None);
        store(dir.path(), &snapshot("a")).expect("stored");
        store(dir.path(), &snapshot("b")).expect("stored");
        fs::write(dir.path().join(TEMPORARY), b"half").expect("written");
        assert_eq!(load(dir.path()).expect("whole"), Some(snapshot("b")));
        assert!(!dir.path().join(TEMPORARY).exists());
    }

    #[test]
    fn a_changed_snapshot_is_refused_with_its_path() {
        let dir = tempfile::tempdir().expect("a directory");
        store(dir.path(), &snapshot("a")).expect("stored");
        let path = dir.path().join(FILE);
        let mut bytes = fs::read(&path).expect("there");
        *bytes.last_mut().expect("not empty") ^= 1;
        fs::write(&path, bytes).expect("written");
        let error = load(dir.path()).expect_err("damaged").to_string();
        assert!(error.contains("snapshot is damaged") || error.contains("damaged (record checksum"), "{error}");
    }
}
