//! One rank of one replica, as a process that an agent starts: `… worker --replica R --epoch E --rank K`.
//!
//! ```text
//!  agent ── stdin ──▶ reader ─┐                          ┌─ compute thread `rank-K`: model, group, step loop
//!                             ├▶ control (this thread) ──┤
//!  agent ◀─ stdout ───────────┘   every 250 ms: Alive    └─ front (rank 0): gateways' streams, one runtime thread
//! ```
//! Not here: the engine's decisions, the model's layers. Logs go to stderr only.
//! Invariant: the process ends when its stdin ends, and never later than its drain's deadline.

mod allowance;
mod canary;
mod compute;
mod constraints;
mod control;
mod error;
mod fault;
mod follower;
mod gauge;
mod group;
mod leader;
mod levels;
mod model;
mod pace;
mod picture_desk;
mod picture_inbox;
mod planner;
mod progress;
mod reporter;
mod requests;
mod seeing;
mod serve;
mod step_cost;
mod submission;
mod tower_pace;

#[cfg(test)]
mod cancellation_tests;
#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod grammar_tests;
#[cfg(test)]
pub(crate) mod hang;
#[cfg(test)]
mod invariance;
#[cfg(test)]
mod picture_tests;
#[cfg(test)]
mod prompt_tests;
#[cfg(test)]
mod real_models;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod shown;

pub use control::run;
#[cfg(test)]
pub(crate) use control::run_on;
pub use error::WorkerError;
pub use fault::StepFault;
pub use model::ModelError;
pub use progress::Stuck;
pub use serve::ServeError;
