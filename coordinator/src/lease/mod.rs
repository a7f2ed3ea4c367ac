//! The leader's side of the lease stream that each node keeps.
//!
//! Not here: what the orders say (`reconcile`). Invariant: a node speaks for itself only; who does not lead gives no
//! lease.

mod session;

pub(crate) use session::Sessions;
