//! Clients that read streams while everything fails, and the oracle that compares what they read with what an undisturbed
//! client read.
//!
//! Not here: the faults. Invariant: an answer that is not the undisturbed one is told apart by how it differs.

mod kinds;
mod read;
mod reader;
mod verdict;

pub use kinds::{Kind, kinds};
pub use read::{Read, Unreadable};
pub use reader::{Patience, Reader, Reading};
pub use verdict::{Ending, Tally, Verdict};
