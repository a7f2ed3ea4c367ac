//! The answers to all prompts of one request, as they come: one generation a prompt, side by side in one task.
//!
//! Choices are counted over all prompts: those of the first prompt, then those of the second, and so on. Invariant: one
//! prompt's failure ends all of them, since a reply tells all or an error.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use protocol::RequestId;
use protocol::generate::TokenLogprobs;

use super::admission::{Permit, Waiting};
use super::errors::ApiError;
use super::generation::{Generation, Progress};
use super::output::Delta;
use super::position::{Known, Phase};
use super::reply::Usage;
use super::state::App;
use super::validate::ValidRequest;

/// What comes next of a request.
#[derive(Debug)]
pub(super) enum Told {
    /// The answers to one prompt begin, with its tokens' logprobs where they were asked for.
    Opened {
        /// Which of the request's prompts.
        prompt: usize,
        /// From its second token on.
        logprobs: Vec<TokenLogprobs>,
    },
    /// One choice goes on.
    Choice {
        /// Which, counted over all prompts.
        choice: usize,
        /// By what.
        delta: Delta,
    },
}

/// What is known of a request's answers that another gateway began to tell.
#[derive(Debug)]
pub(super) struct KnownAnswers {
    /// Counted over all prompts.
    pub(super) choices: Vec<Known>,
    /// By prompt, tokens that were cached; `None` where it is not known, or nothing of it was told.
    pub(super) cached: Vec<Option<u32>>,
}

/// One generation's wait for what comes next, which hands it back.
type Turn = Pin<Box<dyn Future<Output = (usize, Result<(Generation, Option<Progress>), ApiError>)> + Send>>;

/// A request that replicas have begun to answer. Dropped, it cancels what still runs.
pub(super) struct Answers {
    request: Arc<ValidRequest>,
    /// At most one a prompt.
    turns: FuturesUnordered<Turn>,
    /// What showed that there is an answer.
    first: Option<Told>,
    completion_tokens: usize,
    /// By prompt, as the first replica said that answered it.
    cached_tokens: Vec<Option<u32>>,
    app: Arc<App>,
    _permit: Permit,
}

impl Answers {
    /// Waits for a replica for every prompt, dispatches each, and waits until there is something to tell. Of answers that are
    /// `known` in part, the rest is asked for; a prompt all of whose answers were told is not.
    ///
    /// # Errors
    /// [`ApiError`], while the client has not been told anything.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request.
    pub(super) async fn start(
        app: &Arc<App>,
        id: RequestId,
        request: Arc<ValidRequest>,
        (permit, waiting): (Permit, Vec<Waiting>),
        known: Option<&KnownAnswers>,
        deadline: Instant,
    ) -> Result<Self, ApiError> {
        let turns = FuturesUnordered::new();
        let choices = usize::from(request.choices);
        let mut completion_tokens = 0;
        for (prompt, waiting) in waiting.into_iter().enumerate() {
            let known = match known {
                Some(known) => known.choices[prompt * choices..(prompt + 1) * choices].to_vec(),
                None => vec![Known::default(); choices],
            };
            let ended = known.iter().filter(|k| k.seen.phase == Phase::Ended);
            completion_tokens += ended.clone().map(|k| k.seen.tokens).sum::<usize>();
            if ended.count() == choices {
                continue;
            }
            let generation = Generation::start(app.clone(), id, request.clone(), (prompt, waiting), known, deadline);
            let turn: Turn = Box::pin(async move {
                match generation.await {
                    Ok(generation) => (prompt, turn_of(generation).await),
                    Err(error) => (prompt, Err(error)),
                }
            });
            turns.push(turn);
        }
        let cached_tokens = match known {
            Some(known) => known.cached.clone(),
            None => vec![None; request.prompts.len()],
        };
        let (app, first) = (app.clone(), None);
        let mut answers = Self { request, turns, first, completion_tokens, cached_tokens, app, _permit: permit };
        answers.first = answers.next().await?;
        Ok(answers)
    }

    /// The request.
    pub(super) fn request(&self) -> &Arc<ValidRequest> {
        &self.request
    }

    /// Tokens of a prompt that were cached, once that is known.
    pub(super) fn cached_tokens(&self, prompt: usize) -> u32 {
        self.cached_tokens[prompt].unwrap_or_default()
    }

    /// Notes that a client that was told something was told no end.
    pub(super) fn broken_off(&self, error: &ApiError) {
        self.app.counters.broken_off(error.told().code);
    }

    /// How many tokens so far.
    pub(super) fn usage(&self) -> Usage {
        let prompt_tokens = self.request.prompts.iter().map(|p| p.ids.len()).sum();
        let cached_tokens = self.cached_tokens.iter().flatten().map(|n| *n as usize).sum();
        Usage::new(prompt_tokens, cached_tokens, self.completion_tokens)
    }

    /// What comes next; `None` after the end of the last choice.
    ///
    /// # Errors
    /// The first failure of any prompt; the others are cancelled.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Result<Option<Told>, ApiError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        while let Some((prompt, done)) = self.turns.next().await {
            let (generation, progress) = match done {
                Ok(done) => done,
                Err(error) => {
                    self.turns.clear();
                    return Err(error);
                }
            };
            self.cached_tokens[prompt].get_or_insert(generation.cached_tokens());
            let Some(progress) = progress else { continue };
            self.turns.push(Box::pin(async move { (prompt, turn_of(generation).await) }));
            return Ok(Some(self.told(prompt, progress)));
        }
        Ok(None)
    }

    fn told(&mut self, prompt: usize, progress: Progress) -> Told {
        match progress {
            Progress::Opened(logprobs) => Told::Opened { prompt, logprobs },
            Progress::Choice { choice, delta } => {
                self.completion_tokens += delta.tokens.len();
                Told::Choice { choice: prompt * usize::from(self.request.choices) + choice, delta }
            }
        }
    }
}

async fn turn_of(mut generation: Generation) -> Result<(Generation, Option<Progress>), ApiError> {
    let progress = generation.next().await?;
    Ok((generation, progress))
}
