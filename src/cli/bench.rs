//! `shardglm bench serve`: flags, report, exit code.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::output::{Format, OutputArgs};
use super::{Failure, print, print_json, table};
use crate::bench::{self, Api, BenchError, LongPrompts, Mode, Report, Settings, Span, Stop, Trace};
use crate::openai::{Endpoint, EndpointArgs};

/// Environment variable with the endpoint's key.
const KEY_ENV: &str = "OPENAI_API_KEY";
/// Requests of a run whose length nobody said.
const REQUESTS: u64 = 100;
/// What a table of errors shows.
const ERROR_COLUMNS: [&str; 5] = ["status", "code", "count", "retry after", "example"];
/// Headers whose values are kept in the report; any other may be a secret.
const SHOWN_HEADERS: [&str; 2] = ["x-priority", "x-request-timeout-ms"];

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    verb: BenchVerb,
}

#[derive(Debug, clap::Subcommand)]
enum BenchVerb {
    /// Load an OpenAI-compatible endpoint and report what its clients feel
    Serve(Box<ServeArgs>),
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum TraceKind {
    /// Conversations with a shared system prompt, a growing history and pauses to think
    Agent,
}

#[derive(Debug, clap::Args)]
struct ServeArgs {
    /// The endpoint, with or without /v1. A key is read from OPENAI_API_KEY
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    url: String,
    /// The model's name; else the first that the endpoint lists
    #[arg(long)]
    model: Option<String>,
    /// Which API is asked; completions take token ids as prompts where the endpoint does
    #[arg(long, value_enum, default_value = "chat")]
    api: Api,

    /// Closed loops: each asks again when it has its answer [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096), group = "mode")]
    concurrency: Option<u32>,
    /// Open loop: Poisson arrivals a second, which wait for no answer; latencies count from the arrival
    #[arg(long, value_name = "R", value_parser = positive, group = "mode")]
    rate: Option<f64>,
    /// A trace
    #[arg(long, value_enum, group = "mode")]
    trace: Option<TraceKind>,
    /// Trace: conversations at a time
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u32).range(1..=4096))]
    conversations: u32,
    /// Trace: turns of a conversation
    #[arg(long, value_name = "A[..B]", default_value = "4..8")]
    turns: Span,
    /// Trace: mean pause before a turn, s
    #[arg(long, value_name = "S", default_value = "1", value_parser = not_negative)]
    think_time: f64,
    /// Trace: length of the shared system prompt, tokens
    #[arg(long, value_name = "N", default_value = "256", value_parser = clap::value_parser!(u32).range(1..))]
    system_tokens: u32,

    /// Requests in all [default: 100, or one conversation each in a trace]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// Seconds after which no more requests are made; those in flight are waited for
    #[arg(long, value_name = "S", value_parser = positive)]
    duration: Option<f64>,
    /// Length of a prompt; in a trace, of what a user says in a turn
    #[arg(long, value_name = "A[..B]", default_value = "64..256")]
    prompt_tokens: Span,
    /// Longest answer of each request, tokens
    #[arg(long, value_name = "A[..B]", default_value = "64")]
    max_tokens: Span,
    /// Mixes in prompts of this length; their figures are told apart
    #[arg(long, value_name = "N", requires = "long_every", conflicts_with = "trace", value_parser = clap::value_parser!(u32).range(1..))]
    long_prompt_tokens: Option<u32>,
    /// Every so-manieth prompt is a long one
    #[arg(long, value_name = "K", requires = "long_prompt_tokens", value_parser = clap::value_parser!(u64).range(1..))]
    long_every: Option<u64>,
    /// Share of the clients that hang up at a random token, 0 to 1
    #[arg(long, value_name = "P", default_value = "0", value_parser = share)]
    cancel_share: f64,
    /// Ask for answers that go on to their longest
    #[arg(long)]
    ignore_eos: bool,
    /// Sampling temperature
    #[arg(long, value_name = "T", default_value = "0", value_parser = not_negative)]
    temperature: f64,
    /// Fields added to every request's body
    #[arg(long, value_name = "JSON", value_parser = object)]
    extra_body: Option<Map<String, Value>>,
    /// A header of every request, such as `x-priority:low`
    #[arg(long, value_name = "NAME:VALUE", value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// Longest that one request may take, s
    #[arg(long, value_name = "S", default_value = "600", value_parser = positive)]
    timeout: f64,
    /// Requests ahead of the run that are not counted
    #[arg(long, value_name = "N", default_value = "0", value_parser = clap::value_parser!(u32).range(0..=100_000))]
    warmup: u32,
    /// Open loop: most requests in flight; an arrival beyond them is dropped and counted
    #[arg(long, value_name = "N", default_value = "1024", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    max_in_flight: u32,
    /// Of everything that is drawn: lengths, words, arrivals, pauses, hang-ups
    #[arg(long, default_value = "0")]
    seed: u64,
    /// Also writes the report as JSON to this file, with the command line, the date and the versions
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the verb.
pub(super) async fn run(args: BenchArgs) -> Result<(), Failure> {
    let BenchVerb::Serve(args) = args.verb;
    serve(*args).await
}

async fn serve(args: ServeArgs) -> Result<(), Failure> {
    if args.trace.is_some() && args.api == Api::Completions {
        return Err(Failure::usage(anyhow::anyhow!("--trace agent needs --api chat: a conversation has roles")));
    }
    let save = args.save.as_ref().map(create).transpose()?;
    let endpoint = Endpoint::new(EndpointArgs {
        url: &args.url,
        headers: headers(&args)?,
        idle_connections_max: args.max_in_flight as usize,
    })
    .map_err(Failure::usage)?;
    let (stop, _watch) = stop_on_signal()?;
    let output = args.output.output;
    let report = bench::run(settings(args), endpoint, command_line(std::env::args()), stop).await;
    let report = report.map_err(|e| match e {
        BenchError::Call(error) => error.into(),
        BenchError::Stopped => Failure::from(anyhow::Error::new(e)),
    })?;
    if let Some(mut file) = save {
        serde_json::to_writer_pretty(&mut file, &report)
            .map_err(|e| anyhow::anyhow!("cannot write the report: {e}"))?;
    }
    show(&report, output)?;
    verdict(&report)
}

fn settings(args: ServeArgs) -> Settings {
    let mode = match (args.trace, args.rate) {
        (Some(TraceKind::Agent), _) => Mode::Agents(Trace {
            conversations: args.conversations,
            turns: args.turns,
            think_s: args.think_time,
            system_tokens: args.system_tokens,
        }),
        (None, Some(rate)) => Mode::Open { rate },
        (None, None) => Mode::Closed { loops: args.concurrency.unwrap_or(1) },
    };
    let unbounded = args.requests.is_none() && args.duration.is_none() && args.trace.is_none();
    let requests = args.requests.or(unbounded.then_some(REQUESTS));
    let long_prompts = args.long_prompt_tokens.zip(args.long_every);
    Settings {
        model: args.model,
        api: args.api,
        mode,
        stop: Stop { requests, duration: args.duration.map(Duration::from_secs_f64) },
        prompt_tokens: args.prompt_tokens,
        max_tokens: args.max_tokens,
        long_prompts: long_prompts.map(|(tokens, every)| LongPrompts { tokens, every }),
        cancel_share: args.cancel_share,
        ignore_eos: args.ignore_eos,
        temperature: args.temperature,
        extra_body: args.extra_body.unwrap_or_default(),
        timeout: Duration::from_secs_f64(args.timeout),
        warmup: args.warmup,
        in_flight_max: args.max_in_flight,
        seed: args.seed,
    }
}

fn show(report: &Report, format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        return print_json(report);
    }
    let (header, latencies) = report.latencies();
    let mut text = report.heading();
    for (header, rows) in [(&header[..], latencies), (&ERROR_COLUMNS, report.error_rows())] {
        if !rows.is_empty() {
            text += "\n";
            text += &table(header, rows);
        }
    }
    print(&text)
}

/// Refusals under load are findings; a run without any answer is a failure.
fn verdict(report: &Report) -> Result<(), Failure> {
    let answered = report.requests.done + report.requests.hung_up;
    if answered > 0 || report.interrupted {
        return Ok(());
    }
    let why = anyhow::anyhow!("no request was answered");
    let unreachable = !report.errors.is_empty() && report.errors.iter().all(|e| e.code == "unreachable");
    Err(if unreachable { Failure::unreachable(why) } else { why.into() })
}

fn create(path: &PathBuf) -> Result<std::fs::File, Failure> {
    std::fs::File::create(path).map_err(|e| Failure::refused(anyhow::anyhow!("cannot write {}: {e}", path.display())))
}

fn headers(args: &ServeArgs) -> Result<HeaderMap, Failure> {
    let mut headers: HeaderMap = args.header.iter().cloned().collect();
    if let Ok(key) = std::env::var(KEY_ENV)
        && !headers.contains_key(AUTHORIZATION)
    {
        let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
            .map_err(|_| Failure::usage(anyhow::anyhow!("{KEY_ENV} has characters that no header may have")))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

/// Ctrl-C and SIGTERM end a run with the report so far.
fn stop_on_signal() -> Result<(CancellationToken, AbortOnDropHandle<()>), Failure> {
    let listen = |kind| signal(kind).map_err(|e| anyhow::anyhow!("cannot listen for signals: {e}"));
    let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let on_signal = stop.clone();
    let watch = tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        on_signal.cancel();
    });
    Ok((stop, AbortOnDropHandle::new(watch)))
}

/// The command line as the report keeps it: header values masked, but for a few that are no secrets.
fn command_line(args: impl Iterator<Item = String>) -> Vec<String> {
    let mut after_header = false;
    let mask = |text: &str| match text.split_once(':') {
        Some((name, _)) if !SHOWN_HEADERS.contains(&name.to_ascii_lowercase().as_str()) => format!("{name}:***"),
        _ => text.to_owned(),
    };
    let keep = |arg: String| {
        let is_value = std::mem::replace(&mut after_header, arg == "--header");
        match arg.strip_prefix("--header=") {
            Some(value) => format!("--header={}", mask(value)),
            None if is_value => mask(&arg),
            None => arg,
        }
    };
    args.map(keep).collect()
}

fn number(text: &str, accepts: &str, is_ok: impl Fn(f64) -> bool) -> Result<f64, String> {
    text.parse().ok().filter(|x: &f64| x.is_finite() && is_ok(*x)).ok_or_else(|| format!("expected {accepts}"))
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, "a number above 0 and at most 1000000", |x| x > 0.0 && x <= 1e6)
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text, "a number of 0 to 1000000", |x| (0.0..=1e6).contains(&x))
}

fn share(text: &str) -> Result<f64, String> {
    number(text, "a number of 0 to 1", |x| (0.0..=1.0).contains(&x))
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|e| format!("expected a JSON object: {e}"))
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("expected NAME:VALUE")?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|e| e.to_string())?;
    Ok((name, HeaderValue::from_str(value.trim()).map_err(|e| e.to_string())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_command_line_holds_no_secret() {
        let line =
            ["shardglm", "bench", "--header", "authorization:Bearer s3cret", "--header=x-priority:low", "--seed", "1"];
        let kept = command_line(line.iter().map(ToString::to_string));
        assert_eq!(
            kept,
            ["shardglm", "bench", "--header", "authorization:***", "--header=x-priority:low", "--seed", "1"]
        );
    }
}
