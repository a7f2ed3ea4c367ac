//! The binary `shardglm`: parse → validate → run → exit code. No logic lives here.

mod admin;
mod bench;
mod chat;
mod cli;
mod config;
mod dir_lock;
mod host;
mod http;
mod join;
mod memory;
mod openai;
mod telemetry;
mod trust;
mod up;

fn main() -> std::process::ExitCode {
    cli::run().into()
}
