//! Why a rank's step loop ended: always a fault of the whole group, never of one request.

use std::time::Duration;

use transport::CollectiveError;

use super::model::ModelError;

/// Why a group cannot take another step.
#[derive(Debug, thiserror::Error)]
pub enum StepFault {
    /// The step's plan did not get through.
    #[error("step {step}: its plan did not get through: {source}")]
    Plan {
        /// Which step.
        step: u64,
        /// Why.
        source: CollectiveError,
    },
    /// Rank 0 has stopped planning.
    #[error("step {step}: rank 0 sent no plan within {} s", waited.as_secs())]
    NoPlan {
        /// Which step was due.
        step: u64,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The forward pass failed.
    #[error("step {step}: {source}")]
    Model {
        /// Which step.
        step: u64,
        /// Why.
        source: ModelError,
    },
    /// The forward pass gave another number of rows than the plan asked for.
    #[error("step {step}: {wanted} rows of logits wanted, {found} came")]
    Logits {
        /// Which step.
        step: u64,
        /// Rows that the plan asked for.
        wanted: usize,
        /// Rows that came.
        found: usize,
    },
    /// Rank 0 sent a step that is not the next one.
    #[error("step {expected} was due, rank 0 sent step {found}")]
    OutOfOrder {
        /// The step due.
        expected: u64,
        /// The step sent.
        found: u64,
    },
    /// The group broke while there was nothing to do.
    #[error("the group broke while idle: {0}")]
    Idle(#[from] CollectiveError),
}
