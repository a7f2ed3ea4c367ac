//! What commands print on stdout: tables for people, JSON for programs.
//!
//! Not here: progress and errors, which go to stderr. Invariant: a reader that goes away (`| head`) is no error.

use std::io::{ErrorKind, Write};

use serde::Serialize;
use tabled::builder::Builder;
use tabled::settings::{Padding, Style};

use super::failure::Failure;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns.
    Table,
    /// One JSON value.
    Json,
}

/// The flag of every command that prints a result.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct OutputArgs {
    /// How the result is printed
    #[arg(short, long, value_enum, default_value = "table")]
    pub(crate) output: Format,
}

/// Writes text to stdout and flushes it.
///
/// # Errors
/// Exit 1 when stdout cannot be written, other than by its reader's going away.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(anyhow::anyhow!("cannot write to stdout: {e}").into()),
        _ => Ok(()),
    }
}

/// Prints a value as indented JSON.
///
/// # Errors
/// As [`fn@print`].
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?;
    print(&format!("{text}\n"))
}

/// Rows under a header, in columns.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut builder = Builder::default();
    builder.push_record(header.iter().map(|h| h.to_uppercase()));
    for row in rows {
        builder.push_record(row);
    }
    let text = builder.build().with(Style::blank()).with(Padding::new(0, 2, 0, 0)).to_string();
    text.lines().fold(String::new(), |all, line| all + line.trim_end() + "\n")
}

/// What is known, or a dash.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_a_header_and_no_trailing_blanks() {
        let text = table(&["node", "state"], [vec!["node-1".to_owned(), "up".to_owned()]]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].starts_with("NODE") && lines[1].starts_with("node-1") && lines[1].ends_with("up"), "{text}");
    }
}
