//! The replicated state and the commands that change it. Pure: no clock, no randomness, no I/O.
//!
//! Not here: how a command becomes agreed (`raft`), which one to propose (`reconcile`). Invariants: a command whose
//! precondition fails changes nothing; the same commands in the same order give the same state on every coordinator;
//! a replica's epoch never goes back and never names two groups.

mod apply;
mod cluster;
mod command;
mod deployment;
#[cfg(test)]
pub(crate) mod fixtures;
mod node;
mod refused;
mod replica;
#[cfg(test)]
mod tests;

pub use cluster::ClusterState;
pub use command::{Applied, Command, DeploymentCommand, MemberCommand, NodeCommand, ReplicaCommand};
pub use deployment::{Configured, Deployment};
pub use node::{Cordon, NodeRecord, Standing};
pub use refused::Refused;
pub use replica::{Phase, Replica};
