//! A client of OpenAI-compatible endpoints, shared by `chat` and `bench serve`: streamed completions over SSE.
//!
//! Not here: what is asked, and the terminal. Invariant: an event, an error's body and a list are bounded, whoever the
//! server is.

mod chunk;
mod endpoint;
mod error;
mod sse;

pub(crate) use chunk::{Chunk, Usage};
pub(crate) use endpoint::{Endpoint, EndpointArgs, Events};
pub(crate) use error::CallError;

use serde::Serialize;

/// One message of a conversation.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Turn {
    /// `system`, `user` or `assistant`.
    pub(crate) role: &'static str,
    /// Its text.
    pub(crate) content: String,
}
