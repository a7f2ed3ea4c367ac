//! What every route shares, and how a model's name becomes something that serves it.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use protocol::PictureLimits;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::admission::{Demand, Gate, No, Permit, Places, Waiting};
use super::attention::Attention;
use super::body;
use super::bundle::Bundle;
use super::bundles::{BundleState, Bundles};
use super::counters::Counters;
use super::dispatch::Dispatch;
use super::errors::{ApiError, quote};
use super::fields::RawRequest;
use super::pictures::{Decoders, Eyes, PictureMemory, Remote};
use super::validate::ValidRequest;
use crate::config::GatewayLimits;
use crate::journal::Journal;
use crate::metrics::Picture;
use crate::runtime;
use crate::view::{ClusterView, Coming, ServedDeployment};

/// One gateway.
pub(super) struct App {
    pub(super) view: watch::Receiver<Arc<ClusterView>>,
    pub(super) bundles: Arc<Bundles>,
    pub(super) dispatch: Arc<dyn Dispatch>,
    pub(super) places: Places,
    pub(super) gate: Gate,
    /// `None` where pictures are taken from requests alone.
    pub(super) remote: Option<Remote>,
    pub(super) decoders: Decoders,
    pub(super) picture_memory: PictureMemory,
    pub(super) counters: Counters,
    pub(super) limits: GatewayLimits,
    pub(super) attention: Arc<Attention>,
    /// What the leader has heard of workers, as last told here.
    pub(super) observed: Option<watch::Receiver<Arc<Picture>>>,
    /// What is told of the cluster, where that is.
    pub(super) metrics: Option<watch::Receiver<Arc<Picture>>>,
    pub(super) journal: Journal,
    /// Cancelled when nothing new is admitted.
    pub(super) draining: CancellationToken,
    /// Cancelled when what runs must end too.
    pub(super) stop: CancellationToken,
    /// When the gateway started, seconds since 1970.
    pub(super) started: u64,
}

/// What serves a request.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// The name that the client used.
    pub(super) model: String,
    pub(super) deployment: Arc<ServedDeployment>,
    pub(super) bundle: Arc<Bundle>,
    /// Longest context, tokens.
    pub(super) context_tokens: u32,
}

impl Target {
    /// How the model sees and what it may be shown; `None` where it reads text alone.
    pub(super) fn eyes(&self) -> Option<(&Eyes, PictureLimits)> {
        self.bundle.eyes.as_ref().zip(self.deployment.spec.pictures)
    }

    /// Same value, same answer for the same seed: the model version and the precision of its weights.
    pub(super) fn fingerprint(&self) -> String {
        let spec = &self.deployment.spec;
        let digest: String = spec.model.digest.chars().take(12).collect();
        format!("fp_{digest}_{}", spec.dtype.as_str())
    }
}

impl App {
    /// A place for one more request, and its body.
    ///
    /// # Errors
    /// [`ApiError::ShuttingDown`], [`ApiError::TooManyRequests`], and those of [`body::read`].
    pub(super) async fn take_in(&self, body: Body) -> Result<(Permit, Bytes), ApiError> {
        match self.place() {
            Ok(permit) => Ok((permit, body::read(body, self.limits.body_bytes_max).await?)),
            Err(error) => {
                body::discard(body).await;
                Err(error)
            }
        }
    }

    /// A place for one more request.
    ///
    /// # Errors
    /// [`ApiError::ShuttingDown`], [`ApiError::TooManyRequests`].
    pub(super) fn place(&self) -> Result<Permit, ApiError> {
        if self.draining.is_cancelled() {
            return Err(ApiError::ShuttingDown);
        }
        let full = || ApiError::TooManyRequests { max: self.places.max(), retry: self.gate.one_is_over_in() };
        self.places.take().ok_or_else(full)
    }

    /// Runs work that would hold up the runtime: parsing, rendering and encoding of what may be megabytes. It holds the
    /// request's place until it is done, also when the client has gone, so there is never more of it than places.
    ///
    /// # Errors
    /// Those of `work`; [`ApiError::Internal`] when it panics.
    pub(super) async fn off_runtime<T: Send + 'static>(
        self: &Arc<Self>,
        permit: Permit,
        work: impl FnOnce(&App) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<(Permit, T), ApiError> {
        let app = self.clone();
        match runtime::blocking(move || work(&app).map(|done| (permit, done))).await {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "preparing a request failed");
                Err(ApiError::Internal { what: "request preparation" })
            }
        }
    }

    /// Admits a request: one place in the queue for each of its prompts.
    ///
    /// # Errors
    /// [`ApiError::QueueFull`], [`ApiError::DeadlineUnmeetable`].
    pub(super) fn admit(&self, request: &ValidRequest, deadline: Instant) -> Result<Vec<Waiting>, ApiError> {
        let demands: Vec<Demand> = (0..request.prompts.len()).map(|prompt| request.demand(prompt)).collect();
        let deployment = &request.target.deployment.spec.name;
        self.gate.arrive(deployment, &demands, request.terms.priority, deadline).map_err(|no| match no {
            No::QueueTokens { found, max, retry } => ApiError::QueueFull { unit: "tokens", found, max, retry },
            No::QueueBytes { found, max, retry } => ApiError::QueueFull { unit: "bytes", found, max, retry },
            No::TooLate { needed, left, retry } => ApiError::DeadlineUnmeetable { needed, left, retry },
        })
    }

    /// What serves the model that a request names.
    ///
    /// # Errors
    /// [`ApiError::Missing`], [`ApiError::UnknownModel`], and those for a deployment that cannot serve now.
    pub(super) fn target(&self, raw: &RawRequest) -> Result<Target, ApiError> {
        let model = raw.string("model")?.ok_or_else(|| ApiError::Missing { param: "model".to_owned() })?.to_owned();
        let deployment = self.deployment(&model).ok_or_else(|| ApiError::UnknownModel { model: quote(&model) })?;
        let bundle = match self.bundles.get(&deployment.spec.model) {
            BundleState::Loaded(bundle) => bundle,
            BundleState::Loading => return Err(ApiError::ModelLoading { model }),
            BundleState::Failed(reason, _) => return Err(ApiError::ModelBroken { model, reason: reason.to_string() }),
        };
        let context_tokens = deployment.context_tokens().or_else(|| self.context_to_come(&deployment));
        let Some(context_tokens) = context_tokens else { return Err(ApiError::NoReplica { model }) };
        Ok(Target { model, deployment, bundle, context_tokens })
    }

    /// Longest context of the replica that a request waits for, where none stands; `None` where it does not wait: none is to
    /// come, or nothing is known of it yet.
    fn context_to_come(&self, deployment: &ServedDeployment) -> Option<u32> {
        match deployment.coming {
            _ if self.limits.replica_wait_ms == 0 => None,
            Coming::No => None,
            Coming::Soon => self.gate.context_before(&deployment.spec.name),
            Coming::Forming { context_tokens } => Some(context_tokens),
        }
    }

    fn deployment(&self, model: &str) -> Option<Arc<ServedDeployment>> {
        let view = self.view.borrow();
        view.deployments.iter().find(|d| d.spec.served_names.iter().any(|name| name == model)).cloned()
    }
}

/// Seconds since 1970.
pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
