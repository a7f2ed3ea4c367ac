//! Telling an answer as server-sent events.
//!
//! The events of a stream that is kept (`journal`) have ids, which say how much of it the client then has (`position`).
//! Invariants: a stream ends with `[DONE]` or with an `error` event, never in silence; when the client goes, the body is
//! dropped and with it the answers; what the client has is told to nobody again.

use std::collections::VecDeque;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::answers::{Answers, Told as Next};
use super::errors::ApiError;
use super::output::Delta;
use super::position::{AFTER, Phase, Position, Told};
use super::reply::{Reply, worth_a_chunk};
use crate::journal::Recorder;

/// Whether a stream that its client gave an id can be gone on with.
const RESUMABLE: HeaderName = HeaderName::from_static("x-shardglm-resumable");

/// Whether a stream has a name by which its client may ask for the rest.
pub(super) enum Naming {
    /// It has none.
    Nameless,
    /// It has, and is kept.
    Kept(Recorder),
    /// It has, and there was no room to keep it.
    Unkept,
}

/// The response that tells `answers` by `reply`.
pub(super) fn respond<R: Reply>(answers: Answers, reply: R, naming: Naming) -> Response {
    let seen = Told::nothing(answers.request().choices_in_all());
    Telling::new(answers, reply, naming, seen).respond()
}

/// The response that tells what comes after what the client has `seen`, once there is something to tell.
///
/// # Errors
/// [`ApiError`], where the answers fail before that.
pub(super) async fn respond_after<R: Reply>(
    answers: Answers,
    reply: R,
    naming: Naming,
    seen: Told,
) -> Result<Response, ApiError> {
    let mut telling = Telling::new(answers, reply, naming, seen);
    while telling.queue.is_empty() && !telling.ended {
        telling.advance().await?;
    }
    Ok(telling.respond())
}

struct Telling<R> {
    answers: Answers,
    reply: R,
    naming: Naming,
    /// What the client had before.
    seen: Told,
    /// By choice, how far it is told.
    at: Vec<Position>,
    /// Events of one delta, or one opening a choice: a few.
    queue: VecDeque<Bytes>,
    ended: bool,
}

impl<R: Reply> Telling<R> {
    fn new(answers: Answers, reply: R, naming: Naming, seen: Told) -> Self {
        let request = answers.request().clone();
        let mut at = vec![Position::default(); request.choices_in_all()];
        if let Told::Choices(seen) = &seen {
            // Of a choice that was told whole nothing comes any more.
            let ended = at.iter_mut().zip(seen).filter(|(_, seen)| seen.phase == Phase::Ended);
            ended.for_each(|(at, seen)| *at = *seen);
        }
        Self { answers, reply, naming, seen, at, queue: VecDeque::new(), ended: false }
    }

    fn respond(self) -> Response {
        let resumable = match &self.naming {
            Naming::Nameless => None,
            Naming::Kept(_) => Some("true"),
            Naming::Unkept => Some("false"),
        };
        let stream = futures_util::stream::unfold(self, |mut telling| async move {
            let event = telling.next().await?;
            Some((Ok::<_, std::convert::Infallible>(event), telling))
        });
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            // Tells nginx not to hold events back.
            (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
        ];
        let mut response = (headers, Body::from_stream(stream)).into_response();
        if let Some(word) = resumable {
            response.headers_mut().insert(RESUMABLE, HeaderValue::from_static(word));
        }
        response
    }

    async fn next(&mut self) -> Option<Bytes> {
        while self.queue.is_empty() && !self.ended {
            if let Err(error) = self.advance().await {
                self.answers.broken_off(&error);
                self.queue.push_back(Bytes::from(format!("data: {}\n\n", error.object())));
                self.ended = true;
            }
        }
        self.queue.pop_front()
    }

    /// One step of the answers; some have nothing that is told.
    async fn advance(&mut self) -> Result<(), ApiError> {
        let next = match &self.naming {
            Naming::Kept(recorder) => tokio::select! {
                biased;
                () = recorder.taken_over().cancelled() => return Err(ApiError::TakenOver),
                next = self.answers.next() => next?,
            },
            Naming::Nameless | Naming::Unkept => self.answers.next().await?,
        };
        match next {
            Some(Next::Opened { prompt, logprobs }) => {
                if let Naming::Kept(recorder) = &self.naming {
                    recorder.opened(prompt, self.answers.cached_tokens(prompt));
                }
                let choices = usize::from(self.answers.request().choices);
                for choice in prompt * choices..(prompt + 1) * choices {
                    if self.at[choice].phase != Phase::Unopened {
                        continue;
                    }
                    self.at[choice] = Position::OPENED;
                    if self.has(choice) {
                        self.reply.skip_opening(choice);
                    } else if let Some(opening) = self.reply.opening(choice, &logprobs) {
                        self.event(&opening);
                    }
                }
                Ok(())
            }
            Some(Next::Choice { choice, delta }) => self.tell(choice, &delta),
            None => {
                self.end();
                Ok(())
            }
        }
    }

    fn tell(&mut self, choice: usize, delta: &Delta) -> Result<(), ApiError> {
        let before = self.at[choice].tokens;
        if let Naming::Kept(recorder) = &self.naming {
            recorder.took(choice, before, delta.tokens.iter().map(|t| t.token.id));
        }
        let phase = if delta.finish.is_some() { Phase::Flushed } else { Phase::Running };
        self.at[choice] = Position { tokens: before + delta.tokens.len(), phase };
        let request = self.answers.request();
        if worth_a_chunk(delta, request.style, request.sampling.logprobs.is_some()) {
            if self.has(choice) {
                self.reply.skip(choice, delta);
            } else if let Some(chunk) = self.reply.chunk(choice, delta) {
                self.event(&chunk);
            }
        }
        if let Some(finish) = &delta.finish {
            if let Told::Choices(seen) = &self.seen
                && seen[choice].tokens > self.at[choice].tokens
            {
                let found = format!("{} tokens of choice {choice}", seen[choice].tokens);
                let expected = format!("at most the {} that it has", self.at[choice].tokens);
                return Err(ApiError::InvalidValue { param: AFTER.to_owned(), found, expected });
            }
            let ending = self.reply.ending(choice, finish);
            self.at[choice].phase = Phase::Ended;
            self.event(&ending);
        }
        Ok(())
    }

    fn end(&mut self) {
        if self.answers.request().style.include_usage && self.seen != Told::Usage {
            let usage = self.reply.usage(self.answers.usage());
            self.event_at(&usage, &Told::Usage);
        }
        self.event_at("[DONE]", &Told::Done);
        if let Naming::Kept(recorder) = &self.naming {
            recorder.ended();
        }
        self.ended = true;
    }

    /// Whether the client had before how far a choice now is told.
    fn has(&self, choice: usize) -> bool {
        match &self.seen {
            Told::Choices(seen) => self.at[choice] <= seen[choice],
            Told::Usage | Told::Done => true,
        }
    }

    fn event(&mut self, data: &str) {
        let told = Told::Choices(std::mem::take(&mut self.at));
        self.event_at(data, &told);
        if let Told::Choices(at) = told {
            self.at = at;
        }
    }

    /// JSON never has a line end outside of a string, where it is escaped.
    fn event_at(&mut self, data: &str, told: &Told) {
        let event = match &self.naming {
            Naming::Kept(_) => format!("id: {}\ndata: {data}\n\n", told.id()),
            Naming::Nameless | Naming::Unkept => format!("data: {data}\n\n"),
        };
        self.queue.push_back(Bytes::from(event));
    }
}
