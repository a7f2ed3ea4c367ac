//! The configured deployment: completed by what is read of its model, and brought into the replicated state.
//!
//! Not here: reading checkpoints (`sharding`). Reading is done once and off the async threads; each new leader compares
//! what came of it with the state.

use std::sync::Arc;
use std::time::Duration;

use protocol::{DeploymentSpec, Generation, ModelRecord};
use tokio::sync::OnceCell;

use crate::config::DeploymentSeed;
use crate::raft::{Consensus, ProposeError};
use crate::state::{ClusterState, Command, DeploymentCommand, Refused};

/// How often a change that somebody else overtook is planned anew.
const ATTEMPTS_MAX: usize = 5;
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A configured deployment and what its model is. Clones share what was read.
#[derive(Debug, Clone)]
pub(crate) struct RecordSource {
    seed: Arc<DeploymentSeed>,
    record: Arc<OnceCell<ModelRecord>>,
}

impl RecordSource {
    /// Nothing is read yet.
    #[must_use]
    pub(crate) fn new(seed: DeploymentSeed) -> Self {
        Self { seed: Arc::new(seed), record: Arc::default() }
    }

    /// Reads the model, once; a failure is tried again by the next caller.
    ///
    /// # Errors
    /// One line: what does not fit.
    pub(crate) async fn record(&self) -> Result<&ModelRecord, String> {
        let read = || async {
            let dir = self.seed.model_dir.clone();
            let reading = tokio::task::spawn_blocking(move || sharding::checkpoint::model_record(&dir));
            reading.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
        };
        self.record.get_or_try_init(read).await
    }

    /// Brings the replicated state to the configuration, as the leader.
    pub(crate) async fn apply(&self, consensus: &Consensus) {
        let record = self.record().await.cloned();
        let name = self.seed.name.as_str();
        if let Err(reason) = &record {
            tracing::error!(deployment = name, %reason, "the model cannot be read");
        }
        for _ in 0..ATTEMPTS_MAX {
            let state = Arc::clone(&consensus.applied().borrow().state);
            let Some(command) = command(&self.seed, record.as_ref(), &state) else { return };
            match consensus.propose_here(Command::Deployment(command), PROPOSE_TIMEOUT).await {
                Ok(applied) => {
                    tracing::info!(deployment = name, ?applied, "the configured deployment is in the state");
                    return;
                }
                Err(ProposeError::Refused(Refused::Generation { .. })) => {}
                Err(reason) => {
                    tracing::warn!(deployment = name, %reason, "the configured deployment is not in the state");
                    return;
                }
            }
        }
    }
}

/// What to propose; `None` when the state is as configured.
fn command(
    seed: &DeploymentSeed,
    record: Result<&ModelRecord, &String>,
    state: &ClusterState,
) -> Option<DeploymentCommand> {
    let name = seed.name.clone();
    let unreadable = state.unreadable.get(&name);
    let model = match record {
        Ok(record) => record.clone(),
        Err(reason) if unreadable == Some(reason) => return None,
        Err(reason) => return Some(DeploymentCommand::Unreadable { name, reason: Some(reason.clone()) }),
    };
    let present = state.deployments.get(&name).map(|d| &d.spec);
    let expected = present.map(|spec| spec.generation);
    let spec = DeploymentSpec {
        name: name.clone(),
        generation: expected.unwrap_or(Generation(0)),
        model,
        served_names: seed.served_names.clone(),
        tp: seed.tp,
        replicas: seed.replicas,
        dtype: seed.dtype,
        threads_per_worker: seed.threads_per_worker,
        kv_tokens: seed.kv_tokens,
        context_tokens: seed.context_tokens,
        max_seqs: seed.max_seqs,
        step_tokens: seed.step_tokens,
    };
    if present == Some(&spec) {
        return unreadable.map(|_| DeploymentCommand::Unreadable { name, reason: None });
    }
    Some(DeploymentCommand::Put { expected, spec: Box::new(spec) })
}
