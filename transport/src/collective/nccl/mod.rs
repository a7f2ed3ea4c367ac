//! A group whose ranks own CUDA devices: activations go over NCCL, step plans and the watch over peers over QUIC.
//!
//! ```text
//!   compute thread ──▶ NcclGroup ──▶ Owner ─order─▶ thread "nccl-rank-K": owns the communicator ──▶ CudaComm ──▶ GPU
//!                          │            ◀─answer──    polls it, never blocks in it while peers are awaited
//!                          └ while it waits for the answer: QuicGroup::run_until (plans' links, lost peers, abort)
//! ```
//! A communicator may be touched by one thread only, and NCCL finds a dead peer late or never. So a thread of its own
//! owns the communicator and only begins and polls operations, while the compute thread waits with its deadline on the
//! QUIC links: what ends a wait is a passed deadline, an abort or a lost link, never a watchdog of the library.
//!
//! NCCL gathers, it does not add: every rank gets all subtrees, padded to equal lengths, and adds them on the host in the
//! order of [`protocol::ReductionTree`], so the bits are those of every other implementation. Values are host slices
//! that are staged through device buffers; activations that stay on the device come with the CUDA worker.
//!
//! Not here: how the [`NcclId`] reaches the other ranks, device memory of a model, plans. Invariants: no cudarc call
//! before the libraries are known to be there; only `cuda` and `library` are unsafe. NCCL neither encrypts nor
//! authenticates what it sends between hosts: for fabrics that are trusted as a whole.
//!
//! Never run on a GPU: what surrounds the device is tested with a device in memory, `cuda` is only compiled.

mod cuda;
mod error;
mod group;
mod id;
mod library;
mod owner;
#[cfg(test)]
mod tests;

pub use cuda::CudaOrdinal;
pub use error::NcclError;
pub use group::NcclGroup;
pub use id::NcclId;
pub use library::check as check_libraries;
