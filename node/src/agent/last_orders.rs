//! The last orders of a node on its disk, so that its ranks come back while nobody leads.
//!
//! ```text
//!  0                4
//!  ┌────────────────┬───────────────────────────────────────────┐
//!  │ crc32 of frame │ frame of kind StoredOrders (protocol)     │   little endian
//!  └────────────────┴───────────────────────────────────────────┘
//! ```
//! Not here: what follows from them (`supervisor`). Invariants: after a crash at any point there are the old orders or the new
//! ones, whole; bytes that were changed since are never taken for orders.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use protocol::frame::HEADER_BYTES;
use protocol::lease::StoredOrders;
use protocol::{Epoch, Frame, FrameError, FrameHeader, NodeId};
use rkyv::util::AlignedVec;

use super::whole_file::{self, FileError};

const FILE: &str = "orders";
const CRC_BYTES: usize = 4;
/// Largest file that is written or read, bytes: a few dozen ranks with their plans.
const FILE_BYTES_MAX: u64 = 32 << 20;

/// Why orders cannot be kept, or those that are kept cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OrdersError {
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] FileError),
    /// Too many.
    #[error("{path}: {found} bytes of orders, at most {FILE_BYTES_MAX}")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// How many there are.
        found: u64,
    },
    /// Changed since they were written.
    #[error("{path}: checksum is {found:08x}, expected {expected:08x}")]
    Checksum {
        /// The file.
        path: PathBuf,
        /// What the file says.
        expected: u32,
        /// What its content has.
        found: u32,
    },
    /// Whole, and not orders.
    #[error("{path}: {source}")]
    Frame {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: FrameError,
    },
    /// Another node's.
    #[error("{path}: orders of node `{found}`, expected `{expected}`")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose they are.
        found: NodeId,
        /// Whose they should be.
        expected: NodeId,
    },
}

/// Reads the last orders of `node` in `dir`; `None` where there are none yet.
///
/// # Errors
/// [`OrdersError`]; the file is left as it is.
pub fn load(dir: &Path, node: &NodeId) -> Result<Option<StoredOrders>, OrdersError> {
    let path = dir.join(FILE);
    let mut bytes = Vec::new();
    match fs::File::open(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => {
            let read = opened.and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
            read.map_err(FileError::of("read", &path))?
        }
    };
    let orders = decode(&bytes, &path)?;
    if orders.node != *node {
        return Err(OrdersError::Foreign { path, found: orders.node, expected: node.clone() });
    }
    Ok(Some(orders))
}

/// Makes `orders` the last ones of `dir`; they are on the disk when this returns.
///
/// # Errors
/// [`OrdersError::Io`], [`OrdersError::TooLong`].
pub fn save(dir: &Path, orders: &StoredOrders) -> Result<(), OrdersError> {
    let path = dir.join(FILE);
    let frame = Frame::bytes_of(Epoch(0), orders);
    let frame = frame.map_err(|source| OrdersError::Frame { path: path.clone(), source })?;
    if frame.len() as u64 + CRC_BYTES as u64 > FILE_BYTES_MAX {
        return Err(OrdersError::TooLong { path, found: frame.len() as u64 });
    }
    Ok(whole_file::replace(dir, FILE, &[&crc32fast::hash(&frame).to_le_bytes(), &frame])?)
}

fn decode(bytes: &[u8], path: &Path) -> Result<StoredOrders, OrdersError> {
    let path = path.to_owned();
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(OrdersError::TooLong { path, found: bytes.len() as u64 });
    }
    let (expected, frame) = match bytes.split_first_chunk::<CRC_BYTES>() {
        Some((crc, frame)) => (u32::from_le_bytes(*crc), frame),
        None => (0, bytes),
    };
    let found = crc32fast::hash(frame);
    let Some((header, rest)) = frame.split_first_chunk::<HEADER_BYTES>().filter(|_| found == expected) else {
        return Err(OrdersError::Checksum { path, expected, found });
    };
    let mut body = AlignedVec::with_capacity(rest.len());
    body.extend_from_slice(rest);
    let read = FrameHeader::decode(header).and_then(|h| Frame { kind: h.kind, epoch: h.epoch, body }.read());
    read.map_err(|source| OrdersError::Frame { path, source })
}

#[cfg(test)]
mod tests {
    use protocol::lease::NodeOrders;
    use protocol::{ReplicaId, Term};

    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("a label")
    }

    fn orders(term: u64) -> StoredOrders {
        let orders = NodeOrders { term: Term(term), lease_ms: 1, heartbeat_ms: 1, ranks: vec![], coordinators: vec![] };
        StoredOrders { node: node("a"), orders, groups: vec![], fences: vec![(ReplicaId(1), Epoch(7))] }
    }

    #[test]
    fn the_last_whole_orders_are_found_and_half_written_ones_are_nobodys() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(load(dir.path(), &node("a")).expect("none yet"), None);
        save(dir.path(), &orders(1)).expect("writable");
        save(dir.path(), &orders(2)).expect("writable");
        fs::write(whole_file::beside(&dir.path().join(FILE)), b"half").expect("writable");
        assert_eq!(load(dir.path(), &node("a")).expect("whole"), Some(orders(2)));
    }

    #[test]
    fn any_changed_or_missing_byte_is_refused_and_another_nodes_orders_are() {
        let dir = tempfile::tempdir().expect("a directory");
        save(dir.path(), &orders(1)).expect("writable");
        let path = dir.path().join(FILE);
        let whole = fs::read(&path).expect("there");
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            fs::write(&path, &changed).expect("writable");
            assert!(matches!(load(dir.path(), &node("a")), Err(OrdersError::Checksum { .. })), "byte {at}");
            fs::write(&path, &whole[..at]).expect("writable");
            assert!(load(dir.path(), &node("a")).is_err(), "cut at {at}");
        }
        fs::write(&path, &whole).expect("writable");
        assert!(matches!(load(dir.path(), &node("b")), Err(OrdersError::Foreign { .. })));
    }
}
