//! A conversation with an endpoint, as small as `shardglm chat` needs it.
//!
//! Not here: HTTP and events (`openai`), the terminal.

mod client;

pub(crate) use client::{ChatClient, ChatParams};
