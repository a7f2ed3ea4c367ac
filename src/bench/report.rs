//! What a run found: as JSON for programs, as tables for people.

use serde::Serialize;

use super::calibration::Dialect;
use super::durations::Summary;
use super::record::{Class, End, Record};
use super::server_side::ServerSide;
use super::settings::{Mode, Settings};

/// Requests by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    /// Answered to the end.
    pub(crate) done: u64,
    /// Told to come again: 429 or 503.
    pub(crate) refused: u64,
    /// No answer, or not all of it, for any other reason.
    pub(crate) failed: u64,
    /// Hung up on, as they were to be.
    pub(crate) hung_up: u64,
    /// Never sent: too many were in flight.
    pub(crate) dropped: u64,
    /// In flight when the run was stopped.
    pub(crate) interrupted: u64,
}

impl Counts {
    pub(super) fn add(&mut self, end: &End) {
        let slot = match end {
            End::Done => &mut self.done,
            End::HungUp => &mut self.hung_up,
            End::Dropped => &mut self.dropped,
            End::Interrupted => &mut self.interrupted,
            End::Failed(error) if error.is_refusal() => &mut self.refused,
            End::Failed(_) | End::TimedOut => &mut self.failed,
        };
        *slot += 1;
    }

    /// All that is over.
    pub(crate) fn total(&self) -> u64 {
        self.done + self.refused + self.failed + self.hung_up + self.dropped + self.interrupted
    }
}

/// Tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tokens {
    /// Of prompts, where the server counted.
    pub(crate) prompt: u64,
    /// Of prompts whose server said how many were cached.
    pub(crate) prompt_of_known_cache: u64,
    /// Of those, found in a prefix cache.
    pub(crate) cached: u64,
    /// Of answers, those that were cut off included.
    pub(crate) output: u64,
}

impl Tokens {
    pub(super) fn add(&mut self, record: &Record) {
        self.output += u64::from(record.output_tokens());
        let Some(usage) = record.usage else { return };
        self.prompt += u64::from(usage.prompt_tokens);
        if let Some(cached) = usage.cached_tokens() {
            self.prompt_of_known_cache += u64::from(usage.prompt_tokens);
            self.cached += u64::from(cached);
        }
    }

    /// Share of prompt tokens that came out of a prefix cache; `None` where no server said.
    pub(crate) fn cached_share(&self) -> Option<f64> {
        (self.prompt_of_known_cache > 0).then(|| self.cached as f64 / self.prompt_of_known_cache as f64)
    }
}

/// Figures of one class of requests; times from when a request was due.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    /// Which.
    pub(crate) class: Class,
    /// How its requests ended.
    pub(crate) counts: Counts,
    /// Its tokens.
    pub(crate) tokens: Tokens,
    /// Until the answer's head: some servers send it when the engine has taken the request up, others at once.
    pub(crate) head_ms: Option<Summary>,
    /// Until the first token.
    pub(crate) ttft_ms: Option<Summary>,
    /// Between one arrival of tokens and the next.
    pub(crate) inter_token_ms: Option<Summary>,
    /// A whole answer's time after its first token, by its further tokens.
    pub(crate) tpot_ms: Option<Summary>,
    /// Until the end of a whole answer.
    pub(crate) e2e_ms: Option<Summary>,
}

/// One kind of time of a class.
type TimeOf = fn(&Figures) -> Option<&Summary>;

/// One kind of error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ErrorKind {
    /// HTTP status; `stream` for an error after the answer's head, `-` where there is none.
    pub(crate) status: String,
    /// OpenAI's `code`, or what the client saw.
    pub(crate) code: String,
    /// How often.
    pub(crate) count: u64,
    /// Least and most that `Retry-After` said, s.
    pub(crate) retry_after_s: Option<(u32, u32)>,
    /// The first one's words.
    pub(crate) example: String,
}

/// A second's worth.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Throughput {
    /// Whole answers.
    pub(crate) requests_per_s: f64,
    /// Tokens of answers.
    pub(crate) output_tokens_per_s: f64,
    /// Tokens of prompts and answers.
    pub(crate) total_tokens_per_s: f64,
}

/// What the client itself did: figures are its own where these are not small.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ClientCost {
    /// Processor time by wall time; 1 is one core.
    pub(crate) cpu_share: f64,
    /// From due to sent, ms.
    pub(crate) late_ms: Option<Summary>,
}

/// A run's result.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    /// The client's version.
    pub(crate) version: &'static str,
    /// When it began, RFC 3339.
    pub(crate) date: String,
    /// How it was called; secrets masked.
    pub(crate) command: Vec<String>,
    /// Where.
    pub(crate) url: String,
    /// Which model.
    pub(crate) model: String,
    /// The server's name for model, version and precision.
    pub(crate) system_fingerprint: Option<String>,
    /// What was asked for.
    pub(crate) settings: Settings,
    /// How the endpoint took it.
    pub(super) dialect: Dialect,
    /// From the first request to the end of the last, s.
    pub(crate) elapsed_s: f64,
    /// Whether it was stopped before its end.
    pub(crate) interrupted: bool,
    /// How all requests ended.
    pub(crate) requests: Counts,
    /// All tokens.
    pub(crate) tokens: Tokens,
    /// Share of prompt tokens that came out of a prefix cache.
    pub(crate) cached_share: Option<f64>,
    /// What the endpoint did in a second.
    pub(crate) throughput: Throughput,
    /// By class; all together first.
    pub(crate) figures: Vec<Figures>,
    /// Kinds of errors, the commonest first.
    pub(crate) errors: Vec<ErrorKind>,
    /// What the client cost.
    pub(crate) client: ClientCost,
    /// What the server counted meanwhile, where it tells.
    pub(crate) server: Option<ServerSide>,
}

impl Report {
    /// What stands above the tables.
    pub(crate) fn heading(&self) -> String {
        let (r, t, c) = (&self.requests, &self.tokens, &self.client);
        let mode = match &self.settings.mode {
            Mode::Closed { loops } => format!("{loops} closed loops"),
            Mode::Open { rate } => format!("{rate} requests/s"),
            Mode::Agents(trace) => format!("{} agents", trace.conversations),
        };
        let stopped = if self.interrupted { ", interrupted" } else { "" };
        let out = format!("{} at {}: {mode}, {:.1} s{stopped}\n\n", self.model, self.url, self.elapsed_s);
        let rest = [
            (r.refused, "refused"),
            (r.failed, "failed"),
            (r.hung_up, "hung up"),
            (r.dropped, "dropped by the client"),
            (r.interrupted, "interrupted"),
        ];
        let rest: String = rest.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!(", {n} {what}")).collect();
        let cached = self.cached_share.map_or_else(String::new, |s| format!(" ({:.1} % cached)", s * 100.0));
        let put = &self.throughput;
        let late = c.late_ms.as_ref().map_or(0.0, |l| l.p99);
        let lines = [
            format!("requests    {} done{rest}", r.done),
            format!("tokens      {} in{cached}, {} out", t.prompt, t.output),
            format!(
                "throughput  {:.2} requests/s, {:.1} tokens/s out, {:.1} in and out",
                put.requests_per_s, put.output_tokens_per_s, put.total_tokens_per_s
            ),
            format!("client      {:.1} % of one core, {late:.2} ms late (p99)", c.cpu_share * 100.0),
        ];
        let server = self.server.as_ref().map(ServerSide::line);
        let lines: Vec<String> = lines.into_iter().chain(server).collect();
        out + &lines.join("\n") + "\n"
    }

    /// One row for each kind of time and class that has any, and their header.
    pub(crate) fn latencies(&self) -> (Vec<&'static str>, Vec<Vec<String>>) {
        let header = vec!["ms", "class", "count", "mean", "p50", "p90", "p95", "p99", "max"];
        let kinds: [(&str, TimeOf); 5] = [
            ("head", |f| f.head_ms.as_ref()),
            ("ttft", |f| f.ttft_ms.as_ref()),
            ("inter-token", |f| f.inter_token_ms.as_ref()),
            ("tpot", |f| f.tpot_ms.as_ref()),
            ("end to end", |f| f.e2e_ms.as_ref()),
        ];
        let row = |name: &str, class: Class, s: &Summary| {
            let times = [s.mean, s.p50, s.p90, s.p95, s.p99, s.max].map(|ms| format!("{ms:.2}"));
            let mut row = vec![name.to_owned(), class.name().to_owned(), s.count.to_string()];
            row.extend(times);
            row
        };
        let of_kind = |(name, of): &(&str, TimeOf)| {
            self.figures.iter().filter_map(|f| Some(row(name, f.class, of(f)?))).collect::<Vec<_>>()
        };
        (header, kinds.iter().flat_map(of_kind).collect())
    }

    /// One row for each kind of error.
    pub(crate) fn error_rows(&self) -> Vec<Vec<String>> {
        let row = |e: &ErrorKind| {
            let retry = e.retry_after_s.map_or_else(|| "-".to_owned(), |(low, high)| format!("{low}..{high} s"));
            let example = e.example.chars().take(60).collect();
            vec![e.status.clone(), e.code.clone(), e.count.to_string(), retry, example]
        };
        self.errors.iter().map(row).collect()
    }
}
