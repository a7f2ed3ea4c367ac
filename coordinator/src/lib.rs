//! Raft member, reconciler, public gateway and admin API: the control plane of a ShardGLM cluster.
//!
//! Not here: tensors (it knows plans, not weights), and how a rank computes. Invariant: the control plane and the
//! gateway touch through one value only, [`view::ClusterView`].

pub mod config;
mod coordinator;
pub mod gateway;
mod raft;
mod state;
pub mod view;

pub use config::{CoordinatorConfig, DeploymentSeed, GatewayLimits, LeaseTimings, MemberAddrs, RaftTimings};
pub use coordinator::{Coordinator, StartError};
