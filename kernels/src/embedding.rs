//! Rows of the embedding by token id. A rank may hold a run of rows only; other ids give zeros, so that the sum over
//! the ranks is the row.

use half::bf16;

use crate::error::{KernelError, expect_len};

/// Rows `first..first + rows` of an embedding, as they are stored.
#[derive(Debug, Clone, Copy)]
pub enum EmbeddingTable<'a> {
    /// `[rows, width]`.
    F32(&'a [f32]),
    /// `[rows, width]`, widened on the way out.
    Bf16(&'a [bf16]),
}

/// Writes the row of each id: `y` `[ids, width]`; zeros for an id outside `first..first + rows`.
///
/// # Errors
/// [`KernelError::Shape`] when the table is not whole rows, or y does not fit the ids.
pub fn embed_rows(
    table: EmbeddingTable<'_>,
    first: u32,
    width: usize,
    ids: &[u32],
    y: &mut [f32],
) -> Result<(), KernelError> {
    let len = match table {
        EmbeddingTable::F32(t) => t.len(),
        EmbeddingTable::Bf16(t) => t.len(),
    };
    let rows = len.checked_div(width).unwrap_or(0);
    expect_len("embed_rows", "table", len, &[rows, width])?;
    expect_len("embed_rows", "y", y.len(), &[ids.len(), width])?;
    if width == 0 {
        return Ok(());
    }
    for (id, y) in ids.iter().zip(y.chunks_exact_mut(width)) {
        let row = id.checked_sub(first).map(|r| r as usize).filter(|r| *r < rows);
        match (row, table) {
            (None, _) => y.fill(0.0),
            (Some(row), EmbeddingTable::F32(t)) => y.copy_from_slice(&t[row * width..][..width]),
            (Some(row), EmbeddingTable::Bf16(t)) => {
                for (y, x) in y.iter_mut().zip(&t[row * width..]) {
                    *y = x.to_f32();
                }
            }
        }
    }
    Ok(())
}
