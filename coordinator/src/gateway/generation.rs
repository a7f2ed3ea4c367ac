//! One prompt on its way: a replica is chosen, its events become the text of each choice, and their ends are told.
//!
//! Not here: what happens when its replica is lost in the middle (`resume`). Invariants: dropping a [`Generation`] cancels it
//! at the replica; a replica that fails before the first token is replaced by another in silence; nothing of a choice is told
//! after its end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::RequestId;
use protocol::generate::{Choice, FinishReason, GenerateEvent, GenerateRequest, TokenLogprobs, TokenOutput};

use super::admission::{Moved, Place, Waiting};
use super::dispatch::{Dispatch, Events};
use super::errors::ApiError;
use super::output::{Delta, Finish, Output};
use super::position::{Known, Phase};
use super::prompt::Prompt;
use super::state::App;
use super::validate::ValidRequest;
use super::wait::Wait;
use crate::view::{Group, ReadyReplica};

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
    pub(super) app: Arc<App>,
    /// `None` while its replica is lost and no other goes on.
    pub(super) events: Option<Box<dyn Events>>,
    pub(super) place: Place,
    pub(super) wait: Wait,
    pub(super) request: Arc<ValidRequest>,
    /// Which of the request's prompts.
    pub(super) prompt: usize,
    pub(super) id: RequestId,
    /// The event that showed that the replica answers.
    pub(super) first: Option<GenerateEvent>,
    /// Prompt tokens that the first replica had in its cache.
    cached_tokens: u32,
    pub(super) outputs: Vec<Output>,
    /// By choice, how many tokens the client has from another gateway: a delta ends there, since it tells nothing of them.
    seen: Vec<usize>,
    told: VecDeque<Progress>,
}

impl Generation {
    /// Waits for a replica, dispatches, and waits until the replica has something to tell. Of what is `known` of each choice it
    /// makes the same deltas as of what comes.
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
        known: Vec<Known>,
        deadline: Instant,
    ) -> Result<Self, ApiError> {
        let mut wait = Wait::new(&app, &request, deadline);
        let mut place = wait.for_place(&app, id, waiting, &request.target).await?;
        let mut tried: Vec<Group> = Vec::new();
        let mut failed: Option<ApiError> = None;
        let fresh = known.iter().any(|k| k.seen.phase == Phase::Unopened);
        let (outputs, deltas) = outputs_of(&request, &known);
        let asked = Asked { id, request: &request, prompt: &request.prompts[prompt], fresh };
        let first = loop {
            let replica = place.replica().clone();
            let choices = unfinished(&outputs);
            let error = match first_event(&*app.dispatch, &asked, choices, &replica, &mut wait).await {
                Ok(first) => break first,
                Err((error, Elsewhere::No)) => return Err(error),
                Err((error, Elsewhere::Untouched | Elsewhere::Lost)) => error,
            };
            tracing::warn!(request_id = %id, replica_id = %replica.replica, epoch = %replica.epoch, %error, "replica gave no first token");
            tried.push(replica.group());
            let error = match failed {
                Some(before) => to_tell(before, error),
                None => error,
            };
            let is_found = match &error {
                _ if tried.len() == ATTEMPTS_MAX => false,
                ApiError::ReplicaLost { .. } => wait.for_another(&app, &mut place, &request.target, &tried).await?,
                _ => place.elsewhere(&request.target.deployment.spec, &tried) == Moved::There,
            };
            if !is_found {
                return Err(error);
            }
            failed = Some(error);
        };
        let seen = known.iter().map(|k| k.seen.tokens).collect();
        let First { events, cached_tokens, prompt_logprobs, event } = first;
        let (events, first, told) = (Some(events), Some(event), VecDeque::new());
        let mut generation =
            Self { app, events, place, wait, request, prompt, id, first, cached_tokens, outputs, seen, told };
        generation.open(prompt_logprobs, deltas);
        Ok(generation)
    }

    /// Prompt tokens that the replica that began had in its cache.
    pub(super) fn cached_tokens(&self) -> u32 {
        self.cached_tokens
    }

    /// What comes next; `None` after the end of the last choice.
    ///
    /// # Errors
    /// [`ApiError`] of a replica that was lost and that none could stand in for, of a deadline, of a shutdown. A failed
    /// generation is to be dropped.
    ///
    /// # Cancel safety
    /// Not safe: drop the generation too.
    pub(super) async fn next(&mut self) -> Result<Option<Progress>, ApiError> {
        let next = self.advance().await;
        if let Err(error) = &next {
            let tokens: usize = self.outputs.iter().map(Output::tokens).sum();
            let replica = self.place.replica();
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
            if self.outputs.iter().all(Output::has_ended) {
                return Ok(None);
            }
            let taken = match self.event().await {
                Ok(event) => self.take(event).await,
                Err(error) => Err(error),
            };
            if let Err(error) = taken {
                self.resume(error).await?;
            }
        }
    }

    /// What the replica says next.
    async fn event(&mut self) -> Result<GenerateEvent, ApiError> {
        if let Some(event) = self.first.take() {
            return Ok(event);
        }
        let events = self.events.as_mut().expect("a prompt whose replica is lost has another before it goes on");
        let deadline = self.wait.deadline();
        self.wait.for_replica(self.place.replica(), events.next(deadline)).await
    }

    async fn take(&mut self, event: GenerateEvent) -> Result<(), ApiError> {
        match event {
            GenerateEvent::Tokens { choice, tokens } => self.take_tokens(choice, tokens).await,
            GenerateEvent::Finished { choice, reason } => self.take_end(choice, reason),
            GenerateEvent::Failed { reason, retryable } => Err(failed(reason, retryable)),
            // Another of its choices, or the same after it had to give its blocks back.
            GenerateEvent::Started { .. } => Ok(()),
            GenerateEvent::Prompt(_) => {
                Err(ApiError::ReplicaFailed { reason: "a prompt logprob after the first token".to_owned() })
            }
        }
    }

    async fn take_tokens(&mut self, choice: u16, mut tokens: Vec<TokenOutput>) -> Result<(), ApiError> {
        let running = self.outputs.iter().filter(|o| !o.has_ended()).count();
        self.place.served(tokens.len(), running);
        let Some(output) = open_output(&mut self.outputs, choice)? else { return Ok(()) };
        let seen = self.seen[usize::from(choice)].saturating_sub(output.tokens()).min(tokens.len());
        let rest = tokens.split_off(seen);
        let mut deltas: Vec<Delta> = Vec::with_capacity(2);
        for tokens in [tokens, rest] {
            if !tokens.is_empty() && !output.has_ended() {
                deltas.push(output.push(tokens));
            }
        }
        let (found, max) = (output.tokens(), self.request.prompts[self.prompt].max_tokens as usize);
        if found > max {
            return Err(ApiError::ReplicaFailed { reason: format!("{found} tokens where {max} were asked for") });
        }
        let stopped = output.has_ended();
        deltas.into_iter().for_each(|delta| self.tell(choice, delta));
        if let Some(events) = self.events.as_mut().filter(|_| stopped && !self.outputs.iter().all(Output::has_ended)) {
            events.end_choice(choice, self.wait.deadline()).await;
        }
        Ok(())
    }

    fn take_end(&mut self, choice: u16, reason: FinishReason) -> Result<(), ApiError> {
        let Some(output) = open_output(&mut self.outputs, choice)? else { return Ok(()) };
        let delta = output.finish(reason);
        self.tell(choice, delta);
        Ok(())
    }

    /// Before the first token or end of any choice.
    fn open(&mut self, logprobs: Vec<TokenLogprobs>, known: Vec<(usize, Delta)>) {
        self.told.push_back(Progress::Opened(logprobs));
        self.told.extend(known.into_iter().map(|(choice, delta)| Progress::Choice { choice, delta }));
        if self.request.prompts[self.prompt].max_tokens == 0 {
            for choice in (0..self.outputs.len()).filter(|c| !self.outputs[*c].has_ended()).collect::<Vec<_>>() {
                let delta = self.outputs[choice].finish(FinishReason::Length);
                self.told.push_back(Progress::Choice { choice, delta });
            }
        }
    }

    fn tell(&mut self, choice: u16, delta: Delta) {
        if let Some(finish) = &delta.finish {
            let finish = match finish {
                Finish::StopString(_) => "stop string",
                Finish::StopId(_) => "stop id",
                Finish::Length => "length",
            };
            let (replica, tokens) = (self.place.replica(), self.outputs[usize::from(choice)].tokens());
            tracing::debug!(request_id = %self.id, replica_id = %replica.replica, epoch = %replica.epoch, choice,
                prompt_tokens = self.request.prompts[self.prompt].ids.len(), tokens, finish, "choice ended");
            self.place.answered(tokens);
        }
        self.told.push_back(Progress::Choice { choice: usize::from(choice), delta });
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        for output in self.outputs.iter().filter(|o| !o.has_ended()) {
            self.place.cut_off(output.tokens());
        }
    }
}

/// The outputs of a prompt's choices, and the deltas of what is known of them.
fn outputs_of(request: &ValidRequest, known: &[Known]) -> (Vec<Output>, Vec<(usize, Delta)>) {
    let pieces = || request.target.bundle.tokenizer.pieces().clone();
    let after = |ids: &[u32]| {
        let mut output = Output::new(pieces(), request.rules.clone());
        let delta = output.push(ids.iter().map(|id| TokenOutput { id: *id, logprobs: None }).collect());
        (output, delta)
    };
    let (mut outputs, mut deltas) = (Vec::with_capacity(known.len()), Vec::new());
    for (choice, Known { seen, ids }) in known.iter().enumerate() {
        if seen.phase == Phase::Ended {
            outputs.push(Output::told(pieces(), request.rules.clone()));
            continue;
        }
        let (mut output, mut delta) = after(ids);
        if output.has_ended() {
            // Its last token found a stop string, and the end is still to be told: that token is computed once more, so that it
            // is told as any other end.
            (output, delta) = after(&ids[..output.tokens() - 1]);
        }
        if !delta.tokens.is_empty() {
            deltas.push((choice, delta));
        }
        outputs.push(output);
    }
    (outputs, deltas)
}

/// The choices that have not ended, each with what it has.
pub(super) fn unfinished(outputs: &[Output]) -> Vec<Choice> {
    let running = (0..).zip(outputs).filter(|(_, output)| !output.has_ended());
    running.map(|(index, output)| Choice { index, resume: output.ids().to_vec() }).collect()
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

/// Whether another replica could do better than one that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Elsewhere {
    /// It could; the one that failed has not begun with the request.
    Untouched,
    /// It could, unless the request is what broke the one that had it.
    Lost,
    /// No: the request itself, its deadline or this gateway is at fault.
    No,
}

/// One prompt as a replica is asked it.
pub(super) struct Asked<'a> {
    pub(super) id: RequestId,
    pub(super) request: &'a ValidRequest,
    pub(super) prompt: &'a Prompt,
    /// Whether nothing of it was answered yet.
    pub(super) fresh: bool,
}

impl Asked<'_> {
    fn wire(&self, choices: Vec<Choice>, replica: &ReadyReplica, left: Duration) -> GenerateRequest {
        let mut sampling = self.request.sampling_of(self.prompt);
        sampling.prompt_logprobs = sampling.prompt_logprobs.filter(|_| self.fresh);
        GenerateRequest {
            request_id: self.id,
            replica: replica.replica,
            prompt_ids: self.prompt.ids.to_vec(),
            pictures: self.prompt.pictures.places.clone(),
            choices,
            sampling,
            priority: self.request.terms.priority,
            cache_salt: self.request.terms.cache_salt.clone(),
            deadline_ms: u32::try_from((left + DEADLINE_GRACE).as_millis()).unwrap_or(u32::MAX),
        }
    }

    /// How many prompt logprobs come before the first token.
    fn prompt_logprobs_due(&self) -> usize {
        let wanted = self.fresh && self.request.sampling.prompt_logprobs.is_some();
        if wanted { self.prompt.ids.len() - 1 } else { 0 }
    }

    fn check_prompt_logprobs(&self, found: usize, may_be_fewer: bool) -> Result<(), (ApiError, Elsewhere)> {
        let due = self.prompt_logprobs_due();
        if found == due || may_be_fewer && found < due {
            return Ok(());
        }
        let reason = format!("{found} prompt logprobs where {due} were due");
        Err((ApiError::ReplicaFailed { reason }, Elsewhere::No))
    }
}

/// A replica's first word that a client could be told.
pub(super) struct First {
    pub(super) events: Box<dyn Events>,
    /// Prompt tokens that it had in its cache.
    cached_tokens: u32,
    /// As many as are due.
    prompt_logprobs: Vec<TokenLogprobs>,
    /// A token or an end.
    pub(super) event: GenerateEvent,
}

/// Asks a replica for these choices and waits until it has a token or an end. What it says before that no client is told, so
/// it may still be lost without anybody noticing.
pub(super) async fn first_event(
    dispatch: &dyn Dispatch,
    asked: &Asked<'_>,
    choices: Vec<Choice>,
    replica: &ReadyReplica,
    wait: &mut Wait,
) -> Result<First, (ApiError, Elsewhere)> {
    let (wire, deadline) = (asked.wire(choices, replica, wait.left()), wait.deadline());
    let unopened = |error: ApiError| match &error {
        ApiError::ReplicaLost { .. } | ApiError::ReplicaFull { .. } => (error, Elsewhere::Untouched),
        _ => (error, Elsewhere::No),
    };
    let broken = |error: ApiError| match &error {
        ApiError::ReplicaLost { .. } => (error, Elsewhere::Lost),
        _ => unopened(error),
    };
    let mut events = wait
        .for_replica(replica, dispatch.open(replica, &wire, &asked.prompt.pictures.levels, deadline))
        .await
        .map_err(unopened)?;
    let (mut cached_tokens, mut prompt_logprobs) = (0, Vec::new());
    loop {
        match wait.for_replica(replica, events.next(deadline)).await.map_err(broken)? {
            GenerateEvent::Started { cached_tokens: cached } => cached_tokens = cached,
            GenerateEvent::Prompt(logprobs) => {
                prompt_logprobs.extend(logprobs);
                asked.check_prompt_logprobs(prompt_logprobs.len(), true)?;
            }
            GenerateEvent::Failed { reason, retryable } => return Err(broken(failed(reason, retryable))),
            event @ (GenerateEvent::Tokens { .. } | GenerateEvent::Finished { .. }) => {
                asked.check_prompt_logprobs(prompt_logprobs.len(), false)?;
                return Ok(First { events, cached_tokens, prompt_logprobs, event });
            }
        }
    }
}

fn failed(reason: String, retryable: bool) -> ApiError {
    if retryable { ApiError::ReplicaLost { reason } } else { ApiError::ReplicaFailed { reason } }
}
