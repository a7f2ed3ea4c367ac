//! Telling an answer as server-sent events.
//!
//! Invariants: a stream ends with `[DONE]` or with an `error` event, never in silence; when the client goes, the body is
//! dropped and with it the answers.

use std::collections::VecDeque;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::answers::{Answers, Told};
use super::output::Delta;
use super::reply::{Reply, worth_a_chunk};

/// The response that tells `answers` by `reply`.
pub(super) fn respond<R: Reply>(answers: Answers, reply: R) -> Response {
    let telling = Telling { answers, reply, queue: VecDeque::new(), ended: false };
    let stream = futures_util::stream::unfold(telling, |mut telling| async move {
        let event = telling.next().await?;
        Some((Ok::<_, std::convert::Infallible>(event), telling))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // Tells nginx not to hold events back.
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(stream)).into_response()
}

struct Telling<R> {
    answers: Answers,
    reply: R,
    /// Events of one delta, or one opening a choice: a few.
    queue: VecDeque<Bytes>,
    ended: bool,
}

impl<R: Reply> Telling<R> {
    async fn next(&mut self) -> Option<Bytes> {
        while self.queue.is_empty() && !self.ended {
            match self.answers.next().await {
                Ok(Some(Told::Opened { prompt, logprobs })) => {
                    let choices = usize::from(self.answers.request().choices);
                    for choice in prompt * choices..(prompt + 1) * choices {
                        if let Some(opening) = self.reply.opening(choice, &logprobs) {
                            self.event(&opening);
                        }
                    }
                }
                Ok(Some(Told::Choice { choice, delta })) => self.tell(choice, &delta),
                Ok(None) => {
                    if self.answers.request().style.include_usage {
                        let usage = self.reply.usage(self.answers.usage());
                        self.event(&usage);
                    }
                    self.event("[DONE]");
                    self.ended = true;
                }
                Err(error) => {
                    self.answers.broken_off(&error);
                    self.event(&error.object());
                    self.ended = true;
                }
            }
        }
        self.queue.pop_front()
    }

    fn tell(&mut self, choice: usize, delta: &Delta) {
        let request = self.answers.request();
        if worth_a_chunk(delta, request.style, request.sampling.logprobs.is_some()) {
            let chunk = self.reply.chunk(choice, delta);
            if let Some(chunk) = chunk {
                self.event(&chunk);
            }
        }
        if let Some(finish) = &delta.finish {
            let ending = self.reply.ending(choice, finish);
            self.event(&ending);
        }
    }

    /// JSON never has a line end outside of a string, where it is escaped.
    fn event(&mut self, data: &str) {
        self.queue.push_back(Bytes::from(format!("data: {data}\n\n")));
    }
}
