//! The registers that admins write, and where the admin API has them.

use std::fmt;

/// One register.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Register {
    /// A node's cordon: 0 or 1.
    Cordon(String),
    /// A deployment's number of replicas; its revision is the generation.
    Replicas(String),
}

impl Register {
    /// The path of what has it.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Self::Cordon(node) => format!("/v1/nodes/{node}"),
            Self::Replicas(deployment) => format!("/v1/deployments/{deployment}"),
        }
    }

    /// How many values it is given: 0 up to here.
    #[must_use]
    pub fn num_values(&self) -> u16 {
        match self {
            Self::Cordon(_) => 2,
            Self::Replicas(_) => 4,
        }
    }

    /// The value of a draw below [`Self::num_values`]. One replica is always wanted: clients are to be served.
    #[must_use]
    pub fn value(&self, draw: u16) -> u16 {
        match self {
            Self::Cordon(_) => draw,
            Self::Replicas(_) => draw + 1,
        }
    }
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cordon(node) => write!(f, "cordon of {node}"),
            Self::Replicas(deployment) => write!(f, "replicas of {deployment}"),
        }
    }
}
