//! Why a worker ends, and whether another attempt could go otherwise.

use std::path::PathBuf;

use kernels::KernelError;
use protocol::lease::WorkerPhase;
use sharding::layers::LoadError;
use sharding::{CheckpointError, SpecError};
use transport::collective::FormError;
use transport::identity::IdentityError;
use transport::{BindError, CollectiveError};

use super::fault::StepFault;
use super::progress::Stuck;
use super::serve::ServeError;
use crate::engine::LimitsError;
use crate::pipe::PipeError;

/// Why a worker ended other than by being drained.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Its agent's pipe brought what is not a message.
    #[error(transparent)]
    Pipe(#[from] PipeError),
    /// The first message was not the spec.
    #[error("the agent's first message was {found}, expected Start")]
    NotStarted {
        /// The message's name.
        found: &'static str,
    },
    /// The spec names no IP address.
    #[error("`{found}` is not an IP address to listen on")]
    ListenIp {
        /// What it names.
        found: String,
    },
    /// The spec names no address to listen on again.
    #[error("cannot listen where this rank did before: {found}")]
    Address {
        /// What it names.
        found: String,
    },
    /// The spec has no such rank, or its plan does not fit.
    #[error("the spec's plan does not hold: {reason}")]
    BadPlan {
        /// What is wrong.
        reason: String,
    },
    /// No thread to compute with.
    #[error("threads_per_worker is 0, expected at least 1")]
    NoThreads,
    /// A thread could not be started.
    #[error("cannot start the thread {name}: {source}")]
    Thread {
        /// Its name.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// The node's certificate or key is of no use.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The model's configuration cannot be served.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The checkpoint on this host is damaged or incomplete.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoint on this host is another one.
    #[error("the model in {dir} has digest {found}, the deployment is of {expected}")]
    OtherModel {
        /// Its directory.
        dir: PathBuf,
        /// The deployment's.
        expected: String,
        /// This host's.
        found: String,
    },
    /// The shard could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The compute threads could not be made.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The limits leave no room to run.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// No socket for the group.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// No front for gateways.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The group did not form.
    #[error("the group did not form: {0}")]
    Form(#[from] FormError),
    /// The group broke before it took a step.
    #[error("the group broke before it served: {0}")]
    Group(#[from] CollectiveError),
    /// The group broke while it served.
    #[error(transparent)]
    Step(#[from] StepFault),
    /// The compute thread does not come back.
    #[error("the compute thread is stuck: {0}")]
    Stuck(#[from] Stuck),
    /// The compute thread panicked.
    #[error("the compute thread panicked: {reason}")]
    Panicked {
        /// The panic's message.
        reason: String,
    },
}

impl WorkerError {
    /// Whether another attempt, on the same files and orders, could go otherwise.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Thread { .. }
            | Self::Bind(_)
            | Self::Serve(_)
            | Self::Form(_)
            | Self::Group(_)
            | Self::Step(_)
            | Self::Pipe(_)
            | Self::Stuck(_)
            | Self::Panicked { .. } => true,
            Self::NotStarted { .. }
            | Self::ListenIp { .. }
            | Self::Address { .. }
            | Self::BadPlan { .. }
            | Self::NoThreads
            | Self::Identity(_)
            | Self::Spec(_)
            | Self::Checkpoint(_)
            | Self::OtherModel { .. }
            | Self::Load(_)
            | Self::Kernel(_)
            | Self::Limits(_) => false,
        }
    }

    /// The phase that tells the agent.
    pub(super) fn phase(&self) -> WorkerPhase {
        // One line whatever a source says.
        let reason = self.to_string().replace('\n', " ");
        WorkerPhase::Failed { reason, retryable: self.retryable() }
    }
}
