//! An endpoint's address, and the calls to it.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde::{Deserialize, Serialize};

use super::chunk::Chunk;
use super::error::{CallError, quote};
use super::sse::SseLines;
use crate::http::cause;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest silence between two pieces of an answer: a long prompt is computed before the first.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(300);
/// Most of a refusal, a list of models or metrics that is read, bytes.
const BODY_BYTES_MAX: usize = 4 << 20;

/// How an endpoint is reached.
#[derive(Debug, Clone)]
pub(crate) struct EndpointArgs<'a> {
    /// Its address, with or without `/v1`.
    pub(crate) url: &'a str,
    /// Headers of every request.
    pub(crate) headers: HeaderMap,
    /// Most connections that are kept for later requests.
    pub(crate) idle_connections_max: usize,
}

/// An OpenAI-compatible endpoint. Clones share its connections.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    base: String,
    http: reqwest::Client,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

impl Endpoint {
    /// # Errors
    /// What is no HTTP address, or an HTTP client that cannot be built.
    pub(crate) fn new(args: EndpointArgs<'_>) -> anyhow::Result<Self> {
        let no_address = || format!("`{}` is not an http:// or https:// address", args.url);
        let parsed = reqwest::Url::parse(args.url).with_context(no_address)?;
        anyhow::ensure!(matches!(parsed.scheme(), "http" | "https"), no_address());
        let base = args.url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let builder = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(SILENCE_TIMEOUT);
        let builder = builder.default_headers(args.headers).pool_max_idle_per_host(args.idle_connections_max);
        Ok(Self { base, http: builder.build()? })
    }

    /// Its address, without `/v1`.
    pub(crate) fn url(&self) -> &str {
        &self.base
    }

    /// The first model that it lists.
    ///
    /// # Errors
    /// [`CallError`].
    pub(crate) async fn first_model(&self) -> Result<String, CallError> {
        let mut response = self.send(self.http.get(format!("{}/v1/models", self.base))).await?;
        let body = self.body(&mut response).await?;
        let models: Models = serde_json::from_slice(&body).map_err(|e| self.not_a_completion(e.to_string()))?;
        let first = models.data.into_iter().next().map(|m| m.id);
        first.ok_or_else(|| self.not_a_completion("it lists no model".to_owned()))
    }

    /// What the server itself has counted, in Prometheus' text format; `None` where it does not tell.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub(crate) async fn metrics(&self) -> Option<String> {
        let mut response = self.send(self.http.get(format!("{}/metrics", self.base))).await.ok()?;
        String::from_utf8(self.body(&mut response).await.ok()?).ok()
    }

    /// Asks for a streamed answer; returns when its head has come. `path` counts from `/v1/`.
    ///
    /// # Errors
    /// [`CallError`].
    ///
    /// # Cancel safety
    /// Dropping the future, or what it gives, closes the connection.
    pub(crate) async fn stream(&self, path: &str, body: &impl Serialize) -> Result<Events, CallError> {
        let request = self.http.post(format!("{}/v1/{path}", self.base)).json(body);
        let response = self.send(request).await?;
        Ok(Events { endpoint: self.clone(), response, lines: SseLines::default(), queue: VecDeque::new(), done: false })
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, CallError> {
        let unreachable = |e: reqwest::Error| CallError::Unreachable { url: self.base.clone(), reason: cause(&e) };
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
        // A refusal is one also when its words are lost.
        let body = self.body(&mut response).await.unwrap_or_default();
        Err(CallError::of_body(status.as_u16(), retry_after, &body))
    }

    async fn body(&self, response: &mut reqwest::Response) -> Result<Vec<u8>, CallError> {
        let mut body = Vec::new();
        while let Some(bytes) = response.chunk().await.map_err(|e| self.broken(&e))? {
            if body.len() + bytes.len() > BODY_BYTES_MAX {
                return Err(self.not_a_completion(format!("more than {BODY_BYTES_MAX} bytes")));
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body)
    }

    fn broken(&self, error: &reqwest::Error) -> CallError {
        CallError::Broken { url: self.base.clone(), reason: cause(error) }
    }

    fn not_a_completion(&self, reason: String) -> CallError {
        CallError::NotACompletion { url: self.base.clone(), reason }
    }
}

/// The events of one answer.
#[derive(Debug)]
pub(crate) struct Events {
    endpoint: Endpoint,
    response: reqwest::Response,
    lines: SseLines,
    /// Events of one piece of the body, not yet given out.
    queue: VecDeque<Result<Chunk, CallError>>,
    done: bool,
}

impl Events {
    /// The next event; `None` after `[DONE]`, an error or the end of the body.
    ///
    /// # Errors
    /// [`CallError`].
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Option<Result<Chunk, CallError>> {
        while self.queue.is_empty() && !self.done {
            match self.response.chunk().await {
                Ok(Some(bytes)) => self.take(&bytes),
                Ok(None) => self.done = true,
                Err(e) => self.queue.push_back(Err(self.endpoint.broken(&e))),
            }
        }
        let next = self.queue.pop_front();
        if matches!(next, Some(Err(_))) {
            self.queue.clear();
            self.done = true;
        }
        next
    }

    fn take(&mut self, bytes: &[u8]) {
        let Self { endpoint, lines, queue, done, .. } = self;
        let cut = lines.push(bytes, |payload| match payload {
            b"[DONE]" => *done = true,
            payload => queue.push_back(endpoint.event(payload)),
        });
        if let Err(e) = cut {
            queue.push_back(Err(endpoint.not_a_completion(e.to_string())));
        }
    }
}

impl Endpoint {
    fn event(&self, payload: &[u8]) -> Result<Chunk, CallError> {
        let chunk: Chunk = serde_json::from_slice(payload).map_err(|e| {
            let found = quote(&String::from_utf8_lossy(payload));
            self.not_a_completion(format!("{e} in `{found}`"))
        })?;
        match &chunk.error {
            Some(error) => Err(CallError::of_object(None, None, error, "error")),
            None => Ok(chunk),
        }
    }
}
