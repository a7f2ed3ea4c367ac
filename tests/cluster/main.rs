//! A whole cluster of real processes, as `shardglm up` starts it: answers, faults, and what is left at the end.
//!
//! Not here: what needs no processes (each crate's own tests). Invariant: every wait has a deadline, and a test that
//! fails leaves no process behind.

use chaos::processes;

mod admin;
mod answers;
mod bench;
mod daemons;
#[path = "../../coordinator/src/metrics/exposition.rs"]
mod exposition;
mod faults;
mod gateway_dies;
mod goldens;
mod harness;
mod hosts;
mod members;
mod metrics;
mod power_cut;
mod survive;
mod writes;
