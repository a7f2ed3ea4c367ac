//! Real processes of a whole cluster on hosts of their own, faults of machines and networks, and what must hold.
//!
//! Not here: simulated time (`tests/sim`). Invariant: whatever is started or created here is gone when its guard is.

pub mod cluster;
pub mod fault;
pub mod figures;
pub mod history;
pub mod net;
pub mod processes;
pub mod schedule;
pub mod streams;
pub mod timeline;
pub mod tool;
pub mod writes;
