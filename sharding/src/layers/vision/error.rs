//! Why a picture was not encoded.

/// Why a picture was not encoded.
#[derive(Debug, thiserror::Error)]
pub enum VisionError {
    /// Not as many values as the grid has patches.
    #[error("a picture of {rows} x {columns} patches: expected {expected} values, found {found}")]
    Pixels {
        /// Rows of patches.
        rows: u32,
        /// Columns of patches.
        columns: u32,
        /// Patches times values of a patch.
        expected: usize,
        /// What came.
        found: usize,
    },
    /// A grid made for another model.
    #[error("a grid of tokens of {found} x {found} patches, expected {expected} x {expected}")]
    Merge {
        /// The tower's.
        expected: u32,
        /// The grid's.
        found: u32,
    },
    /// Finished before its last block.
    #[error("a picture with {remaining} blocks to go cannot be finished")]
    Unfinished {
        /// How many.
        remaining: usize,
    },
    /// The tensor library or a kernel refused.
    #[error("vision: {0}")]
    Tensor(#[from] candle_core::Error),
}
