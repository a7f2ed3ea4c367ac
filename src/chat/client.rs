//! Requests to the public endpoint.

use std::time::Duration;

use anyhow::Context as _;
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::sse::{LineTooLong, SseLines};
use crate::http::cause;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest silence between two pieces of an answer: a long prompt is computed before the first.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(300);
/// Most of an error body that is quoted, characters.
const QUOTE_CHARS: usize = 300;

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChatError {
    /// Nobody answers at the address.
    #[error("no answer from {url}: {reason}")]
    Unreachable {
        /// The address.
        url: String,
        /// The last cause.
        reason: String,
    },
    /// The server refused, with its message.
    #[error("{message} ({code})")]
    Api {
        /// OpenAI's `code`, else the HTTP status.
        code: String,
        /// One line.
        message: String,
    },
    /// The connection broke in mid-answer.
    #[error("the stream from {url} broke: {reason}")]
    Broken {
        /// The address.
        url: String,
        /// The last cause.
        reason: String,
    },
    /// What came is not a chat completion's stream.
    #[error("{url} sent what is not a chat completion: {reason}")]
    NotAChat {
        /// The address.
        url: String,
        /// What was found.
        reason: String,
    },
}

/// One message of a conversation.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Turn {
    /// `system`, `user` or `assistant`.
    pub(crate) role: &'static str,
    /// Its text.
    pub(crate) content: String,
}

/// What the user chose.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ChatParams {
    /// The model's name.
    pub(crate) model: String,
    /// Longest answer, tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_tokens: Option<u32>,
    /// Sampling temperature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) temperature: Option<f32>,
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// More text.
    Text(String),
    /// Why the answer ended.
    Finish(String),
}

/// The client.
#[derive(Debug, Clone)]
pub(crate) struct ChatClient {
    base: String,
    http: reqwest::Client,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(flatten)]
    params: &'a ChatParams,
    messages: &'a [Turn],
    stream: bool,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<ChunkChoice>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct ChunkChoice {
    delta: Delta,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

impl ChatClient {
    /// A client of the endpoint at `url`, with or without its `/v1`.
    ///
    /// # Errors
    /// What is no HTTP address, or an HTTP client that cannot be built.
    pub(crate) fn new(url: &str) -> anyhow::Result<Self> {
        let parsed =
            reqwest::Url::parse(url).with_context(|| format!("`{url}` is not an http:// or https:// address"))?;
        anyhow::ensure!(matches!(parsed.scheme(), "http" | "https"), "`{url}` is not an http:// or https:// address");
        let base = url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let http = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(SILENCE_TIMEOUT).build()?;
        Ok(Self { base, http })
    }

    /// The first model that the endpoint lists.
    ///
    /// # Errors
    /// [`ChatError`].
    pub(crate) async fn first_model(&self) -> Result<String, ChatError> {
        let response = self.send(self.http.get(format!("{}/v1/models", self.base))).await?;
        let models: Models = response.json().await.map_err(|e| self.not_a_chat(cause(&e)))?;
        models.data.into_iter().next().map(|m| m.id).ok_or_else(|| self.not_a_chat("it lists no model".to_owned()))
    }

    /// Asks for the next turn; the answer comes in pieces.
    ///
    /// # Errors
    /// [`ChatError`], before the first piece or between two.
    pub(crate) async fn ask(
        &self,
        params: &ChatParams,
        messages: &[Turn],
    ) -> Result<impl Stream<Item = Result<Piece, ChatError>> + Unpin + use<>, ChatError> {
        let body = Body { params, messages, stream: true };
        let request = self.http.post(format!("{}/v1/chat/completions", self.base)).json(&body);
        let response = self.send(request).await?;
        let client = self.clone();
        let mut lines = SseLines::default();
        let pieces = response.bytes_stream().flat_map(move |chunk| {
            let pieces = match chunk {
                Ok(bytes) => client.pieces(&mut lines, &bytes),
                Err(e) => vec![Err(ChatError::Broken { url: client.base.clone(), reason: cause(&e) })],
            };
            futures_util::stream::iter(pieces)
        });
        Ok(Box::pin(pieces))
    }

    fn pieces(&self, lines: &mut SseLines, bytes: &[u8]) -> Vec<Result<Piece, ChatError>> {
        let events = match lines.push(bytes) {
            Ok(events) => events,
            Err(e @ LineTooLong) => return vec![Err(self.not_a_chat(e.to_string()))],
        };
        events.iter().filter(|e| *e != "[DONE]").flat_map(|event| self.event(event)).collect()
    }

    fn event(&self, event: &str) -> Vec<Result<Piece, ChatError>> {
        let chunk: Chunk = match serde_json::from_str(event) {
            Ok(chunk) => chunk,
            Err(e) => return vec![Err(self.not_a_chat(format!("{e} in `{}`", quote(event))))],
        };
        if let Some(error) = chunk.error {
            return vec![Err(api_error(&error, "error"))];
        }
        let mut out = Vec::new();
        for choice in chunk.choices {
            out.extend(choice.delta.content.filter(|t| !t.is_empty()).map(|t| Ok(Piece::Text(t))));
            out.extend(choice.finish_reason.map(|why| Ok(Piece::Finish(why))));
        }
        out
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, ChatError> {
        let unreachable = |e: reqwest::Error| ChatError::Unreachable { url: self.base.clone(), reason: cause(&e) };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.unwrap_or_default();
        match serde_json::from_str::<Value>(&text).ok().as_ref().and_then(|v| v.get("error")) {
            Some(error) => Err(api_error(error, status.as_str())),
            None => Err(ChatError::Api { code: status.to_string(), message: quote(&text) }),
        }
    }

    fn not_a_chat(&self, reason: String) -> ChatError {
        ChatError::NotAChat { url: self.base.clone(), reason }
    }
}

fn api_error(error: &Value, otherwise: &str) -> ChatError {
    let text = |name: &str| error.get(name).and_then(Value::as_str);
    let code = text("code").or_else(|| text("type")).unwrap_or(otherwise).to_owned();
    ChatError::Api { code, message: text("message").map_or_else(|| quote(&error.to_string()), str::to_owned) }
}

fn quote(text: &str) -> String {
    text.chars().take(QUOTE_CHARS).collect()
}
