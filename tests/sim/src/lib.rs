//! A whole cluster on one thread, in simulated time, by a seed: real parts, simulated network, disks, clocks and processes.
//!
//! Not here: processes and networks of the system (tests/chaos). Invariants: the same seed gives the same events to the
//! last byte; hours of the cluster take seconds, since nothing waits for a real clock.

pub mod agent;
mod client;
pub mod control;
pub mod engine;
pub mod entropy;
pub mod fact;
pub mod fault;
pub mod host;
pub mod invariants;
pub mod message;
pub mod net;
mod operator;
pub mod run;
mod way;
pub mod wires;
mod worker;
pub mod world;
pub mod writer;
