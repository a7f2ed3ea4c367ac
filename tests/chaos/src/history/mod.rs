//! Histories of admin operations under faults, and whether one order of all of them explains what every client saw.
//!
//! Not here: the faults. Invariant: an operation whose outcome nobody knows is in the history, as one that may take effect at
//! any later time or never; one that certainly did nothing is not.

mod chain;
mod matching;
mod operation;
#[cfg(test)]
mod tests;

pub use chain::{Explained, Violation, check};
pub use operation::{Expected, Moment, Operation, Revision, Version, What};
