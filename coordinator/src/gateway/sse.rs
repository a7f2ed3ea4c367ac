//! Telling an answer as server-sent events.
//!
//! Invariants: a stream ends with `[DONE]` or with an `error` event, never in silence; when the client goes, the body is
//! dropped and with it the generation.

use std::collections::VecDeque;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::generation::Generation;
use super::output::Delta;
use super::reply::{Reply, Usage, worth_a_chunk};
use super::style::Style;

/// The response that tells `generation` by `reply`.
pub(super) fn respond<R: Reply>(generation: Generation, reply: R) -> Response {
    let request = generation.request();
    let (style, logprobs) = (request.style, request.sampling.logprobs.is_some());
    let mut telling = Telling { generation, reply, style, logprobs, queue: VecDeque::new(), ended: false };
    if let Some(opening) = telling.reply.opening() {
        telling.event(&opening);
    }
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
    generation: Generation,
    reply: R,
    style: Style,
    logprobs: bool,
    /// Events of one delta: a few.
    queue: VecDeque<Bytes>,
    ended: bool,
}

impl<R: Reply> Telling<R> {
    async fn next(&mut self) -> Option<Bytes> {
        while self.queue.is_empty() && !self.ended {
            match self.generation.next().await {
                Ok(Some(delta)) => self.tell(&delta),
                Ok(None) => self.ended = true,
                Err(error) => {
                    self.event(&error.object());
                    self.ended = true;
                }
            }
        }
        self.queue.pop_front()
    }

    fn tell(&mut self, delta: &Delta) {
        if worth_a_chunk(delta, self.style, self.logprobs) {
            let chunk = self.reply.chunk(delta);
            self.event(&chunk);
        }
        if let Some(finish) = &delta.finish {
            let ending = self.reply.ending(finish);
            self.event(&ending);
            if self.style.include_usage {
                let usage = self.reply.usage(Usage::of(&self.generation));
                self.event(&usage);
            }
            self.event("[DONE]");
            self.ended = true;
        }
    }

    /// JSON never has a line end outside of a string, where it is escaped.
    fn event(&mut self, data: &str) {
        self.queue.push_back(Bytes::from(format!("data: {data}\n\n")));
    }
}
