//! What a run is: checked values, no flags.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use super::Span;

/// Everything that a run follows from, the endpoint apart.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Settings {
    /// The model's name; `None`: the first that the endpoint lists.
    pub(crate) model: Option<String>,
    /// Which API.
    pub(crate) api: Api,
    /// When requests are made.
    pub(crate) mode: Mode,
    /// How many requests.
    pub(crate) stop: Stop,
    /// Length of a prompt; in a trace, of what a user adds in one turn.
    pub(crate) prompt_tokens: Span,
    /// Longest answer of each request.
    pub(crate) max_tokens: Span,
    /// Long prompts among the others.
    pub(crate) long_prompts: Option<LongPrompts>,
    /// Share of the clients that hang up at a random token, 0 to 1.
    pub(crate) cancel_share: f64,
    /// Answers go on to their longest.
    pub(crate) ignore_eos: bool,
    /// Sampling temperature.
    pub(crate) temperature: f64,
    /// Fields of every request's body; they replace those of the same name.
    pub(crate) extra_body: Map<String, Value>,
    /// Longest that one request may take.
    #[serde(serialize_with = "seconds")]
    pub(crate) timeout: Duration,
    /// Requests ahead of the run that are not counted.
    pub(crate) warmup: u32,
    /// Most requests in flight, and so most connections; an arrival beyond them is dropped and counted.
    pub(crate) in_flight_max: u32,
    /// Of all that is drawn.
    pub(crate) seed: u64,
}

/// Which API is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Api {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
}

impl Api {
    /// Its path below `/v1/`.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Chat => "chat/completions",
            Self::Completions => "completions",
        }
    }
}

/// When requests are made.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// Each loop asks again when it has its answer.
    Closed {
        /// How many loops.
        loops: u32,
    },
    /// Poisson arrivals that wait for no answer.
    Open {
        /// Requests a second.
        rate: f64,
    },
    /// Agents' conversations side by side.
    Agents(Trace),
}

/// Agents' conversations: a shared system prompt, and a history that grows by each answer.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Trace {
    /// How many at a time.
    pub(crate) conversations: u32,
    /// Length of one.
    pub(crate) turns: Span,
    /// Mean pause before a turn, exponential, s.
    pub(crate) think_s: f64,
    /// Length of the system prompt.
    pub(crate) system_tokens: u32,
}

/// When no more requests are made. With neither, each agent has one conversation.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Stop {
    /// After so many.
    pub(crate) requests: Option<u64>,
    /// After such a time; what is in flight then is waited for.
    #[serde(serialize_with = "maybe_seconds")]
    pub(crate) duration: Option<Duration>,
}

/// Every so-manieth request has a long prompt.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct LongPrompts {
    /// Its length.
    pub(crate) tokens: u32,
    /// Which ones: the n-th, the 2n-th and so on.
    pub(crate) every: u64,
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

fn maybe_seconds<S: serde::Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|d| d.as_secs_f64()).serialize(serializer)
}

#[cfg(test)]
pub(super) mod fixture {
    use super::*;

    pub(in super::super) fn settings() -> Settings {
        Settings {
            model: None,
            api: Api::Chat,
            mode: Mode::Closed { loops: 1 },
            stop: Stop { requests: Some(1), duration: None },
            prompt_tokens: "16..64".parse().expect("a span"),
            max_tokens: "8..32".parse().expect("a span"),
            long_prompts: None,
            cancel_share: 0.0,
            ignore_eos: false,
            temperature: 0.0,
            extra_body: Map::new(),
            timeout: Duration::from_secs(60),
            warmup: 0,
            in_flight_max: 64,
            seed: 1,
        }
    }
}
