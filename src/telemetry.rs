//! Logs of every process: tracing to stderr, as text or as one JSON object a line.
//!
//! Not here: metrics. Invariant: nothing is ever logged to stdout, which belongs to results (and, in a worker, to frames).

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Environment variable with the filter, where no flag gives one.
const FILTER_ENV: &str = "SHARDGLM_LOG";

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The flags that every command takes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LogArgs {
    /// How log lines are written to stderr
    #[arg(long, global = true, value_enum, default_value = "text", help_heading = "Logs")]
    pub(crate) log_format: LogFormat,
    /// Which log lines are written, such as `info` or `coordinator=debug,warn`; else SHARDGLM_LOG
    #[arg(long, global = true, value_name = "FILTER", help_heading = "Logs")]
    pub(crate) log: Option<String>,
}

/// Starts logging; the first call of a process wins.
///
/// # Errors
/// The filter that does not parse.
pub(crate) fn init(args: &LogArgs, default: &str) -> Result<(), String> {
    let text = args.log.clone().or_else(|| std::env::var(FILTER_ENV).ok()).unwrap_or_else(|| default.to_owned());
    let filter = EnvFilter::try_new(&text).map_err(|e| format!("log filter `{text}`: {e}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = match args.log_format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    done.map_err(|e| e.to_string())
}
