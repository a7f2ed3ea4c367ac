//! Asks for the next turn of a conversation.

use serde::Serialize;

use crate::openai::{CallError, Chunk, Endpoint, EndpointArgs, Events, Turn};

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

/// A piece of an answer: either part may be there, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// More text; may be empty.
    pub(crate) text: String,
    /// Why the answer ended.
    pub(crate) finish: Option<String>,
}

/// The client.
#[derive(Debug, Clone)]
pub(crate) struct ChatClient {
    endpoint: Endpoint,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(flatten)]
    params: &'a ChatParams,
    messages: &'a [Turn],
    stream: bool,
}

/// An answer as it comes.
#[derive(Debug)]
pub(crate) struct Answer {
    events: Events,
}

impl ChatClient {
    /// A client of the endpoint at `url`, with or without its `/v1`.
    ///
    /// # Errors
    /// What is no HTTP address, or an HTTP client that cannot be built.
    pub(crate) fn new(url: &str) -> anyhow::Result<Self> {
        let args = EndpointArgs { url, headers: reqwest::header::HeaderMap::new(), idle_connections_max: 1 };
        Ok(Self { endpoint: Endpoint::new(args)? })
    }

    /// The first model that the endpoint lists.
    ///
    /// # Errors
    /// [`CallError`].
    pub(crate) async fn first_model(&self) -> Result<String, CallError> {
        self.endpoint.first_model().await
    }

    /// Asks for the next turn.
    ///
    /// # Errors
    /// [`CallError`], before the first piece.
    pub(crate) async fn ask(&self, params: &ChatParams, messages: &[Turn]) -> Result<Answer, CallError> {
        let body = Body { params, messages, stream: true };
        Ok(Answer { events: self.endpoint.stream("chat/completions", &body).await? })
    }
}

impl Answer {
    /// The next piece; `None` after the last.
    ///
    /// # Errors
    /// [`CallError`], between two pieces.
    pub(crate) async fn next(&mut self) -> Option<Result<Piece, CallError>> {
        let piece =
            |chunk: Chunk| Piece { text: chunk.contents().collect(), finish: chunk.finish_reason().map(str::to_owned) };
        Some(self.events.next().await?.map(piece))
    }
}
