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
}
