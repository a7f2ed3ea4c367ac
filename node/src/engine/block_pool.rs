//! KV blocks as guards: a [`BlockTable`] owns the blocks of one sequence and gives them back when it is dropped, so
//! that a cancelled, finished or preempted sequence cannot leak one.
//!
//! Not here: the cache itself; a block is an index into every rank's cache.
//! Invariant: each index below the capacity is either free or in exactly one table.

use std::cell::RefCell;
use std::rc::Rc;

/// Fewer blocks are free than were asked for; nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} KV blocks wanted, {free} free")]
pub struct OutOfBlocks {
    /// How many were asked for.
    pub wanted: usize,
    /// How many there are.
    pub free: usize,
}

/// The free blocks of one replica.
#[derive(Debug)]
pub struct BlockPool {
    free: Rc<RefCell<Vec<u32>>>,
    capacity: u32,
}

impl BlockPool {
    /// A pool of the blocks `0..capacity`.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        // The lowest index comes out first: a lightly loaded replica touches few pages.
        Self { free: Rc::new(RefCell::new((0..capacity).rev().collect())), capacity }
    }

    /// All blocks, free or not.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Blocks that no table owns.
    #[must_use]
    pub fn free(&self) -> usize {
        self.free.borrow().len()
    }

    /// Blocks that some table owns.
    #[must_use]
    pub fn used(&self) -> usize {
        self.capacity as usize - self.free()
    }

    /// A table that owns nothing yet.
    #[must_use]
    pub fn table(&self) -> BlockTable {
        BlockTable { ids: Vec::new(), free: Rc::clone(&self.free) }
    }
}

/// The blocks of one sequence, in the order of its positions.
#[derive(Debug)]
pub struct BlockTable {
    ids: Vec<u32>,
    free: Rc<RefCell<Vec<u32>>>,
}

impl BlockTable {
    /// The blocks, from position 0.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Grows to `blocks` blocks; a table that already has as many stays as it is.
    ///
    /// # Errors
    /// [`OutOfBlocks`]; the table is unchanged.
    pub fn grow_to(&mut self, blocks: usize) -> Result<(), OutOfBlocks> {
        let wanted = blocks.saturating_sub(self.ids.len());
        let mut free = self.free.borrow_mut();
        let keep = free.len().checked_sub(wanted).ok_or(OutOfBlocks { wanted, free: free.len() })?;
        self.ids.extend(free.drain(keep..).rev());
        Ok(())
    }

    /// Gives every block back.
    pub fn clear(&mut self) {
        self.free.borrow_mut().extend(self.ids.drain(..).rev());
    }
}

impl Drop for BlockTable {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_gives_its_blocks_back_when_dropped() {
        let pool = BlockPool::new(4);
        let mut a = pool.table();
        a.grow_to(3).expect("4 are free");
        assert_eq!((a.ids(), pool.used()), (&[0, 1, 2][..], 3));
        let mut b = pool.table();
        assert_eq!(b.grow_to(2), Err(OutOfBlocks { wanted: 2, free: 1 }));
        assert_eq!((b.ids().len(), pool.free()), (0, 1));
        drop(a);
        b.grow_to(4).expect("all are free again");
        assert_eq!((b.ids(), pool.free()), (&[0, 1, 2, 3][..], 0));
    }
}
