//! The bundles of every deployment in the view: read when it appears, dropped when it is gone.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use protocol::ModelRecord;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::bundle::Bundle;
use crate::runtime;
use crate::view::ClusterView;

/// How long files that could not be used are left alone.
const RETRY: Duration = Duration::from_secs(5);

/// How far one model version is.
///
/// ```text
///   Loading ──▶ Loaded
///      ▲  └───▶ Failed ──┐
///      └────── retry ────┘
/// ```
#[derive(Debug, Clone)]
pub(super) enum BundleState {
    /// Being read.
    Loading,
    /// Usable.
    Loaded(Arc<Bundle>),
    /// Not usable, why in one line, and since when.
    Failed(Arc<str>, Instant),
}

/// Which model version: files of the same digest may still lie elsewhere.
type Key = (String, String);

fn key(model: &ModelRecord) -> Key {
    (model.digest.clone(), model.dir.clone())
}

/// Every bundle, by model version.
#[derive(Debug, Default)]
pub(super) struct Bundles {
    states: RwLock<HashMap<Key, BundleState>>,
}

impl Bundles {
    /// How far a model version is.
    pub(super) fn get(&self, model: &ModelRecord) -> BundleState {
        let states = self.states.read().unwrap_or_else(PoisonError::into_inner);
        states.get(&key(model)).cloned().unwrap_or(BundleState::Loading)
    }

    fn set(&self, model: &ModelRecord, state: BundleState) {
        self.states.write().unwrap_or_else(PoisonError::into_inner).insert(key(model), state);
    }

    /// Drops what no deployment needs and lists what has to be read.
    fn reconcile(&self, view: &ClusterView) -> Vec<ModelRecord> {
        let wanted: HashMap<Key, &ModelRecord> =
            view.deployments.iter().map(|d| (key(&d.spec.model), &d.spec.model)).collect();
        let mut states = self.states.write().unwrap_or_else(PoisonError::into_inner);
        states.retain(|k, _| wanted.contains_key(k));
        let missing = |k: &Key| match states.get(k) {
            None | Some(BundleState::Loading) => true,
            Some(BundleState::Loaded(_)) => false,
            Some(BundleState::Failed(_, since)) => runtime::now().saturating_duration_since(*since) >= RETRY,
        };
        wanted.into_iter().filter(|(k, _)| missing(k)).map(|(_, model)| model.clone()).collect()
    }

    /// Follows the view until `cancel`. One file set is read at a time, on the blocking pool.
    pub(super) async fn follow(
        self: Arc<Self>,
        mut view: watch::Receiver<Arc<ClusterView>>,
        cancel: CancellationToken,
    ) {
        loop {
            let now = view.borrow_and_update().clone();
            for model in self.reconcile(&now) {
                if cancel.is_cancelled() {
                    return;
                }
                let state = load(model.clone()).await;
                self.set(&model, state);
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = view.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY), if self.any_failed() => {}
            }
        }
    }

    fn any_failed(&self) -> bool {
        let states = self.states.read().unwrap_or_else(PoisonError::into_inner);
        states.values().any(|s| matches!(s, BundleState::Failed(..)))
    }
}

async fn load(model: ModelRecord) -> BundleState {
    let name = model.name.clone();
    match runtime::blocking(move || Bundle::load(&model)).await {
        Ok(Ok(bundle)) => {
            tracing::info!(model = %name, vocab_size = bundle.vocab_size, "tokenizer and chat template read");
            BundleState::Loaded(Arc::new(bundle))
        }
        Ok(Err(e)) => {
            tracing::error!(model = %name, error = %e, "the model's files cannot be used");
            BundleState::Failed(e.to_string().into(), runtime::now())
        }
        Err(e) => {
            tracing::error!(model = %name, error = %e, "reading the model's files failed");
            BundleState::Failed("reading the files failed inside".into(), runtime::now())
        }
    }
}
