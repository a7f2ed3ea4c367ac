//! The mapped bytes of a checkpoint: a rank touches the slices it owns and nothing else, and every byte is counted.
//!
//! Not here: what the bytes mean. Invariant: a slice lies inside its tensor, a tensor inside its file as mapped.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::Mmap;
use protocol::Span;

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

    /// Opens `slice` for reading by rows; reads nothing yet.
    ///
    /// # Errors
    /// [`CheckpointError`] when the tensor is missing, has another shape or a dtype that is not read.
    pub fn slice<'a>(&'a self, slice: &'a TensorSlice) -> Result<SliceRows<'a>, CheckpointError> {
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
        Ok(SliceRows {
            slice,
            dtype: &info.dtype,
            width: as_index(width),
            tensor: &self.maps[info.file][as_index(info.bytes.start)..as_index(info.bytes.end)],
            bytes_read: &self.bytes_read,
        })
    }
}

/// One rank's part of a tensor, by rows of that part. A vector's rows are its elements.
#[derive(Debug)]
pub struct SliceRows<'a> {
    slice: &'a TensorSlice,
    dtype: &'a StoredDtype,
    /// Bytes of an element.
    width: usize,
    /// The whole tensor's bytes.
    tensor: &'a [u8],
    bytes_read: &'a AtomicU64,
}

impl<'a> SliceRows<'a> {
    /// How the elements are stored.
    #[must_use]
    pub fn dtype(&self) -> &StoredDtype {
        self.dtype
    }

    /// The bytes of local row `row`, little-endian elements; they count as read.
    ///
    /// # Panics
    /// When `row` is not below the part's number of rows.
    #[must_use]
    pub fn row(&self, row: usize) -> &'a [u8] {
        let row_elements = self.slice.row_elements();
        let (first, elements) = match &self.slice.cut {
            Cut::Whole => (row * row_elements, row_elements),
            Cut::Rows(spans) => (global_row(spans, row) * row_elements, row_elements),
            Cut::Cols(span) => (row * row_elements + span.range().start, span.range().len()),
        };
        let bytes = &self.tensor[first * self.width..(first + elements) * self.width];
        self.bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        bytes
    }
}

/// The row of the whole tensor that stands at `row` of the part.
fn global_row(spans: &[Span], mut row: usize) -> usize {
    for span in spans {
        if row < span.range().len() {
            return span.range().start + row;
        }
        row -= span.range().len();
    }
    panic!("row {row} past the end of {spans:?}")
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
