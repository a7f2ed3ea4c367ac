//! The gateway from the outside: HTTP against a scripted replica, and its text handling against Hugging Face's results.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod admission;
mod chat;
mod choices;
mod client;
mod completions;
mod echo;
mod errors;
mod files;
mod harness;
mod health;
mod lifecycle;
mod model;
mod phone;
mod pick_up;
mod pictures;
mod quic;
mod scripted;
mod stream;
mod survive;
mod template;
mod tokenizer;
mod tools;
