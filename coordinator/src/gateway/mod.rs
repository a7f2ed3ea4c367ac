//! The public front door: OpenAI's HTTP interface over whatever replicas the [`crate::view::ClusterView`] lists.
//!
//! Not here: anything that asks Raft. A gateway reads the view, its own files of the model (tokenizer, chat template,
//! generation config) and the streams that it opens to rank 0 of a replica. One request goes
//! `routes` → `admission` → `chat` or `completions` → `validate` → `generation` (`route`, `dispatch`) → `output` →
//! `reply` or `sse`; whatever goes wrong on the way leaves through `errors`.

mod admission;
mod body;
mod bundle;
mod bundles;
mod chat;
mod chat_reply;
mod completions;
mod completions_reply;
mod conversation;
pub mod dispatch;
mod errors;
mod fields;
mod generation;
mod health;
mod logprobs;
mod models;
mod output;
mod quic;
mod reply;
mod request_id;
mod route;
mod routes;
mod rules;
mod sampling;
mod server;
mod sse;
mod state;
mod style;
pub mod template;
pub mod tokenize;
mod unstalled;
mod unsupported;
mod validate;

pub use server::{Gateway, GatewayConfig, GatewayError};
