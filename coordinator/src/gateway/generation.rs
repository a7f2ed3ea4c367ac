//! One prompt on its way: a replica is chosen, its events become the text of each choice, and their ends are told.
//!
//! Invariants: dropping a [`Generation`] cancels it at the replica; a failure before the first token tries another
//! replica, a later one is told to the client; nothing of a choice is told after its end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use protocol::generate::{Choice, FinishReason, GenerateEvent, GenerateRequest, TokenLogprobs, TokenOutput};
use protocol::{ReplicaId, RequestId};

use super::dispatch::{DispatchError, Events};
use super::errors::ApiError;
use super::output::{Delta, Finish, Output};
use super::prompt::Prompt;
use super::route::Placed;
use super::state::App;
use super::validate::ValidRequest;

/// Most replicas that are tried before the first token.
const ATTEMPTS_MAX: usize = 3;

/// What comes next of one prompt.
#[derive(Debug)]
pub(super) enum Progress {
    /// Its answers begin; always first. Logprobs of the prompt's tokens from the second on, where they were asked for.
    Opened(Vec<TokenLogprobs>),
    /// One choice, counted within the prompt, goes on.
    Choice { choice: usize, delta: Delta },
}

/// A prompt that a replica has begun to answer.
pub(super) struct Generation {
    attempt: Attempt,
    app: Arc<App>,
    request: Arc<ValidRequest>,
    /// Which of the request's prompts.
    prompt: usize,
    id: RequestId,
    /// The event that showed that the replica answers.
    first: Option<GenerateEvent>,
    prompt_logprobs: Vec<TokenLogprobs>,
    opened: bool,
    outputs: Vec<Output>,
    told: VecDeque<Progress>,
    deadline: Instant,
}

/// A replica that answers.
struct Attempt {
    events: Box<dyn Events>,
    placed: Placed,
    /// Prompt tokens that it had in its cache.
    cached_tokens: u32,
}

impl Generation {
    /// Dispatches and waits until the replica has something to tell.
    ///
    /// # Errors
    /// Those of a replica that cannot be had: nothing has been sent to the client yet.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the prompt.
    pub(super) async fn start(
        app: Arc<App>,
        id: RequestId,
        request: Arc<ValidRequest>,
        prompt: usize,
        deadline: Instant,
    ) -> Result<Self, ApiError> {
        let mut tried: Vec<ReplicaId> = Vec::new();
        let mut last = ApiError::NoReplica { model: request.target.model.clone() };
        let asked = &request.prompts[prompt];
        let tokens = asked.ids.len() + asked.max_tokens as usize;
        while tried.len() < ATTEMPTS_MAX {
            let Some(placed) = app.routes.place(&request.target.deployment, tokens, &tried) else { break };
            let replica = placed.replica.clone();
            match first_event(&app, id, &request, asked, placed, deadline).await {
                Ok((attempt, first)) => {
                    let pieces = request.target.bundle.tokenizer.pieces();
                    let output = || Output::new(pieces.clone(), request.rules.clone());
                    let outputs = std::iter::repeat_with(output).take(usize::from(request.choices)).collect();
                    return Ok(Self {
                        attempt,
                        app,
                        prompt,
                        id,
                        first: Some(first),
                        prompt_logprobs: Vec::new(),
                        opened: false,
                        outputs,
                        told: VecDeque::new(),
                        deadline,
                        request,
                    });
                }
                Err((error, Elsewhere::No)) => return Err(error),
                Err((error, Elsewhere::Maybe)) => {
                    tracing::warn!(request_id = %id, replica_id = %replica.replica, epoch = %replica.epoch, %error, "replica gave no first token");
                    tried.push(replica.replica);
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// Prompt tokens that the replica had in its cache.
    pub(super) fn cached_tokens(&self) -> u32 {
        self.attempt.cached_tokens
    }

    /// What comes next; `None` after the end of the last choice.
    ///
    /// # Errors
    /// [`ApiError`] of a replica that was lost, of a deadline, of a shutdown. A failed generation is to be dropped.
    ///
    /// # Cancel safety
    /// Not safe: drop the generation too.
    pub(super) async fn next(&mut self) -> Result<Option<Progress>, ApiError> {
        let next = self.advance().await;
        if let Err(error) = &next {
            let tokens: usize = self.outputs.iter().map(Output::tokens).sum();
            let replica = &self.attempt.placed.replica;
            tracing::warn!(request_id = %self.id, replica_id = %replica.replica, epoch = %replica.epoch, tokens, %error,
                "generation failed");
        }
        next
    }

    async fn advance(&mut self) -> Result<Option<Progress>, ApiError> {
        loop {
            if let Some(progress) = self.told.pop_front() {
                return Ok(Some(progress));
            }
            if self.opened && self.outputs.iter().all(Output::has_ended) {
                return Ok(None);
            }
            let event = match self.first.take() {
                Some(event) => event,
                None => {
                    let timeout = self.request.terms.timeout;
                    bounded(&self.app, self.deadline, timeout, self.attempt.events.next(self.deadline)).await?
                }
            };
            self.take(event).await?;
        }
    }

    async fn take(&mut self, event: GenerateEvent) -> Result<(), ApiError> {
        match event {
            GenerateEvent::Started { cached_tokens } => self.attempt.cached_tokens = cached_tokens,
            GenerateEvent::Prompt(logprobs) => self.prompt_logprobs.extend(logprobs),
            GenerateEvent::Tokens { choice, tokens } => return self.take_tokens(choice, tokens).await,
            GenerateEvent::Finished { choice, reason } => return self.take_end(choice, reason),
            GenerateEvent::Failed { reason, retryable: true } => return Err(ApiError::ReplicaLost { reason }),
            GenerateEvent::Failed { reason, retryable: false } => return Err(ApiError::ReplicaFailed { reason }),
        }
        let (found, most) = (self.prompt_logprobs.len(), self.prompt_logprobs_due());
        if found > most {
            return Err(ApiError::ReplicaFailed { reason: format!("{found} prompt logprobs where {most} were due") });
        }
        Ok(())
    }

    async fn take_tokens(&mut self, choice: u16, tokens: Vec<TokenOutput>) -> Result<(), ApiError> {
        self.open()?;
        let Some(output) = open_output(&mut self.outputs, choice)? else { return Ok(()) };
        let delta = output.push(tokens);
        let (found, max) = (output.tokens(), self.request.prompts[self.prompt].max_tokens as usize);
        if found > max {
            return Err(ApiError::ReplicaFailed { reason: format!("{found} tokens where {max} were asked for") });
        }
        let stopped = delta.finish.is_some();
        self.tell(choice, delta);
        if stopped && !self.outputs.iter().all(Output::has_ended) {
            self.attempt.events.end_choice(choice, self.deadline).await;
        }
        Ok(())
    }

    fn take_end(&mut self, choice: u16, reason: FinishReason) -> Result<(), ApiError> {
        self.open()?;
        let Some(output) = open_output(&mut self.outputs, choice)? else { return Ok(()) };
        let delta = output.finish(reason);
        self.tell(choice, delta);
        Ok(())
    }

    /// Before the first token or end of any choice.
    fn open(&mut self) -> Result<(), ApiError> {
        if std::mem::replace(&mut self.opened, true) {
            return Ok(());
        }
        let (logprobs, due) = (std::mem::take(&mut self.prompt_logprobs), self.prompt_logprobs_due());
        if logprobs.len() != due {
            let reason = format!("{} prompt logprobs where {due} were due", logprobs.len());
            return Err(ApiError::ReplicaFailed { reason });
        }
        self.told.push_back(Progress::Opened(logprobs));
        if self.request.prompts[self.prompt].max_tokens == 0 {
            for choice in 0..self.outputs.len() {
                let delta = self.outputs[choice].finish(FinishReason::Length);
                self.told.push_back(Progress::Choice { choice, delta });
            }
        }
        Ok(())
    }

    fn prompt_logprobs_due(&self) -> usize {
        let wanted = self.request.sampling.prompt_logprobs.is_some();
        if wanted { self.request.prompts[self.prompt].ids.len() - 1 } else { 0 }
    }

    fn tell(&mut self, choice: u16, delta: Delta) {
        if let Some(finish) = &delta.finish {
            let finish = match finish {
                Finish::StopString(_) => "stop string",
                Finish::StopId(_) => "stop id",
                Finish::Length => "length",
            };
            let replica = &self.attempt.placed.replica;
            tracing::debug!(request_id = %self.id, replica_id = %replica.replica, epoch = %replica.epoch, choice,
                prompt_tokens = self.request.prompts[self.prompt].ids.len(),
                tokens = self.outputs[usize::from(choice)].tokens(), finish, "choice ended");
        }
        self.told.push_back(Progress::Choice { choice: usize::from(choice), delta });
    }
}

/// The output of a choice; `None` where it has ended here, of which the replica may not know yet.
fn open_output(outputs: &mut [Output], choice: u16) -> Result<Option<&mut Output>, ApiError> {
    let choices = outputs.len();
    match outputs.get_mut(usize::from(choice)) {
        Some(output) => Ok(Some(output).filter(|o| !o.has_ended())),
        None => Err(ApiError::ReplicaFailed { reason: format!("choice {choice} where {choices} were asked for") }),
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
    prompt: &Prompt,
    placed: Placed,
    deadline: Instant,
) -> Result<(Attempt, GenerateEvent), (ApiError, Elsewhere)> {
    let left = deadline.saturating_duration_since(Instant::now());
    let wire = GenerateRequest {
        request_id: id,
        replica: placed.replica.replica,
        prompt_ids: prompt.ids.to_vec(),
        choices: (0..request.choices).map(|index| Choice { index, resume: Vec::new() }).collect(),
        sampling: request.sampling_of(prompt),
        priority: request.terms.priority,
        cache_salt: request.terms.cache_salt.clone(),
        deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
    };
    let elsewhere = |error: ApiError| {
        let maybe = matches!(error, ApiError::ReplicaLost { .. } | ApiError::ReplicaFull);
        (error, if maybe { Elsewhere::Maybe } else { Elsewhere::No })
    };
    let timeout = request.terms.timeout;
    let opened = bounded(app, deadline, timeout, app.dispatch.open(&placed.replica, &wire, deadline)).await;
    let mut attempt = Attempt { events: opened.map_err(elsewhere)?, placed, cached_tokens: 0 };
    loop {
        match bounded(app, deadline, timeout, attempt.events.next(deadline)).await.map_err(elsewhere)? {
            // Nothing that a client could have been told: the replica may still be lost without anybody noticing.
            GenerateEvent::Started { cached_tokens } => attempt.cached_tokens = cached_tokens,
            GenerateEvent::Failed { reason, retryable: true } => {
                return Err(elsewhere(ApiError::ReplicaLost { reason }));
            }
            GenerateEvent::Failed { reason, retryable: false } => {
                return Err(elsewhere(ApiError::ReplicaFailed { reason }));
            }
            event => return Ok((attempt, event)),
        }
    }
}

/// Waits for a replica, but not past the deadline and not past the gateway's own end.
async fn bounded<T>(
    app: &App,
    deadline: Instant,
    timeout: std::time::Duration,
    wait: impl Future<Output = Result<T, DispatchError>>,
) -> Result<T, ApiError> {
    let late = || ApiError::Deadline { ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX) };
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
