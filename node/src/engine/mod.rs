//! The engine's pure core: which tokens of which sequences enter the next step, and in which KV blocks they land.
//!
//! Not here: clocks, sockets, tasks, logits. The worker's step loop feeds it requests and sampled tokens; deadlines
//! and lost clients reach it as [`Scheduler::cancel`].

mod block_pool;
mod budget;
mod limits;
mod scheduler;
mod sequence;

pub use block_pool::{BlockPool, BlockTable, OutOfBlocks};
pub use limits::{EngineLimits, LimitsError};
pub use scheduler::{Admission, AdmitError, Progress, Scheduler};
pub use sequence::NewSequence;

#[cfg(test)]
mod properties;
