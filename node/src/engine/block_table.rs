//! A guard over the KV blocks of one sequence: they are given back when it is dropped, so that a cancelled, finished or
//! preempted sequence cannot leak one.
//!
//! Not here: which sequence it belongs to. Invariant: a table counts as one holder of each block it lists.

use protocol::step::BlockCopy;

use super::block_pool::{OutOfBlocks, Shared, lock};
use super::prefix_key::PrefixKey;

/// The blocks of one sequence, in the order of its positions.
#[derive(Debug)]
pub struct BlockTable {
    ids: Vec<u32>,
    pool: Shared,
}

impl BlockTable {
    pub(super) fn new(pool: Shared) -> Self {
        Self { ids: Vec::new(), pool }
    }

    /// The blocks, from position 0.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Appends the cached blocks that `keys` name, up to the first that is not cached.
    pub fn take_cached(&mut self, keys: &[PrefixKey]) {
        let mut pool = lock(&self.pool);
        self.ids.extend(keys.iter().map_while(|key| pool.share_cached(key)));
    }

    /// Grows to `blocks` blocks; a table that already has as many stays as it is.
    ///
    /// # Errors
    /// [`OutOfBlocks`]; the table is unchanged.
    pub fn grow_to(&mut self, blocks: usize) -> Result<(), OutOfBlocks> {
        let wanted = blocks.saturating_sub(self.ids.len());
        if wanted == 0 {
            return Ok(());
        }
        lock(&self.pool).take(wanted, &mut self.ids)
    }

    /// A second table over the same blocks.
    #[must_use]
    pub fn fork(&self) -> Self {
        let mut pool = lock(&self.pool);
        self.ids.iter().for_each(|block| pool.share(*block));
        Self { ids: self.ids.clone(), pool: self.pool.clone() }
    }

    /// Makes the block at place `at` this table's alone, so that it can be written: where others hold it too, a new one
    /// takes its place, and what it held must be copied.
    ///
    /// # Errors
    /// [`OutOfBlocks`]; the table is unchanged.
    pub fn make_own(&mut self, at: usize) -> Result<Option<BlockCopy>, OutOfBlocks> {
        let mut pool = lock(&self.pool);
        let from = self.ids[at];
        if !pool.is_shared(from) {
            return Ok(None);
        }
        let mut taken = Vec::with_capacity(1);
        pool.take(1, &mut taken)?;
        pool.copied_from(from);
        pool.release(from);
        self.ids[at] = taken[0];
        Ok(Some(BlockCopy { from, to: taken[0] }))
    }

    /// Says that the block at place `at` is full and computed, and holds the prefix `key`.
    pub fn register(&mut self, at: usize, key: PrefixKey) {
        lock(&self.pool).register(self.ids[at], key);
    }

    /// Gives every block back, the last first: of a prefix that is cached, the end gives way before the start that it
    /// hangs on.
    pub fn clear(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        let mut pool = lock(&self.pool);
        self.ids.drain(..).rev().for_each(|block| pool.release(block));
    }
}

impl Drop for BlockTable {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use kernels::BLOCK_TOKENS;

    use super::super::block_pool::{BlockPool, CachedPrefix};
    use super::*;

    fn chain(first: u32, len: usize) -> Vec<PrefixKey> {
        let root = PrefixKey::root("model", "");
        let next = |key: &PrefixKey| Some(key.child(&[first; BLOCK_TOKENS], &[]));
        std::iter::successors(next(&root), next).take(len).collect()
    }

    /// A table of as many blocks as `keys`, all full and registered.
    fn computed(pool: &BlockPool, keys: &[PrefixKey]) -> BlockTable {
        let mut table = pool.table();
        table.grow_to(keys.len()).expect("they fit");
        keys.iter().enumerate().for_each(|(at, key)| table.register(at, *key));
        table
    }

    #[test]
    fn a_table_gives_its_blocks_back_when_dropped() {
        let pool = BlockPool::new(4);
        let mut a = pool.table();
        a.grow_to(3).expect("4 are free");
        assert_eq!((a.ids(), pool.used()), (&[0, 1, 2][..], 3));
        let mut b = pool.table();
        assert_eq!(b.grow_to(2), Err(OutOfBlocks { wanted: 2, available: 1 }));
        assert_eq!((b.ids().len(), pool.available()), (0, 1));
        drop(a);
        b.grow_to(4).expect("all are free again");
        assert_eq!((b.ids(), pool.available()), (&[0, 1, 2, 3][..], 0));
    }

    #[test]
    fn a_registered_block_outlives_its_holder_and_is_shared_by_its_key() {
        let pool = BlockPool::new(4);
        let keys = chain(1, 3);
        let ids = computed(&pool, &keys).ids().to_vec();
        assert_eq!((pool.used(), pool.available(), pool.idle()), (0, 4, 3));
        assert_eq!(pool.cached(&keys), CachedPrefix { blocks: 3, idle: 3 });
        let (mut a, mut b) = (pool.table(), pool.table());
        a.take_cached(&keys[..2]);
        b.take_cached(&keys);
        assert_eq!((a.ids(), b.ids()), (&ids[..2], &ids[..]));
        assert_eq!((pool.used(), pool.available()), (3, 1));
        drop(b);
        assert_eq!(pool.cached(&keys), CachedPrefix { blocks: 3, idle: 1 });
    }

    #[test]
    fn the_longest_idle_gives_way_and_of_a_prefix_its_end() {
        let pool = BlockPool::new(4);
        let (old, new) = (chain(1, 2), chain(2, 2));
        drop(computed(&pool, &old));
        drop(computed(&pool, &new));
        let mut table = pool.table();
        table.grow_to(1).expect("idle blocks give way");
        assert_eq!((pool.cached(&old).blocks, pool.cached(&new).blocks, pool.evictions()), (1, 2, 1));
        // Used again, the old one outlasts the new one.
        let mut used = pool.table();
        used.take_cached(&old[..1]);
        drop(used);
        table.grow_to(3).expect("idle blocks give way");
        assert_eq!((pool.cached(&old).blocks, pool.cached(&new).blocks, pool.evictions()), (1, 0, 3));
    }

    #[test]
    fn the_second_block_of_one_content_stays_out_of_the_cache() {
        let pool = BlockPool::new(4);
        let keys = chain(1, 1);
        let (first, second) = (computed(&pool, &keys), computed(&pool, &keys));
        drop(second);
        assert_eq!((pool.idle(), pool.available()), (0, 3));
        drop(first);
        assert_eq!((pool.idle(), pool.available()), (1, 4));
    }

    #[test]
    fn a_shared_block_is_copied_by_each_writer_but_the_last() {
        let pool = BlockPool::new(4);
        let mut a = pool.table();
        a.grow_to(2).expect("free");
        let (mut b, mut c) = (a.fork(), a.fork());
        assert_eq!(pool.used(), 2);
        assert_eq!(b.make_own(1), Ok(Some(BlockCopy { from: 1, to: 2 })));
        assert_eq!(c.make_own(1), Ok(Some(BlockCopy { from: 1, to: 3 })));
        assert_eq!(a.make_own(1), Ok(None));
        assert_eq!(b.make_own(0), Err(OutOfBlocks { wanted: 1, available: 0 }));
        assert_eq!((b.ids(), pool.used()), (&[0, 2][..], 4));
    }

    #[test]
    fn the_source_of_a_copy_is_not_given_away_in_the_same_step() {
        let pool = BlockPool::new(3);
        let mut a = pool.table();
        a.grow_to(1).expect("free");
        let mut b = a.fork();
        assert_eq!(b.make_own(0), Ok(Some(BlockCopy { from: 0, to: 1 })));
        drop(a);
        assert_eq!(pool.available(), 1, "block 0 is still to be read");
        pool.release_copy_sources();
        assert_eq!(pool.available(), 2);
    }
}
