//! What CUDA, NCCL and the thread that owns them can fail with.

use super::CudaOrdinal;

/// Why a device or its communicator is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NcclError {
    /// The host has no such library, or it does not load. NCCL's runtime package may install `libnccl.so.2` only, which is
    /// not looked for: a link `libnccl.so` to it is enough.
    #[error("{library} is not on this host: the loader finds no {file}, nor one of its other names (LD_LIBRARY_PATH)")]
    LibraryMissing {
        /// What it is called.
        library: &'static str,
        /// The file that is looked for first.
        file: &'static str,
    },
    /// The library lacks what is needed here.
    #[error("NCCL has version {found}, at least {least} is needed")]
    TooOld {
        /// As NCCL counts: major × 10000 + minor × 100 + patch.
        found: i32,
        /// Likewise.
        least: i32,
    },
    /// An id that did not come from [`super::NcclId::as_bytes`].
    #[error("an NCCL id of {found} bytes, expected {expected}")]
    BadId {
        /// How long it is.
        found: usize,
        /// How long it should be.
        expected: usize,
    },
    /// The driver refused.
    #[error("CUDA device {device}: {doing} failed: {reason}")]
    Cuda {
        /// Which device.
        device: CudaOrdinal,
        /// What was asked of it.
        doing: &'static str,
        /// The driver's code and its text.
        reason: String,
    },
    /// NCCL refused, or found an error while it worked.
    #[error("NCCL: {doing} failed: {result} ({detail})")]
    Nccl {
        /// What was asked of it.
        doing: &'static str,
        /// The library's code, by name.
        result: String,
        /// The library's last error text, which may be of an earlier one.
        detail: String,
    },
    /// The thread that owns the communicator could not be started.
    #[error("no thread for the communicator: {reason}")]
    NoThread {
        /// Why.
        reason: String,
    },
    /// The thread that owns the communicator has panicked, or was told to stop.
    #[error("the thread that owns the communicator has ended")]
    ThreadEnded,
}
