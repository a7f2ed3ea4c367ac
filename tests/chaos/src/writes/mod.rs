//! Admins that write without pause while coordinators are struck: what was acknowledged is there afterwards, and one order of
//! everything explains what each admin saw.
//!
//! Not here: what an order is (`history`), what a fault does (`fault`). Invariant: whatever a client was told is in a history,
//! or in a count of what certainly did nothing.

mod admin;
mod caller;
mod menu;
mod register;
mod report;
mod run;

pub use caller::{Caller, CallerError};
pub use register::Register;
pub use report::{Failover, WritesReport};
pub use run::{WritesAsked, WritesError, writes};

/// What is added to the configuration so that a second replica has no room: a number of replicas is then only written, and costs
/// no workers. One of the built-in model takes up to 261 MiB a node.
pub const ROOM_FOR_ONE_REPLICA: &str = "[node]\nmemory_bytes = 367001600\n";
