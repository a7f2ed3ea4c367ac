//! The mapped bytes of a checkpoint: a rank touches the slices it owns and nothing else, and every byte is counted.
//!
//! Not here: what the bytes mean. Invariant: a slice lies inside its tensor, a tensor inside its file as mapped.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::Mmap;

use super::files::WeightFile;
use super::{Checkpoint, CheckpointError, StoredDtype};
use crate::partition::{Cut, TensorSlice};

/// A checkpoint with its files mapped.
#[derive(Debug)]
pub struct Weights {
    checkpoint: Checkpoint,
    maps: Vec<Mmap>,
    bytes_read: AtomicU64,
}

impl Weights {
    /// Maps the weight files of `checkpoint`; reads nothing yet.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], or [`CheckpointError::Changed`] when a file has not the size it had.
    pub fn map(checkpoint: Checkpoint) -> Result<Self, CheckpointError> {
        let maps = checkpoint.files.iter().map(map_file).collect::<Result<_, _>>()?;
        Ok(Self { checkpoint, maps, bytes_read: AtomicU64::new(0) })
    }

    /// The headers.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Bytes of tensors that were handed out so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Hands the bytes of `slice` to `sink` in row-major order, one contiguous run at a time, and returns their dtype.
    ///
    /// # Errors
    /// [`CheckpointError`] when the tensor is missing, has another shape or a dtype that is not read.
    pub fn read(&self, slice: &TensorSlice, mut sink: impl FnMut(&[u8])) -> Result<StoredDtype, CheckpointError> {
        let Some(info) = self.checkpoint.tensor(&slice.name) else {
            return Err(CheckpointError::MissingTensor {
                dir: self.checkpoint.dir().to_owned(),
                tensor: slice.name.clone(),
                expected: slice.shape.clone(),
            });
        };
        let path = || self.checkpoint.files[info.file].path.clone();
        if !info.shape.iter().copied().eq(slice.shape.iter().map(|d| u64::from(*d))) {
            return Err(CheckpointError::Shape {
                path: path(),
                tensor: slice.name.clone(),
                expected: slice.shape.clone(),
                found: info.shape.clone(),
            });
        }
        let Some(width) = info.dtype.bytes() else {
            let found = info.dtype.name().to_owned();
            return Err(CheckpointError::Dtype { path: path(), tensor: slice.name.clone(), found });
        };
        let tensor = &self.maps[info.file][as_index(info.bytes.start)..as_index(info.bytes.end)];
        let mut run = |first: usize, elements: usize| {
            let width = as_index(width);
            let bytes = &tensor[first * width..(first + elements) * width];
            self.bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            sink(bytes);
        };
        let row = slice.row_elements();
        match &slice.cut {
            Cut::Whole => run(0, slice.num_rows() * row),
            Cut::Rows(spans) => {
                for span in spans.iter().filter(|s| !s.is_empty()) {
                    run(span.range().start * row, span.range().len() * row);
                }
            }
            Cut::Cols(span) if span.is_empty() => {}
            Cut::Cols(span) => {
                for r in 0..slice.num_rows() {
                    run(r * row + span.range().start, span.range().len());
                }
            }
        }
        Ok(info.dtype.clone())
    }
}

/// Offsets inside a file that is mapped fit the address space.
fn as_index(n: u64) -> usize {
    usize::try_from(n).expect("an offset inside a mapped file")
}

fn map_file(file: &WeightFile) -> Result<Mmap, CheckpointError> {
    let io = |source| CheckpointError::Io { path: file.path.clone(), source };
    let handle = File::open(&file.path).map_err(io)?;
    // SAFETY: the map is private to this struct, read-only, and its bytes are only ever copied out. A checkpoint is
    // immutable by contract (a model version is named by its digest); should somebody truncate the file all the same,
    // the kernel kills this process, which is one rank, the unit of failure.
    #[expect(unsafe_code, reason = "mapping is what lets a rank touch only its own bytes")]
    let map = unsafe { Mmap::map(&handle) }.map_err(io)?;
    if map.len() as u64 != file.size {
        return Err(CheckpointError::Changed { path: file.path.clone(), expected: file.size, found: map.len() as u64 });
    }
    Ok(map)
}
