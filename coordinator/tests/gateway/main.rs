//! The gateway from the outside: HTTP against a scripted replica, and its text handling against Hugging Face's results.

mod chat;
mod client;
mod completions;
mod errors;
mod files;
mod harness;
mod lifecycle;
mod scripted;
mod stream;
mod template;
mod tokenizer;
