//! `cluster.toml`: read, checked against the key registry, settled with flags, and typed.
//!
//! ```text
//!  text ──parse──▶ RawConfig ──registry, flags, defaults──▶ table of every key ──▶ Config
//!                     └────────────── all faults at once ◀──────┘
//! ```
//! Not here: reading environment variables, except for the join token, the one secret. Invariant: a [`Config`] holds
//! only values that the registry's ranges and the cross-checks of [`cross`] let through.

mod cross;
mod fault;
mod raw;
mod registry;
mod typed;

pub(crate) use fault::{ConfigError, Fault};
pub(crate) use raw::{Override, RawConfig};
pub(crate) use typed::{Config, DeploymentConfig, Switch};

#[cfg(test)]
mod tests;
