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
