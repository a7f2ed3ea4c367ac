//! One request on its way: a replica is chosen, its events become text, and the end is told.
//!
//! Invariants: dropping a [`Generation`] cancels it at the replica and gives its place back; a failure before the first
//! token tries another replica, a later one is told to the client.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::generate::{Choice, GenerateEvent, GenerateRequest, Priority};
use protocol::{ReplicaId, RequestId};

use super::admission::Permit;
use super::dispatch::{DispatchError, Events};
use super::errors::ApiError;
use super::output::{Delta, Finish, Output};
use super::route::Placed;
use super::state::App;
use super::validate::ValidRequest;

/// Most replicas that are tried before the first token.
const ATTEMPTS_MAX: usize = 3;

/// A request that a replica has begun to answer.
pub(super) struct Generation {
    app: Arc<App>,
    request: Arc<ValidRequest>,
    id: RequestId,
    events: Box<dyn Events>,
    /// The event that showed that the replica answers.
    first: Option<GenerateEvent>,
    output: Output,
    deadline: Instant,
    ended: bool,
    placed: Placed,
    _permit: Permit,
}

impl Generation {
    /// Dispatches and waits for the first event.
    ///
    /// # Errors
    /// Those of a replica that cannot be had: nothing has been sent to the client yet.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request.
    pub(super) async fn start(
        app: Arc<App>,
        id: RequestId,
        request: ValidRequest,
        permit: Permit,
        admitted: Instant,
    ) -> Result<Self, ApiError> {
        let deadline = admitted + Duration::from_millis(u64::from(app.limits.request_timeout_ms));
        let mut tried: Vec<ReplicaId> = Vec::new();
        let mut last = ApiError::NoReplica { model: request.target.model.clone() };
        let tokens = request.prompt_ids.len() + request.sampling.max_tokens as usize;
        while tried.len() < ATTEMPTS_MAX {
            let Some(placed) = app.routes.place(&request.target.deployment, tokens, &tried) else { break };
            match first_event(&app, id, &request, &placed, deadline).await {
                Ok((events, first)) => {
                    let output = Output::new(request.target.bundle.tokenizer.pieces().clone(), request.rules.clone());
                    let request = Arc::new(request);
                    let first = Some(first);
                    return Ok(Self {
                        app,
                        request,
                        id,
                        events,
                        first,
                        output,
                        deadline,
                        ended: false,
                        placed,
                        _permit: permit,
                    });
                }
                Err((error, Elsewhere::No)) => return Err(error),
                Err((error, Elsewhere::Maybe)) => {
                    let replica = &placed.replica;
                    tracing::warn!(request_id = %id, replica_id = %replica.replica, epoch = %replica.epoch, %error, "replica gave no first token");
                    tried.push(replica.replica);
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// The request.
    pub(super) fn request(&self) -> &Arc<ValidRequest> {
        &self.request
    }

    /// Number of tokens of the answer so far.
    pub(super) fn tokens(&self) -> usize {
        self.output.tokens()
    }

    /// What comes next; `None` after the end. A failed generation has ended too.
    ///
    /// # Errors
    /// [`ApiError`] of a replica that was lost, of a deadline, of a shutdown.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Result<Option<Delta>, ApiError> {
        if self.ended {
            return Ok(None);
        }
        let event = match self.first.take() {
            Some(event) => Ok(event),
            None => bounded(&self.app, self.deadline, self.events.next(self.deadline)).await,
        };
        let delta = event.and_then(|event| self.take(event));
        match &delta {
            Ok(delta) => {
                self.ended = delta.finish.is_some();
                if let Some(finish) = &delta.finish {
                    self.log_end(finish);
                }
            }
            Err(error) => {
                self.ended = true;
                tracing::warn!(request_id = %self.id, replica_id = %self.placed.replica.replica,
                    epoch = %self.placed.replica.epoch, tokens = self.tokens(), %error, "generation failed");
            }
        }
        delta.map(Some)
    }

    fn take(&mut self, event: GenerateEvent) -> Result<Delta, ApiError> {
        match event {
            GenerateEvent::Started { .. } | GenerateEvent::Prompt(_) => Ok(Delta::default()),
            GenerateEvent::Tokens { tokens, .. } => {
                let delta = self.output.push(tokens);
                let max = self.request.sampling.max_tokens as usize;
                if self.output.tokens() > max {
                    let reason = format!("{} tokens where {max} were asked for", self.output.tokens());
                    return Err(ApiError::ReplicaFailed { reason });
                }
                Ok(delta)
            }
            GenerateEvent::Finished { reason, .. } => Ok(self.output.finish(reason)),
            GenerateEvent::Failed { reason, retryable: true } => Err(ApiError::ReplicaLost { reason }),
            GenerateEvent::Failed { reason, retryable: false } => Err(ApiError::ReplicaFailed { reason }),
        }
    }

    fn log_end(&self, finish: &Finish) {
        let finish = match finish {
            Finish::StopString(_) => "stop string",
            Finish::StopId(_) => "stop id",
            Finish::Length => "length",
        };
        tracing::debug!(request_id = %self.id, replica_id = %self.placed.replica.replica, epoch = %self.placed.replica.epoch,
            prompt_tokens = self.request.prompt_ids.len(), tokens = self.tokens(), finish, "generation ended");
    }
}

/// Whether another replica could do better.
enum Elsewhere {
    Maybe,
    No,
}

async fn first_event(
    app: &App,
    id: RequestId,
    request: &ValidRequest,
    placed: &Placed,
    deadline: Instant,
) -> Result<(Box<dyn Events>, GenerateEvent), (ApiError, Elsewhere)> {
    let left = deadline.saturating_duration_since(Instant::now());
    let wire = GenerateRequest {
        request_id: id,
        replica: placed.replica.replica,
        prompt_ids: request.prompt_ids.to_vec(),
        choices: vec![Choice::only()],
        sampling: request.sampling.clone(),
        priority: Priority::default(),
        cache_salt: String::new(),
        deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
    };
    let elsewhere = |error: ApiError| {
        let maybe = matches!(error, ApiError::ReplicaLost { .. } | ApiError::ReplicaFull);
        (error, if maybe { Elsewhere::Maybe } else { Elsewhere::No })
    };
    let mut events =
        bounded(app, deadline, app.dispatch.open(&placed.replica, &wire, deadline)).await.map_err(elsewhere)?;
    match bounded(app, deadline, events.next(deadline)).await.map_err(elsewhere)? {
        GenerateEvent::Failed { reason, retryable: true } => Err(elsewhere(ApiError::ReplicaLost { reason })),
        GenerateEvent::Failed { reason, retryable: false } => Err(elsewhere(ApiError::ReplicaFailed { reason })),
        event => Ok((events, event)),
    }
}

/// Waits for a replica, but not past the deadline and not past the gateway's own end.
async fn bounded<T>(
    app: &App,
    deadline: Instant,
    wait: impl Future<Output = Result<T, DispatchError>>,
) -> Result<T, ApiError> {
    let late = || ApiError::Deadline { ms: app.limits.request_timeout_ms };
    tokio::select! {
        biased;
        () = app.stop.cancelled() => Err(ApiError::ShuttingDown),
        done = tokio::time::timeout_at(deadline.into(), wait) => match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(DispatchError::Deadline)) | Err(_) => Err(late()),
            Ok(Err(DispatchError::Busy { reason })) => {
                tracing::debug!(%reason, "replica is busy");
                Err(ApiError::ReplicaFull)
            }
            Ok(Err(e @ DispatchError::Unreachable { .. })) => Err(ApiError::ReplicaLost { reason: e.to_string() }),
            Ok(Err(DispatchError::Lost { reason })) => Err(ApiError::ReplicaLost { reason }),
            Ok(Err(DispatchError::Refused { reason })) => Err(ApiError::ReplicaFailed { reason }),
        },
    }
}
