//! A disk in memory that knows what was synced: what a killed process and a power cut leave of it.
//!
//! Invariant: a handle of an earlier start writes nothing any more; nothing that was synced is ever lost.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::Rng;
use redb::StorageBackend;

use super::runtime::rng;

/// The smallest write that a disk does whole, bytes.
const SECTOR: usize = 512;
/// Longest usual wait of a write, ms; half of it before and half after the bytes are there.
const SEEK_MS_MAX: u64 = 4;
/// One write in so many waits as long as a disk that is busy.
const BUSY_ONE_IN: u32 = 200;
/// How long such a write waits, ms.
const BUSY_MS: u64 = 120;

/// A bug that is put back, to see whether it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// Entries are acknowledged before they are on the disk.
    EntriesNotSynced,
}

#[derive(Debug, Default)]
struct State {
    /// Which start of the process may use it.
    start: u64,
    bytes: Vec<u8>,
    synced: Vec<u8>,
    /// What was done since the last sync.
    pending: Vec<Op>,
    snapshot: Option<Vec<u8>>,
    full: bool,
    planted: Option<Planted>,
}

#[derive(Debug)]
enum Op {
    Write { at: usize, data: Vec<u8> },
    Len(usize),
}

impl Op {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { at, data } => {
                bytes.resize(bytes.len().max(at + data.len()), 0);
                bytes[*at..at + data.len()].copy_from_slice(data);
            }
            Self::Len(len) => bytes.resize(*len, 0),
        }
    }
}

/// One coordinator's disk, as one start of its process has it open. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    start: u64,
}

impl SimDisk {
    /// An empty disk, with a bug in what writes to it where one is asked for.
    #[must_use]
    pub fn new(planted: Option<Planted>) -> Self {
        Self { state: Arc::new(Mutex::new(State { planted, ..State::default() })), start: 0 }
    }

    /// The disk for the next start of the process; earlier handles are of no use from now on. `kept` says of each sector
    /// that was not synced whether it is there: all of them after a kill, any of them after a power cut.
    #[must_use]
    pub fn plug(&self, mut kept: impl FnMut() -> bool) -> Self {
        let mut state = self.lock();
        state.start += 1;
        let pending = std::mem::take(&mut state.pending);
        for op in pending {
            match &op {
                Op::Len(_) if kept() => op.apply(&mut state.synced),
                Op::Len(_) => {}
                Op::Write { at, data } => {
                    for (i, sector) in data.chunks(SECTOR).enumerate().filter(|_| kept()) {
                        Op::Write { at: at + i * SECTOR, data: sector.to_vec() }.apply(&mut state.synced);
                    }
                }
            }
        }
        state.bytes = state.synced.clone();
        let start = state.start;
        drop(state);
        Self { state: Arc::clone(&self.state), start }
    }

    /// Whether every write fails from now on.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// Waits as a disk does.
    pub(in crate::raft) async fn seek(&self) {
        let ms = if rng().gen_ratio(1, BUSY_ONE_IN) { BUSY_MS } else { rng().gen_range(0..=SEEK_MS_MAX) };
        tokio::time::sleep(Duration::from_millis(ms / 2)).await;
    }

    pub(in crate::raft) fn has(&self, planted: Planted) -> bool {
        self.lock().planted == Some(planted)
    }

    pub(in crate::raft) fn snapshot(&self) -> Option<Vec<u8>> {
        self.lock().snapshot.clone()
    }

    /// Durable when this returns: written beside the old one, synced and renamed, as on a real disk.
    pub(in crate::raft) fn put_snapshot(&self, bytes: Vec<u8>) -> io::Result<()> {
        self.writable()?.snapshot = Some(bytes);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics with the disk")
    }

    fn own(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.lock();
        if state.start == self.start { Ok(state) } else { Err(io::Error::other("this process was killed")) }
    }

    fn writable(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.own()?;
        if state.full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(state) }
    }

    fn push(&self, op: Op) -> io::Result<()> {
        let mut state = self.writable()?;
        op.apply(&mut state.bytes);
        state.pending.push(op);
        Ok(())
    }
}

impl StorageBackend for SimDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.own()?.bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let state = self.own()?;
        let found = state.bytes.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.push(Op::Len(usize::try_from(len).map_err(io::Error::other)?))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.writable()?;
        let State { synced, pending, .. } = &mut *state;
        pending.drain(..).for_each(|op| op.apply(synced));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.push(Op::Write { at: usize::try_from(offset).map_err(io::Error::other)?, data: data.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_cut_takes_what_was_not_synced_and_a_kill_does_not() {
        for (kept, expected) in [(true, [1, 2]), (false, [1, 0])] {
            let disk = SimDisk::new(None);
            disk.set_len(1024).expect("room");
            disk.write(0, &[1]).expect("room");
            disk.sync_data().expect("a disk");
            disk.write(600, &[2]).expect("room");
            let next = disk.plug(|| kept);
            let mut found = [0; 2];
            next.read(0, &mut found[..1]).expect("there");
            next.read(600, &mut found[1..]).expect("there");
            assert_eq!(found, expected);
            disk.write(0, &[9]).expect_err("the old process is gone");
        }
    }

    #[test]
    fn a_full_disk_takes_nothing_and_gives_what_it_has() {
        let disk = SimDisk::new(None);
        disk.put_snapshot(vec![7]).expect("room");
        disk.set_full(true);
        assert_eq!(disk.put_snapshot(vec![8]).expect_err("full").kind(), io::ErrorKind::StorageFull);
        disk.set_len(1).expect_err("full");
        assert_eq!(disk.snapshot(), Some(vec![7]));
    }
}
