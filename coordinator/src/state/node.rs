//! A node as the cluster remembers it.

use protocol::Revision;
use protocol::lease::Inventory;
use serde::{Deserialize, Serialize};

/// A registered node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Which start of its agent registered last.
    pub incarnation: u64,
    /// What it has.
    pub inventory: Inventory,
    /// How its lease stands.
    pub standing: Standing,
    /// What admins want of it; outlives restarts of its agent.
    pub cordon: Cordon,
}

impl NodeRecord {
    /// Whether its lease runs, leaving or not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !matches!(self.standing, Standing::Down { .. })
    }

    /// Whether new ranks may be placed on it.
    #[must_use]
    pub fn takes_ranks(&self) -> bool {
        self.standing == Standing::Up && !self.cordon.is_set
    }
}

/// Whether an admin keeps new ranks off a node. What runs there stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cordon {
    /// Whether nothing new is placed there.
    pub is_set: bool,
    /// How often it was written, also with the value that it had: each acknowledged write has a revision of its own.
    pub revision: Revision,
}

/// A node's standing with the cluster.
///
/// ```text
///            Register            Leaving
///   (new) ───────────▶ Up ───────────────▶ Leaving
///                      ▲ │ Down               │ Down
///             Register │ ▼                    ▼
///                      Down ◀─────────────────┘
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Its lease runs: ranks may be placed on it, unless it is cordoned.
    Up,
    /// It asked to be drained: nothing new is placed on it.
    Leaving,
    /// Its lease ran out.
    Down {
        /// One line.
        reason: String,
    },
}
