//! Raft member, reconciler, public gateway and admin API: the control plane of a ShardGLM cluster.
//!
//! Not here: tensors (it knows plans, not weights), and how a rank computes. Invariant: the control plane and the
//! gateway touch through one value only, [`view::ClusterView`], and for scrapes [`metrics::Picture`].

mod admin;
pub mod config;
mod coordinator;
pub mod gateway;
mod internal;
pub mod journal;
mod lease;
pub mod metrics;
mod publish;
pub mod raft;
mod reconcile;
mod runtime;
#[cfg(feature = "sim")]
pub mod sim;
pub mod state;
pub mod view;

pub use admin::AdminError;
pub use config::{CoordinatorConfig, DeploymentSeed, GatewayLimits, LeaseTimings, MemberAddrs, RaftTimings};
pub use coordinator::{Coordinator, StartError};
