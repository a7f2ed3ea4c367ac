//! A client of the public endpoint, as small as `shardglm chat` needs it: OpenAI's chat completions over SSE.
//!
//! Not here: the terminal. Invariant: one event and one answer are bounded, whoever the server is.

mod client;
mod sse;

pub(crate) use client::{ChatClient, ChatError, ChatParams, Piece, Turn};
