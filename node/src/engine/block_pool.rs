//! The KV blocks of one replica: who holds which, and which of them still hold the content of some prefix.
//!
//! ```text
//!            take                 register              last holder goes            evict
//!  Free ───────────▶ Held, no key ─────────▶ Held, key ─────────────────▶ Idle, key ──────▶ Free (taken at once)
//!   ▲                     │                      ▲                           │
//!   └─ last holder goes ──┘                      └────────── share ──────────┘
//! ```
//! Not here: the cache itself (a block is an index into every rank's), and the guards that hold blocks
//! ([`super::BlockTable`]).
//! Invariants: each index below the capacity is in exactly one state; a key names at most one block; a block with a key
//! is never written again while it has it. The lock is never contended for long: it lets a pool move between threads
//! with the tables that give back to it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::block_table::BlockTable;
use super::prefix_key::PrefixKey;

/// Fewer blocks are available than were asked for; nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} KV blocks wanted, {available} available")]
pub struct OutOfBlocks {
    /// How many were asked for.
    pub wanted: usize,
    /// How many there are.
    pub available: usize,
}

/// What the prefix cache has of some chain of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CachedPrefix {
    /// Leading keys that name a block.
    pub(super) blocks: usize,
    /// Those of their blocks that nobody holds: sharing them makes them unavailable.
    pub(super) idle: usize,
}

/// The blocks of one replica.
#[derive(Debug, Clone)]
pub struct BlockPool {
    shared: Shared,
}

/// The pool as its tables see it.
pub(super) type Shared = Arc<Mutex<Blocks>>;

/// The blocks behind their lock. A panic cannot leave them half changed: nothing in here calls out.
pub(super) fn lock(shared: &Shared) -> MutexGuard<'_, Blocks> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BlockPool {
    /// A pool of the blocks `0..capacity`.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        let states = vec![State::Free; capacity as usize];
        // The lowest index comes out first: a lightly loaded replica touches few pages.
        let free = (0..capacity).rev().collect();
        let blocks = Blocks { states, free, ..Blocks::default() };
        Self { shared: Arc::new(Mutex::new(blocks)) }
    }

    /// All blocks, in whichever state.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        u32::try_from(lock(&self.shared).states.len()).expect("built from a u32")
    }

    /// Blocks that nobody holds: free, or cached and ready to give way.
    #[must_use]
    pub fn available(&self) -> usize {
        lock(&self.shared).available()
    }

    /// Blocks that some table holds.
    #[must_use]
    pub fn used(&self) -> usize {
        let blocks = lock(&self.shared);
        blocks.states.len() - blocks.available()
    }

    /// Blocks that nobody holds and whose content is still known.
    #[must_use]
    pub fn idle(&self) -> usize {
        lock(&self.shared).idle.len()
    }

    /// How many cached blocks have given way to others.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        lock(&self.shared).evictions
    }

    /// A table that holds nothing yet.
    #[must_use]
    pub fn table(&self) -> BlockTable {
        BlockTable::new(Arc::clone(&self.shared))
    }

    /// What is cached of the prefix whose blocks are named by `keys`.
    pub(super) fn cached(&self, keys: &[PrefixKey]) -> CachedPrefix {
        let blocks = lock(&self.shared);
        let found = keys.iter().map_while(|key| blocks.by_key.get(key));
        let mut cached = CachedPrefix { blocks: 0, idle: 0 };
        for block in found {
            cached.blocks += 1;
            cached.idle += usize::from(matches!(blocks.states[*block as usize], State::Idle { .. }));
        }
        cached
    }

    /// Lets go of the sources of the copies made so far: whoever plans the next step may have their blocks.
    pub(super) fn release_copy_sources(&self) {
        lock(&self.shared).release_copy_sources();
    }
}

#[derive(Debug, Clone, Copy)]
enum State {
    Free,
    Held { holders: u32, key: Option<PrefixKey> },
    Idle { key: PrefixKey, since: u64 },
}

/// The state of every block, and the indexes into it.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    states: Vec<State>,
    /// The blocks in state `Free`.
    free: Vec<u32>,
    /// The blocks in state `Idle`, by when they became so: the first gives way first.
    idle: BTreeMap<u64, u32>,
    /// The blocks with a key. Never iterated, so its order cannot show.
    by_key: HashMap<PrefixKey, u32>,
    /// Sources of copies of the step that is being planned. They are given back only after it is: were one the target of
    /// another copy of that step, the result would hang on the order of the two.
    copy_sources: Vec<u32>,
    /// Counts releases: the clock of `idle`.
    releases: u64,
    evictions: u64,
}

impl Blocks {
    pub(super) fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// `wanted` blocks for one new holder, appended to `ids`: free ones first, then whatever was idle for longest.
    pub(super) fn take(&mut self, wanted: usize, ids: &mut Vec<u32>) -> Result<(), OutOfBlocks> {
        let available = self.available();
        if wanted > available {
            return Err(OutOfBlocks { wanted, available });
        }
        for _ in 0..wanted {
            let block = self.free.pop().unwrap_or_else(|| self.evict());
            self.states[block as usize] = State::Held { holders: 1, key: None };
            ids.push(block);
        }
        Ok(())
    }

    fn evict(&mut self) -> u32 {
        let (_, block) = self.idle.pop_first().expect("available counts free and idle blocks");
        if let State::Idle { key, .. } = self.states[block as usize] {
            self.by_key.remove(&key);
        }
        self.evictions += 1;
        block
    }

    /// One more holder for the block of `key`, if there is one.
    pub(super) fn share_cached(&mut self, key: &PrefixKey) -> Option<u32> {
        let block = *self.by_key.get(key)?;
        self.share(block);
        Some(block)
    }

    /// One more holder for `block`, which is held or idle.
    pub(super) fn share(&mut self, block: u32) {
        let state = &mut self.states[block as usize];
        match *state {
            State::Held { ref mut holders, .. } => *holders += 1,
            State::Idle { key, since } => {
                *state = State::Held { holders: 1, key: Some(key) };
                self.idle.remove(&since);
            }
            State::Free => unreachable!("a free block is in no table and has no key"),
        }
    }

    /// Whether a table that holds `block` may write to it.
    pub(super) fn is_shared(&self, block: u32) -> bool {
        matches!(self.states[block as usize], State::Held { holders: 2.., .. })
    }

    /// One holder less.
    pub(super) fn release(&mut self, block: u32) {
        let State::Held { holders, key } = self.states[block as usize] else {
            unreachable!("block {block} is released by a table that does not hold it");
        };
        self.states[block as usize] = State::Held { holders: holders - 1, key };
        if holders == 1 && !self.copy_sources.contains(&block) {
            self.leave(block);
        }
    }

    /// `block` has no holder any more.
    fn leave(&mut self, block: u32) {
        let State::Held { holders: 0, key } = self.states[block as usize] else { return };
        self.states[block as usize] = match key {
            None => {
                self.free.push(block);
                State::Free
            }
            Some(key) => {
                self.releases += 1;
                self.idle.insert(self.releases, block);
                State::Idle { key, since: self.releases }
            }
        };
    }

    /// `block` has been read by a copy of the step that is being planned.
    pub(super) fn copied_from(&mut self, block: u32) {
        if !self.copy_sources.contains(&block) {
            self.copy_sources.push(block);
        }
    }

    fn release_copy_sources(&mut self) {
        for block in std::mem::take(&mut self.copy_sources) {
            self.leave(block);
        }
    }

    /// `block` is full and holds the prefix `key`. Where another block does already, that one stays the cached one.
    pub(super) fn register(&mut self, block: u32, key: PrefixKey) {
        if let State::Held { key: unset @ None, .. } = &mut self.states[block as usize]
            && !self.by_key.contains_key(&key)
        {
            *unset = Some(key);
            self.by_key.insert(key, block);
        }
    }
}
