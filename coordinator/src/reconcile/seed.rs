//! The configured deployment: completed by what is read of its model, and brought into the replicated state.
//!
//! Not here: reading checkpoints (`sharding`), and what of an admin's changes stays ([`crate::state::Deployment`]). Reading
//! is done once and off the async threads; each new leader compares what came of it with the state.

use std::sync::Arc;
use std::time::Duration;

use protocol::{DeploymentSpec, Generation, ModelRecord, PictureLimits};
use sharding::{ModelSpec, checkpoint};
use tokio::sync::OnceCell;

use super::pictures;
use crate::config::DeploymentSeed;
use crate::raft::{Consensus, ProposeError};
use crate::state::{ClusterState, Command, Configured, DeploymentCommand, Refused};

/// How often a change that somebody else overtook is planned anew.
const ATTEMPTS_MAX: usize = 5;
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A configured deployment and what its model is. Clones share what was read.
#[derive(Debug, Clone)]
pub(crate) struct RecordSource {
    seed: Arc<DeploymentSeed>,
    read: Arc<OnceCell<ModelRead>>,
}

/// What was read of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelRead {
    record: ModelRecord,
    /// `None` where it reads text alone.
    pictures: Option<PictureLimits>,
}

impl RecordSource {
    /// Nothing is read yet.
    #[must_use]
    pub(crate) fn new(seed: DeploymentSeed) -> Self {
        Self { seed: Arc::new(seed), read: Arc::default() }
    }

    /// Reads the model, once; a failure is tried again by the next caller.
    ///
    /// # Errors
    /// One line: what does not fit.
    pub(crate) async fn read(&self) -> Result<&ModelRead, String> {
        let read = || async {
            let seed = self.seed.clone();
            tokio::task::spawn_blocking(move || ModelRead::of(&seed)).await.map_err(|e| e.to_string())?
        };
        self.read.get_or_try_init(read).await
    }

    /// Brings the replicated state to the configuration, as the leader.
    pub(crate) async fn apply(&self, consensus: &Consensus) {
        let read = self.read().await.cloned();
        let name = self.seed.name.as_str();
        if let Err(reason) = &read {
            tracing::error!(deployment = name, %reason, "the model cannot be read");
        }
        for _ in 0..ATTEMPTS_MAX {
            let state = Arc::clone(&consensus.applied().borrow().state);
            let Some(command) = command(&self.seed, read.as_ref(), &state) else { return };
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

impl ModelRead {
    /// Blocking.
    fn of(seed: &DeploymentSeed) -> Result<Self, String> {
        let record = checkpoint::model_record(&seed.model_dir).map_err(|e| e.to_string())?;
        let spec = ModelSpec::from_config_json(&record.config_json).map_err(|e| e.to_string())?;
        let limits = |vision| {
            let pixels = checkpoint::read_pixel_spec(&seed.model_dir, vision).map_err(|e| e.to_string())?;
            pictures::limits(seed, &pixels)
        };
        let pictures = spec.vision.as_ref().map(limits).transpose()?;
        if let Some(PictureLimits { pictures_max, pixels_max }) = pictures {
            tracing::info!(deployment = %seed.name, model = %record.name, pictures_max, pixels_max, "the model takes pictures");
        }
        Ok(Self { record, pictures })
    }
}

/// What to propose; `None` when the state is as configured.
fn command(
    seed: &DeploymentSeed,
    read: Result<&ModelRead, &String>,
    state: &ClusterState,
) -> Option<DeploymentCommand> {
    let name = seed.name.clone();
    let unreadable = state.unreadable.get(&name);
    let ModelRead { record: model, pictures } = match read {
        Ok(read) => read.clone(),
        Err(reason) if unreadable == Some(reason) => return None,
        Err(reason) => return Some(DeploymentCommand::Unreadable { name, reason: Some(reason.clone()) }),
    };
    let present = state.deployments.get(&name);
    let expected = present.map(|d| d.spec.generation);
    let file = DeploymentSpec {
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
        pictures,
    };
    if present.is_some_and(|d| d.configured == Some(Configured::of(&file)) && d.brought_to(&file) == d.spec) {
        return unreadable.map(|_| DeploymentCommand::Unreadable { name, reason: None });
    }
    Some(DeploymentCommand::Configure { expected, spec: Box::new(file) })
}

#[cfg(test)]
pub(super) mod tests {
    use protocol::Dtype;

    use super::*;
    use crate::state::fixtures::{spec, world};

    /// The configuration that gives [`spec`].
    pub(in crate::reconcile) fn seed() -> DeploymentSeed {
        let spec = spec(2, 1);
        DeploymentSeed {
            name: spec.name,
            model_dir: spec.model.dir.into(),
            served_names: spec.served_names,
            tp: spec.tp,
            replicas: spec.replicas,
            dtype: Dtype::F32,
            threads_per_worker: spec.threads_per_worker,
            kv_tokens: spec.kv_tokens,
            context_tokens: spec.context_tokens,
            max_seqs: spec.max_seqs,
            step_tokens: spec.step_tokens,
            pictures_max: 10,
            picture_pixels_max: None,
        }
    }

    fn text_alone(record: ModelRecord) -> ModelRead {
        ModelRead { record, pictures: None }
    }

    fn bring(state: &mut ClusterState, seed: &DeploymentSeed, read: Result<&ModelRead, &String>) -> usize {
        let mut changes = 0;
        while let Some(change) = command(seed, read, state) {
            state.apply(Command::Deployment(change)).expect("planned against this state");
            changes += 1;
            assert!(changes < 5, "no end of changes");
        }
        changes
    }

    #[test]
    fn the_state_is_brought_to_the_configuration_once_and_again_when_that_changes() {
        let read = text_alone(spec(2, 1).model);
        let mut state = ClusterState::default();
        assert_eq!(bring(&mut state, &seed(), Ok(&read)), 1);
        assert_eq!(bring(&mut state, &seed(), Ok(&read)), 0);
        let other = DeploymentSeed { tp: world(1), ..seed() };
        assert_eq!(bring(&mut state, &other, Ok(&read)), 1);
        assert_eq!(state.deployments["nano"].spec.generation, Generation(2));
        let newer = text_alone(ModelRecord { digest: "11".repeat(32), ..read.record });
        assert_eq!(bring(&mut state, &other, Ok(&newer)), 1);
        assert_eq!(state.deployments["nano"].spec.model, newer.record);
        let sees = ModelRead { pictures: Some(PictureLimits { pictures_max: 10, pixels_max: 20_000 }), ..newer };
        assert_eq!(bring(&mut state, &other, Ok(&sees)), 1);
        assert_eq!(state.deployments["nano"].spec.pictures, sees.pictures);
    }

    #[test]
    fn a_number_of_replicas_that_an_admin_set_stays_until_the_file_says_another() {
        let read = text_alone(spec(2, 1).model);
        let mut state = ClusterState::default();
        bring(&mut state, &seed(), Ok(&read));
        let scale = DeploymentCommand::Scale { name: "nano".into(), replicas: 3, expected: None };
        state.apply(Command::Deployment(scale)).expect("there");
        assert_eq!(bring(&mut state, &seed(), Ok(&read)), 0, "a new leader takes the admin's change back");
        // Another word of the file leaves the admin's alone.
        let wider = DeploymentSeed { tp: world(4), ..seed() };
        assert_eq!(bring(&mut state, &wider, Ok(&read)), 1);
        let now = &state.deployments["nano"].spec;
        assert_eq!((now.tp, now.replicas), (world(4), 3));
        let more = DeploymentSeed { replicas: 2, ..wider.clone() };
        assert_eq!(bring(&mut state, &more, Ok(&read)), 1);
        assert_eq!(state.deployments["nano"].spec.replicas, 2, "the file was changed after the admin");
        // The file comes to say what an admin had set: nothing to do, but to remember that it says so.
        let generation = state.deployments["nano"].spec.generation;
        let scale = DeploymentCommand::Scale { name: "nano".into(), replicas: 5, expected: Some(generation) };
        state.apply(Command::Deployment(scale)).expect("of this generation");
        let same = DeploymentSeed { replicas: 5, ..wider.clone() };
        let generation = state.deployments["nano"].spec.generation;
        assert_eq!(bring(&mut state, &same, Ok(&read)), 1);
        assert_eq!(state.deployments["nano"].spec.generation, generation);
        assert_eq!(bring(&mut state, &wider, Ok(&read)), 1);
        assert_eq!(state.deployments["nano"].spec.replicas, 1);
    }

    #[test]
    fn an_unreadable_model_is_said_and_taken_back_and_what_runs_stays() {
        let read = text_alone(spec(2, 1).model);
        let mut state = ClusterState::default();
        bring(&mut state, &seed(), Ok(&read));
        let gone = "no such directory".to_owned();
        assert_eq!(bring(&mut state, &seed(), Err(&gone)), 1);
        assert_eq!(state.unreadable["nano"], gone);
        assert_eq!(state.deployments["nano"].spec.generation, Generation(1));
        assert_eq!(bring(&mut state, &seed(), Ok(&read)), 1);
        assert!(state.unreadable.is_empty());
    }
}
