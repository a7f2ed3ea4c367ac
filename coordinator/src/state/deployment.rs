//! A deployment as the cluster remembers it.

use protocol::DeploymentSpec;
use serde::{Deserialize, Serialize};

/// Desired state, and why it is not reached where no plan can be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// What should run; its generation is the state machine's.
    pub spec: DeploymentSpec,
    /// Why a replica has no place, with the number that does not fit.
    pub blocked: Option<String>,
    /// What the configuration file said last of what admins may change; `None` before a file said anything.
    pub configured: Option<Configured>,
}

/// What admins may change, as a configuration file says it. Only another word of the file overrides theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configured {
    /// Replicas wanted.
    pub replicas: u16,
}

impl Configured {
    /// What `file` says.
    #[must_use]
    pub fn of(file: &DeploymentSpec) -> Self {
        Self { replicas: file.replicas }
    }
}

impl Deployment {
    /// What should run by a file that says `file`: that, with what admins changed since a file said the same. The
    /// generation is the present one.
    #[must_use]
    pub fn brought_to(&self, file: &DeploymentSpec) -> DeploymentSpec {
        let says_the_same = self.configured == Some(Configured::of(file));
        let replicas = if says_the_same { self.spec.replicas } else { file.replicas };
        DeploymentSpec { generation: self.spec.generation, replicas, ..file.clone() }
    }
}
