//! A node as the cluster remembers it.

use protocol::lease::Inventory;
use serde::{Deserialize, Serialize};

/// A registered node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Which start of its agent registered last.
    pub incarnation: u64,
    /// What it has.
    pub inventory: Inventory,
    /// Whether ranks may be placed on it.
    pub standing: Standing,
}

impl NodeRecord {
    /// Whether its lease runs, leaving or not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !matches!(self.standing, Standing::Down { .. })
    }
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
    /// Its lease runs: ranks may be placed on it.
    Up,
    /// It asked to be drained: nothing new is placed on it.
    Leaving,
    /// Its lease ran out.
    Down {
        /// One line.
        reason: String,
    },
}
