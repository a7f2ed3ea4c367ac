//! One prompt on its way: a replica is chosen, its events become the text of each choice, and their ends are told.
//!
//! Invariants: dropping a [`Generation`] cancels it at the replica; a failure before the first token tries another
//! replica, a later one is told to the client; nothing of a choice is told after its end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::generate::{Choice, FinishReason, GenerateEvent, GenerateRequest, TokenLogprobs, TokenOutput};
use protocol::{ReplicaId, RequestId};

use super::admission::{Place, Waiting};
use super::dispatch::{Dispatch, Events};
use super::errors::ApiError;
use super::output::{Delta, Finish, Output};
use super::prompt::Prompt;
use super::state::App;
use super::validate::ValidRequest;
use super::wait::Wait;
use crate::view::ReadyReplica;

/// Most replicas that are tried before the first token.
const ATTEMPTS_MAX: usize = 3;

/// By how much rank 0 lets a request live longer than the gateway does: the gateway tells its client of the deadline, rank 0's
/// own is for requests whose gateway is gone.
const DEADLINE_GRACE: Duration = Duration::from_secs(1);

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
    wait: Wait,
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
}

/// A replica that answers.
struct Attempt {
    events: Box<dyn Events>,
    place: Place,
    /// Prompt tokens that it had in its cache.
    cached_tokens: u32,
}

impl Generation {
    /// Waits for a replica, dispatches, and waits until the replica has something to tell.
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
        (prompt, waiting): (usize, Waiting),
        deadline: Instant,
    ) -> Result<Self, ApiError> {
        let mut wait = Wait::new(&app, &request, deadline);
        let mut place = wait.for_place(&app, id, waiting, &request.target.model).await?;
        let mut tried: Vec<ReplicaId> = Vec::new();
        let mut failed: Option<ApiError> = None;
        let (attempt, first) = loop {
            let replica = place.replica().clone();
            let events = first_event(&*app.dispatch, id, &request, &request.prompts[prompt], &replica, &mut wait).await;
            let error = match events {
                Ok(First { events, cached_tokens, event }) => break (Attempt { events, place, cached_tokens }, event),
                Err((error, Elsewhere::No)) => return Err(error),
                Err((error, Elsewhere::Maybe)) => error,
            };
            tracing::warn!(request_id = %id, replica_id = %replica.replica, epoch = %replica.epoch, %error, "replica gave no first token");
            tried.push(replica.replica);
            let error = match failed {
                Some(before) => to_tell(before, error),
                None => error,
            };
            if tried.len() == ATTEMPTS_MAX {
                return Err(error);
            }
            place = match place.elsewhere(&tried) {
                Some(place) => place,
                None => return Err(error),
            };
            failed = Some(error);
        };
        let output = || Output::new(request.target.bundle.tokenizer.pieces().clone(), request.rules.clone());
        let outputs = std::iter::repeat_with(output).take(usize::from(request.choices)).collect();
        let (prompt_logprobs, told) = (Vec::new(), VecDeque::new());
        let first = Some(first);
        Ok(Self { attempt, wait, prompt, id, first, prompt_logprobs, opened: false, outputs, told, request })
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
            let replica = self.attempt.place.replica();
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
                    let (deadline, Attempt { events, place, .. }) = (self.wait.deadline(), &mut self.attempt);
                    self.wait.for_replica(place.replica(), events.next(deadline)).await?
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
        let running = self.outputs.iter().filter(|o| !o.has_ended()).count();
        self.attempt.place.served(tokens.len(), running);
        let Some(output) = open_output(&mut self.outputs, choice)? else { return Ok(()) };
        let delta = output.push(tokens);
        let (found, max) = (output.tokens(), self.request.prompts[self.prompt].max_tokens as usize);
        if found > max {
            return Err(ApiError::ReplicaFailed { reason: format!("{found} tokens where {max} were asked for") });
        }
        let stopped = delta.finish.is_some();
        self.tell(choice, delta);
        if stopped && !self.outputs.iter().all(Output::has_ended) {
            self.attempt.events.end_choice(choice, self.wait.deadline()).await;
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
            let (replica, tokens) = (self.attempt.place.replica(), self.outputs[usize::from(choice)].tokens());
            tracing::debug!(request_id = %self.id, replica_id = %replica.replica, epoch = %replica.epoch, choice,
                prompt_tokens = self.request.prompts[self.prompt].ids.len(), tokens, finish, "choice ended");
            self.attempt.place.answered(tokens);
        }
        self.told.push_back(Progress::Choice { choice: usize::from(choice), delta });
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        for output in self.outputs.iter().filter(|o| !o.has_ended()) {
            self.attempt.place.cut_off(output.tokens());
        }
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

/// What a client is told of two replicas' failures: the later one, but of two that are full the one that has room first.
fn to_tell(before: ApiError, now: ApiError) -> ApiError {
    match (&before, &now) {
        (ApiError::ReplicaFull { retry: Some(first) }, ApiError::ReplicaFull { retry })
            if retry.is_none_or(|r| r > *first) =>
        {
            before
        }
        _ => now,
    }
}

/// Whether another replica could do better.
enum Elsewhere {
    Maybe,
    No,
}

/// A replica's first word that a client could be told.
struct First {
    events: Box<dyn Events>,
    cached_tokens: u32,
    event: GenerateEvent,
}

async fn first_event(
    dispatch: &dyn Dispatch,
    id: RequestId,
    request: &ValidRequest,
    prompt: &Prompt,
    replica: &ReadyReplica,
    wait: &mut Wait,
) -> Result<First, (ApiError, Elsewhere)> {
    let wire = GenerateRequest {
        request_id: id,
        replica: replica.replica,
        prompt_ids: prompt.ids.to_vec(),
        pictures: Vec::new(),
        choices: (0..request.choices).map(|index| Choice { index, resume: Vec::new() }).collect(),
        sampling: request.sampling_of(prompt),
        priority: request.terms.priority,
        cache_salt: request.terms.cache_salt.clone(),
        deadline_ms: u32::try_from((wait.left() + DEADLINE_GRACE).as_millis()).unwrap_or(u32::MAX),
    };
    let elsewhere = |error: ApiError| {
        let maybe = matches!(error, ApiError::ReplicaLost { .. } | ApiError::ReplicaFull { .. });
        (error, if maybe { Elsewhere::Maybe } else { Elsewhere::No })
    };
    let deadline = wait.deadline();
    let opened = wait.for_replica(replica, dispatch.open(replica, &wire, deadline)).await;
    let (mut events, mut cached) = (opened.map_err(elsewhere)?, 0);
    loop {
        match wait.for_replica(replica, events.next(deadline)).await.map_err(elsewhere)? {
            // Nothing that a client could have been told: the replica may still be lost without anybody noticing.
            GenerateEvent::Started { cached_tokens } => cached = cached_tokens,
            GenerateEvent::Failed { reason, retryable: true } => {
                return Err(elsewhere(ApiError::ReplicaLost { reason }));
            }
            GenerateEvent::Failed { reason, retryable: false } => {
                return Err(elsewhere(ApiError::ReplicaFailed { reason }));
            }
            event => return Ok(First { events, cached_tokens: cached, event }),
        }
    }
}
