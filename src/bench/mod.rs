//! `shardglm bench serve`: load on any OpenAI-compatible endpoint, and what its clients felt.
//!
//! ```text
//!  Workload ──asks──▶ drive (closed | open | trace) ──▶ Caller ──HTTP──▶ endpoint
//!                                   └──── Record ────▶ Tally ──▶ Report
//! ```
//! Not here: flags and printing (`cli`), HTTP (`openai`). Invariants: what is asked, and when, follows from the settings
//! and the seed alone (an agent's history also from the answers); a latency counts from when its request was due, not from
//! when the client got round to it; whatever is dropped, refused or cut is counted.

mod calibration;
mod call;
mod draw;
mod drive;
mod durations;
mod poisson;
mod progress;
mod record;
mod report;
mod run;
mod server_side;
mod settings;
mod span;
mod tally;
mod trace;
mod words;
mod workload;

pub(crate) use report::Report;
pub(crate) use run::{BenchError, run};
pub(crate) use settings::{Api, LongPrompts, Mode, Settings, Stop, Trace};
pub(crate) use span::Span;
