//! From what should run and what is seen to run, to what is done about it. The leader does it, nobody else.
//!
//! ```text
//!  replicated state ─┐
//!                    ├─▶ plan (pure) ─▶ commands ─▶ Raft ─▶ replicated state …
//!  reports, leases ──┘
//!                    └─▶ orders (pure) ─▶ nodes
//! ```
//! Not here: agreement (`raft`), sockets (`lease`). Invariants: what is ordered of a node follows from committed state
//! alone, but for the step from Load to Connect; a new leader goes on from the state without the old one's memory.

mod deadlines;
mod deployments;
mod driver;
mod groups;
mod nodes;
mod observed;
mod orders;
mod pictures;
mod placement;
mod planner;
mod seed;
#[cfg(test)]
mod tests;

pub(crate) use driver::{Lead, Reconciler, ReportIn};
pub(crate) use observed::{Heard, HeardTold, LastReport};
pub(crate) use seed::RecordSource;
