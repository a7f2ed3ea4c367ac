//! What the log is after a power cut at any moment, and after any bit of it was changed.
//!
//! The disk is in memory: it remembers every write and sync, so that a test can ask for the bytes that a power cut would have
//! left. Invariant of the log held here: what was acknowledged is there, what was in the making is there whole or not at all,
//! and what is neither is refused with what to do.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{CommittedLeaderId, EntryPayload, RaftLogReader};
use proptest::prelude::RngExt;
use proptest::test_runner::{RngAlgorithm, TestRng};
use protocol::{Epoch, ReplicaId};
use redb::StorageBackend;

use super::log_store::{LogError, LogStore};
use super::type_config::{Entry, LogId, Vote};
use crate::state::{Command, ReplicaCommand};

/// What the smallest write is that a disk does whole, bytes.
const SECTOR: usize = 512;

/// redb's header: two commits, and which of them counts.
const HEADER_BYTES: usize = 320;
/// The one bit that says so. Nothing in the file checks it.
const WHICH_COMMIT: (usize, usize) = (9, 0);

#[derive(Debug, Clone)]
enum Op {
    Write { at: usize, data: Vec<u8> },
    Len(usize),
    Sync,
}

/// A disk of one file. Clones share it.
#[derive(Debug, Clone, Default)]
struct Disk {
    state: Arc<Mutex<DiskState>>,
}

#[derive(Debug, Default)]
struct DiskState {
    bytes: Vec<u8>,
    ops: Vec<Op>,
}

impl DiskState {
    fn apply(bytes: &mut Vec<u8>, op: &Op) {
        match op {
            Op::Write { at, data } => {
                bytes.resize(bytes.len().max(at + data.len()), 0);
                bytes[*at..at + data.len()].copy_from_slice(data);
            }
            Op::Len(len) => bytes.resize(*len, 0),
            Op::Sync => {}
        }
    }

    fn push(&mut self, op: Op) {
        Self::apply(&mut self.bytes, &op);
        self.ops.push(op);
    }
}

impl Disk {
    fn of(bytes: Vec<u8>) -> Self {
        Self { state: Arc::new(Mutex::new(DiskState { bytes, ops: Vec::new() })) }
    }

    fn with<T>(&self, f: impl FnOnce(&mut DiskState) -> T) -> T {
        f(&mut self.state.lock().expect("nothing panics with the disk"))
    }

    fn bytes(&self) -> Vec<u8> {
        self.with(|s| s.bytes.clone())
    }

    fn num_ops(&self) -> usize {
        self.with(|s| s.ops.len())
    }

    /// What is left of the first `ops` operations after a power cut: all that was synced, and of the rest the sectors that
    /// `kept` says.
    fn after_power_cut(&self, ops: usize, mut kept: impl FnMut() -> bool) -> Vec<u8> {
        self.with(|s| {
            let ops = &s.ops[..ops];
            let synced = ops.iter().rposition(|op| matches!(op, Op::Sync)).map_or(0, |at| at + 1);
            let mut bytes = Vec::new();
            ops[..synced].iter().for_each(|op| DiskState::apply(&mut bytes, op));
            for op in &ops[synced..] {
                let Op::Write { at, data } = op else {
                    if kept() {
                        DiskState::apply(&mut bytes, op);
                    }
                    continue;
                };
                for (i, sector) in data.chunks(SECTOR).enumerate() {
                    if kept() {
                        let sector = Op::Write { at: at + i * SECTOR, data: sector.to_vec() };
                        DiskState::apply(&mut bytes, &sector);
                    }
                }
            }
            bytes
        })
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|s| s.bytes.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        self.with(|s| {
            let found = s.bytes.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(found);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.with(|s| s.push(Op::Len(len)));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|s| s.push(Op::Sync));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        self.with(|s| s.push(Op::Write { at, data: data.to_vec() }));
        Ok(())
    }
}

/// What a log says.
#[derive(Debug, Clone, Default, PartialEq)]
struct Said {
    entries: Vec<Entry>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
}

async fn said(log: &mut LogStore) -> Said {
    let entries = log.try_get_log_entries(..).await.expect("readable");
    let vote = log.read_vote().await.expect("readable");
    let committed = log.read_committed().await.expect("readable");
    Said { entries, vote, committed, purged: log.get_log_state().await.expect("readable").last_purged_log_id }
}

fn open(bytes: Vec<u8>) -> Result<LogStore, LogError> {
    LogStore::over(Path::new("raft.redb"), |builder| builder.create_with_backend(Disk::of(bytes)))
}

fn log_id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1, 1), index)
}

fn entry(index: u64) -> Entry {
    let reason = format!("{index} ").repeat(20 + 40 * (index as usize % 5));
    let lose = ReplicaCommand::Lose { replica: ReplicaId(index), epoch: Epoch(1), reason };
    Entry { log_id: log_id(index), payload: EntryPayload::Normal(Command::Replica(lose)) }
}

/// What was said after each step of a life, and how many operations the disk had seen when the step was acknowledged.
struct Life {
    disk: Disk,
    steps: Vec<(usize, Said)>,
    /// Which of them were to be on the disk when they were acknowledged.
    durable: Vec<bool>,
}

async fn life() -> Life {
    let disk = Disk::default();
    let mut log =
        LogStore::over(Path::new("raft.redb"), |builder| builder.create_with_backend(disk.clone())).expect("empty");
    let mut life = Life { disk: disk.clone(), steps: vec![(disk.num_ops(), Said::default())], durable: vec![true] };
    for step in 0..15 {
        let next = said(&mut log).await.entries.last().map_or(0, |e| e.log_id.index + 1);
        match step {
            2 | 7 | 13 => log.save_vote(&Vote::new(step, 2)).await.expect("written"),
            4 => log.blocking_append((next..next + 6).map(entry)).await.expect("written"),
            5 => log.truncate(log_id(next - 3)).await.expect("written"),
            9 => log.purge(log_id(2)).await.expect("written"),
            11 | 14 => log.save_committed(Some(log_id(next - 1))).await.expect("written"),
            _ => log.blocking_append([entry(next)]).await.expect("written"),
        }
        life.steps.push((disk.num_ops(), said(&mut log).await));
        life.durable.push(step != 9);
    }
    // The process is killed here: nothing is closed.
    std::mem::forget(log);
    life
}

#[tokio::test]
async fn a_power_cut_at_any_moment_loses_nothing_that_was_acknowledged() {
    let life = life().await;
    let mut found = BTreeSet::new();
    for seed in 0..4u8 {
        let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
        // All of what was not synced, nothing of it, and any of it.
        let mut kept = || seed == 0 || seed > 1 && rng.random();
        for cut in life.steps[0].0..=life.disk.num_ops() {
            let acknowledged = life.steps.iter().rposition(|(ops, _)| *ops <= cut).expect("the first one is");
            let durable = (0..=acknowledged).rev().find(|step| life.durable[*step]).expect("the first one is");
            let in_the_making = (acknowledged + 1).min(life.steps.len() - 1);
            let mut log = open(life.disk.after_power_cut(cut, &mut kept))
                .unwrap_or_else(|e| panic!("seed {seed}, cut {cut}: {e}"));
            let said = said(&mut log).await;
            let step = (durable..=in_the_making).rev().find(|step| life.steps[*step].1 == said);
            let step = step.unwrap_or_else(|| panic!("seed {seed}, cut {cut}: {said:?} after step {acknowledged}"));
            found.insert(step > acknowledged);
            // It goes on from there.
            let next = said.entries.last().map_or(0, |e| e.log_id.index + 1);
            log.blocking_append([entry(next)]).await.expect("written");
        }
    }
    assert_eq!(found.len(), 2, "what was in the making was sometimes there and sometimes not");
}

#[tokio::test]
async fn a_changed_bit_anywhere_is_refused_or_changes_nothing() {
    let life = life().await;
    let (_, last) = life.steps.last().expect("steps");
    let killed = life.disk.bytes();
    let closed = Disk::of(killed.clone());
    drop(LogStore::over(Path::new("raft.redb"), |builder| builder.create_with_backend(closed.clone())).expect("whole"));
    for (name, good) in [("killed", killed), ("closed", closed.bytes())] {
        let header = (0..HEADER_BYTES).flat_map(|at| (0..8).map(move |bit| (at, bit)));
        let used = (HEADER_BYTES..good.len()).filter(|at| good[*at] != 0).step_by(61).map(|at| (at, at % 8));
        let (mut refused, mut lost) = (0, Vec::new());
        for (at, bit) in header.chain(used).filter(|changed| *changed != WHICH_COMMIT) {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            match open(bytes) {
                Err(_) => refused += 1,
                Ok(mut log) => lost.extend((said(&mut log).await != *last).then_some((at, bit))),
            }
        }
        assert!(lost.is_empty(), "{name}: silently wrong after a change of {lost:?}");
        assert!(refused > 50, "{name}: {refused} changes mattered");
    }
}

#[tokio::test]
async fn a_file_cut_short_is_refused_with_what_to_do() {
    let life = life().await;
    let (_, last) = life.steps.last().expect("steps");
    let good = life.disk.bytes();
    let mut refused = 0;
    for len in (1..good.len()).step_by(1999) {
        match open(good[..len].to_vec()) {
            Err(e) => {
                assert!(e.to_string().contains("replace this coordinator"), "{len}: {e}");
                refused += 1;
            }
            Ok(mut log) => assert!(said(&mut log).await == *last, "{len} of {} bytes", good.len()),
        }
    }
    assert!(refused > 10, "{refused} of {} bytes", good.len());
}
