//! One request, from its body to its last event, and what its client felt.
//!
//! Invariant: whatever happens, a call gives one [`Record`].

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::calibration::{Dialect, PromptLengths};
use super::durations::micros;
use super::record::{Class, End, Record};
use super::settings::{Api, Settings};
use crate::openai::{CallError, Chunk, Endpoint, Events, Turn};

/// What is asked.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(super) enum Input {
    /// Token ids, for completions.
    Ids(Vec<u32>),
    /// Text, for completions.
    Text(String),
    /// A conversation, for chats.
    Turns(Vec<Turn>),
}

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) class: Class,
    pub(super) input: Input,
    /// Longest answer, tokens.
    pub(super) max_tokens: u32,
    /// The client hangs up when it has so many tokens.
    pub(super) hang_up_at: Option<u32>,
    /// For the sampler.
    pub(super) seed: u64,
    /// When it should be sent; every latency counts from here.
    pub(super) due: Instant,
}

impl Ask {
    /// A request that is due now.
    pub(super) fn now(class: Class, input: Input, max_tokens: u32) -> Self {
        Self { class, input, max_tokens, hang_up_at: None, seed: 0, due: Instant::now() }
    }
}

/// Makes requests.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    endpoint: Endpoint,
    model: String,
    settings: Arc<Settings>,
    dialect: Dialect,
    lengths: PromptLengths,
    stop: CancellationToken,
}

impl Caller {
    /// Ends every call at `stop`.
    pub(super) fn new(endpoint: Endpoint, model: String, settings: Arc<Settings>, stop: CancellationToken) -> Self {
        Self { endpoint, model, settings, dialect: Dialect::PLAIN, lengths: PromptLengths::GUESS, stop }
    }

    pub(super) fn api(&self) -> Api {
        self.settings.api
    }

    pub(super) fn seed(&self) -> u64 {
        self.settings.seed
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub(super) fn set_dialect(&mut self, dialect: Dialect) {
        self.dialect = dialect;
    }

    pub(super) fn lengths(&self) -> PromptLengths {
        self.lengths
    }

    pub(super) fn set_lengths(&mut self, lengths: PromptLengths) {
        self.lengths = lengths;
    }

    /// Sends it and follows the answer; gives the answer's text too.
    pub(super) async fn call(&self, ask: Ask) -> (Record, String) {
        let mut record = Record::new(ask.class, End::Interrupted);
        let mut text = String::new();
        let body = self.body(&ask);
        record.late = ask.due.elapsed();
        let until = ask.due + self.settings.timeout;
        let end = tokio::select! {
            () = self.stop.cancelled() => End::Interrupted,
            done = tokio::time::timeout_at(until, self.follow(&ask, &body, &mut record, &mut text)) => {
                done.unwrap_or(End::TimedOut)
            }
        };
        record.e2e = ask.due.elapsed();
        record.end = end;
        (record, text)
    }

    fn body(&self, ask: &Ask) -> Map<String, Value> {
        let mut body = Map::new();
        let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
        set("model", json!(self.model));
        set(if self.settings.api == Api::Chat { "messages" } else { "prompt" }, json!(ask.input));
        set("max_tokens", json!(ask.max_tokens));
        set("temperature", json!(self.settings.temperature));
        set("stream", json!(true));
        if self.settings.temperature > 0.0 {
            set("seed", json!(ask.seed));
        }
        if self.settings.ignore_eos {
            set("ignore_eos", json!(true));
        }
        if self.dialect.usage {
            set("stream_options", json!({ "include_usage": true }));
        }
        if self.dialect.token_ids {
            set("return_token_ids", json!(true));
        }
        body.extend(self.settings.extra_body.clone());
        body
    }

    async fn follow(&self, ask: &Ask, body: &Map<String, Value>, record: &mut Record, text: &mut String) -> End {
        let mut events = match self.endpoint.stream(self.settings.api.path(), body).await {
            Ok(events) => events,
            Err(error) => return End::Failed(error),
        };
        record.head = Some(ask.due.elapsed());
        let mut watch = Watch { due: ask.due, last: None, finished: false };
        loop {
            match events.next().await {
                Some(Ok(chunk)) => watch.take(chunk, record, text),
                Some(Err(error)) => return End::Failed(error),
                None => return self.ended(&watch),
            }
            let hang_up = ask.hang_up_at.is_some_and(|at| record.tokens >= at);
            if hang_up && !watch.finished {
                return hung_up(events);
            }
        }
    }

    fn ended(&self, watch: &Watch) -> End {
        if watch.finished {
            return End::Done;
        }
        let (url, reason) = (self.endpoint.url().to_owned(), "it ended without a finish reason".to_owned());
        End::Failed(CallError::Broken { url, reason })
    }
}

/// Dropping an answer closes its connection.
fn hung_up(events: Events) -> End {
    drop(events);
    End::HungUp
}

/// An answer as it comes.
struct Watch {
    due: Instant,
    /// When tokens came last.
    last: Option<Instant>,
    finished: bool,
}

impl Watch {
    fn take(&mut self, chunk: Chunk, record: &mut Record, text: &mut String) {
        let before = text.len();
        chunk.texts().for_each(|t| text.push_str(t));
        let has_text = text.len() > before;
        let num_tokens = chunk.num_token_ids().unwrap_or(usize::from(has_text));
        if num_tokens > 0 {
            let now = Instant::now();
            match self.last.replace(now) {
                None => record.first_token = Some(now - self.due),
                Some(last) => record.gaps_us.push(micros(now - last)),
            }
            record.tokens += num_tokens as u32;
        }
        self.finished |= chunk.finish_reason().is_some();
        record.usage = chunk.usage.or(record.usage);
        if record.fingerprint.is_none() {
            record.fingerprint = chunk.system_fingerprint;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_gaps_are_counted_by_ids_and_else_by_text() {
        let due = Instant::now();
        let mut watch = Watch { due, last: None, finished: false };
        let (mut record, mut text) = (Record::new(Class::All, End::Done), String::new());
        let mut take = |chunk: &str, record: &mut Record| {
            watch.take(serde_json::from_str(chunk).expect("a chunk"), record, &mut text);
            watch.finished
        };
        take(r#"{"choices":[{"delta":{"role":"assistant","content":""},"token_ids":[]}]}"#, &mut record);
        assert_eq!((record.tokens, record.first_token), (0, None), "an opening is no token");
        take(r#"{"choices":[{"delta":{"content":""},"token_ids":[1]}]}"#, &mut record);
        assert!(record.first_token.is_some(), "half a character is a token");
        take(r#"{"choices":[{"delta":{"content":"微"},"token_ids":[2,3]}]}"#, &mut record);
        assert!(!take(r#"{"choices":[{"delta":{"content":"x"}}]}"#, &mut record));
        assert_eq!((record.tokens, record.gaps_us.len()), (4, 2));
        assert!(take(r#"{"choices":[{"delta":{},"finish_reason":"length","token_ids":[]}]}"#, &mut record));
        assert_eq!(text, "微x");
    }
}
