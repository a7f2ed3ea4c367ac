//! A replica and its life.

use protocol::plan::RankAddr;
use protocol::{DeploymentSpec, Epoch, NodeId, Plan};
use serde::{Deserialize, Serialize};

/// One full sharded copy of a model version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// What it runs, of the generation that it was created for.
    pub spec: DeploymentSpec,
    /// Epoch of its last or present group; 0 before the first.
    pub epoch: Epoch,
    /// Groups in a row that were lost before they were Ready.
    pub failed_formings: u32,
    /// How far it is.
    pub phase: Phase,
}

impl Replica {
    /// The plan of the group that exists now.
    #[must_use]
    pub fn plan(&self) -> Option<&Plan> {
        match &self.phase {
            Phase::Forming { plan } | Phase::Ready { plan, .. } | Phase::Draining { plan, .. } => Some(plan),
            Phase::Waiting { .. } | Phase::Failed { .. } => None,
        }
    }

    /// Whether its groups are what `spec` wants: nothing but what a gateway alone reads (the served names, the limits
    /// of pictures), the generation and the number of replicas may differ.
    #[must_use]
    pub fn runs(&self, spec: &DeploymentSpec) -> bool {
        let (generation, replicas) = (spec.generation, spec.replicas);
        let (served_names, pictures) = (spec.served_names.clone(), spec.pictures);
        DeploymentSpec { generation, replicas, served_names, pictures, ..self.spec.clone() } == *spec
    }

    /// Whether the group that exists now has a rank on `node`.
    #[must_use]
    pub fn is_on(&self, node: &NodeId) -> bool {
        self.plan().is_some_and(|p| p.ranks.iter().any(|r| r.node == *node))
    }
}

/// A replica's life.
///
/// ```text
///            Form (epoch + 1)         CommitReady            Drain
///  Waiting ──────────────────▶ Forming ──────────▶ Ready ───────────▶ Draining
///     ▲                          │  │                │                    │
///     ├───────────── Lose ───────┘  │ Fail           │ Lose               │ Lose
///     │                             ▼                │                    │
///     │                          Failed ◀── Fail ────┤                    │
///     └──────────────────────────────────────────────┴────────────────────┘
///  Remove: from every phase, by its epoch.
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// It has no group.
    Waiting {
        /// Why the last one was lost; `None` before the first.
        reason: Option<String>,
    },
    /// Its ranks load, and prove that they reach each other.
    Forming {
        /// Which rank holds what, where.
        plan: Plan,
    },
    /// Its epoch is committed: it may be routed to.
    Ready {
        /// Which rank holds what, where.
        plan: Plan,
        /// Where each rank listens, in rank order.
        addrs: Vec<RankAddr>,
    },
    /// It finishes what runs and is not routed to any more.
    Draining {
        /// Which rank holds what, where.
        plan: Plan,
        /// Why.
        reason: String,
    },
    /// It cannot be formed, and trying again would not go otherwise.
    Failed {
        /// One line.
        reason: String,
    },
}

impl Phase {
    /// Its name, for errors and logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Waiting { .. } => "waiting",
            Self::Forming { .. } => "forming",
            Self::Ready { .. } => "ready",
            Self::Draining { .. } => "draining",
            Self::Failed { .. } => "failed",
        }
    }
}
