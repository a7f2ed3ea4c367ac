//! What a node keeps across restarts: whose it is, and the highest term it has obeyed.
//!
//! Invariant: a term that was acted on is on disk before the orders are carried out, so that a restarted agent still
//! refuses a deposed leader.

use std::fs;
use std::path::{Path, PathBuf};

use protocol::{ClusterId, NodeId, Term};
use serde::{Deserialize, Serialize};

use super::whole_file::{self, FileError};

const FILE: &str = "node.json";

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] FileError),
    /// The file is not ours, or damaged.
    #[error("{path} is not a node's state: {source}; remove it if this node may forget the terms it obeyed")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// It belongs to another node or cluster.
    #[error(
        "state directory {dir} belongs to node `{found_node}` of cluster {found_cluster}, expected node `{node}` of \
         cluster {cluster}"
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// The node that wrote it.
        found_node: NodeId,
        /// Its cluster.
        found_cluster: ClusterId,
        /// This node.
        node: NodeId,
        /// This cluster.
        cluster: ClusterId,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    cluster: ClusterId,
    node: NodeId,
    term: Term,
}

/// A node's state directory.
#[derive(Debug)]
pub struct NodeState {
    dir: PathBuf,
    record: Record,
}

impl NodeState {
    /// Opens the directory, or makes it on the first start.
    ///
    /// # Errors
    /// [`StateError`]; a directory of another node or cluster is left as it is.
    pub fn open(dir: &Path, cluster: ClusterId, node: &NodeId) -> Result<Self, StateError> {
        fs::create_dir_all(dir).map_err(FileError::of("create", dir))?;
        let path = dir.join(FILE);
        let text = match fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let record = Record { cluster, node: node.clone(), term: Term(0) };
                let state = Self { dir: dir.to_owned(), record };
                state.save()?;
                return Ok(state);
            }
            other => other.map_err(FileError::of("read", &path))?,
        };
        let record: Record =
            serde_json::from_slice(&text).map_err(|source| StateError::Malformed { path: path.clone(), source })?;
        if (record.cluster, &record.node) != (cluster, node) {
            let Record { cluster: found_cluster, node: found_node, .. } = record;
            let (dir, node) = (dir.to_owned(), node.clone());
            return Err(StateError::Foreign { dir, found_node, found_cluster, node, cluster });
        }
        Ok(Self { dir: dir.to_owned(), record })
    }

    /// The highest term obeyed.
    #[must_use]
    pub fn term(&self) -> Term {
        self.record.term
    }

    /// Remembers a term; a lower one changes nothing. Durable on return.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn raise_term(&mut self, term: Term) -> Result<(), StateError> {
        if term <= self.record.term {
            return Ok(());
        }
        self.record.term = term;
        self.save()
    }

    fn save(&self) -> Result<(), StateError> {
        let text = serde_json::to_vec(&self.record).expect("a record of plain fields");
        Ok(whole_file::replace(&self.dir, FILE, &[&text])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("a label")
    }

    #[test]
    fn terms_survive_a_restart_and_never_fall() {
        let dir = tempfile::tempdir().expect("a directory");
        let cluster = ClusterId::from_bytes([1; 16]);
        let mut state = NodeState::open(dir.path(), cluster, &node("a")).expect("new");
        state.raise_term(Term(4)).expect("writable");
        state.raise_term(Term(2)).expect("writable");
        assert_eq!(NodeState::open(dir.path(), cluster, &node("a")).expect("ours").term(), Term(4));
    }

    #[test]
    fn a_directory_of_another_cluster_or_node_or_a_damaged_one_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let cluster = ClusterId::from_bytes([1; 16]);
        NodeState::open(dir.path(), cluster, &node("a")).expect("new");
        let other = NodeState::open(dir.path(), ClusterId::from_bytes([2; 16]), &node("a"));
        assert!(matches!(other, Err(StateError::Foreign { .. })));
        assert!(matches!(NodeState::open(dir.path(), cluster, &node("b")), Err(StateError::Foreign { .. })));
        fs::write(dir.path().join(FILE), b"{").expect("writable");
        assert!(matches!(NodeState::open(dir.path(), cluster, &node("a")), Err(StateError::Malformed { .. })));
    }
}
