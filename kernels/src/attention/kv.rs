//! The KV cache of one layer, in blocks of sixteen token slots. Which block belongs to whom: the scheduler's.

use std::ops::Range;

use super::zeroed::ZeroedLanes;
use crate::error::{KernelError, expect_len};
use crate::simd::{F32x16, LANES};

/// Token slots in a KV block; the lanes of a vector, so that one register holds a block's scores.
pub const BLOCK_TOKENS: usize = LANES;

/// One sequence's part of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttnSeq<'a> {
    /// Its rows in the batch. Sequences stand one after the other from row 0.
    pub rows: Range<usize>,
    /// Position of its first row; all positions before it are in the cache.
    pub start: usize,
    /// Its KV blocks from position 0, enough for `start + rows.len()` positions.
    pub blocks: &'a [u32],
}

/// Keys and values of one layer, f32.
///
/// A block's keys lie as `[head_dim, 16 slots]` and its values as `[head_dim / 16, 16 slots, 16]`: both are tiles of the
/// crate's one inner loop.
#[derive(Debug)]
pub struct KvLayer {
    blocks: usize,
    kv_heads: usize,
    head_dim: usize,
    /// `[blocks, kv_heads, head_dim]` groups of 16 slots.
    keys: ZeroedLanes,
    /// `[blocks, kv_heads, ⌈head_dim / 16⌉, 16 slots]` groups of 16 dimensions.
    values: ZeroedLanes,
}

impl KvLayer {
    /// A cache of `blocks` blocks of [`BLOCK_TOKENS`] slots. Its addresses are taken now, its memory by the
    /// system as blocks are first written; who places caches sees to it that there is enough for all of
    /// [`Self::bytes_for`].
    ///
    /// # Panics
    /// As [`Vec`], when there is no such amount of address space.
    #[must_use]
    pub fn new(blocks: usize, kv_heads: usize, head_dim: usize) -> Self {
        let heads = blocks.saturating_mul(kv_heads);
        let keys = ZeroedLanes::new(heads.saturating_mul(head_dim));
        let values = ZeroedLanes::new(heads.saturating_mul(head_dim.next_multiple_of(LANES)));
        Self { blocks, kv_heads, head_dim, keys, values }
    }

    /// Bytes that a cache of this shape holds once all its blocks are written.
    #[must_use]
    pub fn bytes_for(blocks: usize, kv_heads: usize, head_dim: usize) -> usize {
        let per_head = head_dim.saturating_add(head_dim.next_multiple_of(LANES)).saturating_mul(size_of::<F32x16>());
        blocks.saturating_mul(kv_heads).saturating_mul(per_head)
    }

    /// Blocks in the cache.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// KV heads that this rank holds.
    #[must_use]
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Dimensions of a head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Puts new rows into their slots: `k` and `v` `[tokens, kv_heads, head_dim]`.
    ///
    /// # Errors
    /// [`KernelError::Rows`], [`KernelError::Blocks`], [`KernelError::BlockIndex`], [`KernelError::Shape`]; nothing has
    /// been written then.
    pub fn write(&mut self, seqs: &[AttnSeq<'_>], k: &[f32], v: &[f32]) -> Result<(), KernelError> {
        let tokens = self.check("kv_write", seqs)?;
        let shape = [tokens, self.kv_heads, self.head_dim];
        expect_len("kv_write", "k", k.len(), &shape)?;
        expect_len("kv_write", "v", v.len(), &shape)?;
        for seq in seqs {
            for (i, row) in seq.rows.clone().enumerate() {
                let position = seq.start + i;
                let block = seq.blocks[position / BLOCK_TOKENS] as usize;
                let at = row * self.kv_heads * self.head_dim;
                let len = self.kv_heads * self.head_dim;
                self.write_slot(block, position % BLOCK_TOKENS, &k[at..][..len], &v[at..][..len]);
            }
        }
        Ok(())
    }

    /// Copies what block `from` holds to block `to`, all slots and heads.
    ///
    /// # Errors
    /// [`KernelError::CopyBlock`]; nothing has been written then.
    pub fn copy_block(&mut self, from: u32, to: u32) -> Result<(), KernelError> {
        let blocks = self.blocks;
        if let Some(block) = [from, to].into_iter().find(|b| *b as usize >= blocks) {
            return Err(KernelError::CopyBlock { block, blocks });
        }
        let (keys, values) = (self.kv_heads * self.head_dim, self.kv_heads * self.value_tiles() * BLOCK_TOKENS);
        let (from, to) = (from as usize, to as usize);
        self.keys.copy_within(from * keys..(from + 1) * keys, to * keys);
        self.values.copy_within(from * values..(from + 1) * values, to * values);
        Ok(())
    }

    fn write_slot(&mut self, block: usize, slot: usize, k: &[f32], v: &[f32]) {
        if self.head_dim == 0 {
            return;
        }
        for (head, (k, v)) in k.chunks_exact(self.head_dim).zip(v.chunks_exact(self.head_dim)).enumerate() {
            let keys = &mut self.keys[(block * self.kv_heads + head) * self.head_dim..];
            for (to, k) in keys.iter_mut().zip(k) {
                to.0[slot] = *k;
            }
            let at = self.values_at(block, head);
            for (tile, v) in v.chunks(LANES).enumerate() {
                self.values[at + tile * BLOCK_TOKENS + slot].0[..v.len()].copy_from_slice(v);
            }
        }
    }

    /// Tiles of sixteen dimensions in a head.
    pub(super) fn value_tiles(&self) -> usize {
        self.head_dim.div_ceil(LANES)
    }

    fn values_at(&self, block: usize, head: usize) -> usize {
        (block * self.kv_heads + head) * self.value_tiles() * BLOCK_TOKENS
    }

    /// `[head_dim]` groups of 16 slots.
    #[inline(always)]
    pub(super) fn keys_of(&self, block: usize, head: usize) -> &[F32x16] {
        &self.keys[(block * self.kv_heads + head) * self.head_dim..][..self.head_dim]
    }

    /// `[value_tiles, 16 slots]` groups of 16 dimensions.
    #[inline(always)]
    pub(super) fn values_of(&self, block: usize, head: usize) -> &[F32x16] {
        &self.values[self.values_at(block, head)..][..self.value_tiles() * BLOCK_TOKENS]
    }

    /// The number of rows in the batch, once the sequences are found to fit each other and this cache.
    pub(super) fn check(&self, op: &'static str, seqs: &[AttnSeq<'_>]) -> Result<usize, KernelError> {
        let mut next = 0;
        for (seq, s) in seqs.iter().enumerate() {
            if s.rows.start != next || s.rows.end < s.rows.start {
                return Err(KernelError::Rows { op, seq, rows: s.rows.clone(), expected: next });
            }
            next = s.rows.end;
            let needed = s.start.saturating_add(s.rows.len()).div_ceil(BLOCK_TOKENS);
            let Some(used) = s.blocks.get(..needed) else {
                return Err(KernelError::Blocks { op, seq, needed, given: s.blocks.len() });
            };
            if let Some(block) = used.iter().find(|b| **b as usize >= self.blocks) {
                return Err(KernelError::BlockIndex { op, seq, block: *block, blocks: self.blocks });
            }
        }
        Ok(next)
    }
}
