//! Agreement: the log, the vote, the snapshots and the network of openraft, and nothing else of it outside.
//!
//! Not here: what is agreed on (`state`). Invariants: what is acknowledged is on the disks of a majority; no openraft
//! type leaves this module.

mod change;
pub(crate) mod codec;
mod consensus;
#[cfg(test)]
mod crash;
mod election;
mod entrance;
mod error;
mod hearing;
mod leadership;
mod links;
mod log_store;
mod members;
mod network;
mod server;
#[cfg(feature = "sim")]
pub(crate) mod simulated;
mod snapshot;
mod state_dir;
mod state_machine;
#[cfg(test)]
mod suite;
mod type_config;
mod waits;
#[cfg(test)]
mod wired;
mod wires;

pub use change::{ChangeError, MemberChange};
pub use codec::CodecError;
pub use consensus::{Consensus, ConsensusConfig, ConsensusError, Written};
pub use entrance::Out;
pub use error::{ProposeError, ReadError};
pub use leadership::Leadership;
pub use links::certificate_name;
pub use log_store::LogError;
pub use members::{MemberRecord, Members};
pub use snapshot::SnapshotError;
pub use state_dir::{StateDir, StateDirError};
pub use state_machine::AppliedState;
pub use wires::{LinkError, Wires};
