//! The directory of a coordinator's state: whose it is, and that only one process uses it.
//!
//! Not here: what is in it. Invariant: nothing is written into a directory that is another's.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use protocol::{ClusterId, CoordinatorId};

use super::snapshot::write_durably;

const FILE: &str = "cluster.id";
/// What a new ext4 has in it: a disk of its own is an empty directory.
const OF_THE_DISK: &str = "lost+found";
const LOCK: &str = "lock";

/// Why a directory cannot be a coordinator's.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// The file system says no.
    #[error("state directory {dir}: {source}")]
    Io {
        /// The directory.
        dir: PathBuf,
        /// Its reason.
        source: io::Error,
    },
    /// Another's.
    #[error(
        "state directory {dir} belongs to coordinator {found_id} of cluster {found_cluster}, expected coordinator {id} \
         of cluster {cluster}"
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// The cluster that it was made for.
        found_cluster: ClusterId,
        /// The coordinator that it was made for.
        found_id: CoordinatorId,
        /// This cluster.
        cluster: ClusterId,
        /// This coordinator.
        id: CoordinatorId,
    },
    /// Not one of ours, or damaged.
    #[error("state directory {dir}: {file} reads `{found}`, expected `<cluster id> <coordinator id>`")]
    Malformed {
        /// The directory.
        dir: PathBuf,
        /// The file in it.
        file: &'static str,
        /// What it says, cut to 80 characters.
        found: String,
    },
    /// There is something else in it.
    #[error("directory {dir} is not empty and has no {file}: expected an empty one or a coordinator's")]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
        /// The file that is missing.
        file: &'static str,
    },
    /// Another process uses it.
    #[error("state directory {dir} is in use by another process")]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
}

/// A coordinator's state directory, held until dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Locked; the system lets go of it when the process ends, however it ends.
    _lock: File,
}

impl StateDir {
    /// Opens `dir`, or makes it, for coordinator `id` of `cluster`.
    ///
    /// # Errors
    /// [`StateDirError`]; a directory that is refused is left as it was found.
    pub fn open(dir: &Path, cluster: ClusterId, id: CoordinatorId) -> Result<Self, StateDirError> {
        let io = |source| StateDirError::Io { dir: dir.to_owned(), source };
        fs::create_dir_all(dir).map_err(io)?;
        let known = match fs::read_to_string(dir.join(FILE)) {
            Ok(text) => check(dir, &text, cluster, id).map(|()| true)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut others = fs::read_dir(dir).map_err(io)?.flatten().map(|e| e.file_name());
                if others.any(|name| name != LOCK && name != TEMPORARY && name != OF_THE_DISK) {
                    return Err(StateDirError::NotEmpty { dir: dir.to_owned(), file: FILE });
                }
                false
            }
            Err(e) if e.kind() == io::ErrorKind::InvalidData => check(dir, "(not text)", cluster, id).map(|()| true)?,
            Err(e) => return Err(io(e)),
        };
        let lock = File::create(dir.join(LOCK)).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateDirError::InUse { dir: dir.to_owned() }),
            Err(TryLockError::Error(e)) => return Err(io(e)),
        }
        if !known {
            write_durably(dir, TEMPORARY, FILE, format!("{cluster} {id}\n").as_bytes()).map_err(io)?;
        }
        Ok(Self { path: dir.to_owned(), _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

const TEMPORARY: &str = "cluster.id.tmp";

fn check(dir: &Path, text: &str, cluster: ClusterId, id: CoordinatorId) -> Result<(), StateDirError> {
    let parsed = text
        .trim_end()
        .split_once(' ')
        .and_then(|(cluster, id)| Some((ClusterId::parse(cluster).ok()?, CoordinatorId(id.parse().ok()?))));
    let Some((found_cluster, found_id)) = parsed else {
        let found = text.trim_end().chars().take(80).collect();
        return Err(StateDirError::Malformed { dir: dir.to_owned(), file: FILE, found });
    };
    if (found_cluster, found_id) != (cluster, id) {
        return Err(StateDirError::Foreign { dir: dir.to_owned(), found_cluster, found_id, cluster, id });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_its_coordinators_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let (ours, theirs) = (ClusterId::from_bytes([1; 16]), ClusterId::from_bytes([2; 16]));
        fs::create_dir(dir.path().join(OF_THE_DISK)).expect("created");
        let held = StateDir::open(dir.path(), ours, CoordinatorId(1)).expect("empty, on a disk of its own");
        let again = StateDir::open(dir.path(), ours, CoordinatorId(1));
        assert!(matches!(again, Err(StateDirError::InUse { .. })), "{again:?}");
        drop(held);
        drop(StateDir::open(dir.path(), ours, CoordinatorId(1)).expect("its own"));
        let other = StateDir::open(dir.path(), theirs, CoordinatorId(1)).expect_err("another cluster's");
        assert!(matches!(&other, StateDirError::Foreign { found_cluster, .. } if *found_cluster == ours));
        assert_eq!(other.to_string().lines().count(), 1);
        let other = StateDir::open(dir.path(), ours, CoordinatorId(2));
        assert!(matches!(other, Err(StateDirError::Foreign { .. })));
        fs::write(dir.path().join(FILE), "rubbish").expect("written");
        let other = StateDir::open(dir.path(), ours, CoordinatorId(1));
        assert!(matches!(other, Err(StateDirError::Malformed { .. })));
        fs::remove_file(dir.path().join(FILE)).expect("there");
        fs::write(dir.path().join("thesis.tex"), "precious").expect("written");
        let other = StateDir::open(dir.path(), ours, CoordinatorId(1));
        assert!(matches!(other, Err(StateDirError::NotEmpty { .. })));
    }
}
