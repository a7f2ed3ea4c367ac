//! What a start shows on stderr: a bar on a terminal, a line a phase elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::phase::Phase;

/// Where progress goes.
pub(super) enum Progress {
    /// A terminal.
    Bar(ProgressBar),
    /// Anything else: one line a phase.
    Lines {
        /// The last line, so that none is repeated.
        last: String,
    },
}

impl Progress {
    /// By what stderr is.
    pub(super) fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines { last: String::new() };
        }
        let bar = ProgressBar::new_spinner().with_style(spinner());
        bar.enable_steady_tick(Duration::from_millis(100));
        Self::Bar(bar)
    }

    /// Shows a phase.
    pub(super) fn show(&mut self, phase: &Phase) {
        match self {
            Self::Bar(bar) => {
                if let Phase::Loading { bytes_read, bytes_total } = phase {
                    bar.set_style(bytes_bar());
                    bar.set_length(*bytes_total);
                    bar.set_position(*bytes_read);
                } else {
                    bar.set_style(spinner());
                }
                bar.set_message(phase.to_string());
            }
            Self::Lines { last } => {
                let line = phase.word();
                if *last != line {
                    print_line(&line);
                    *last = line;
                }
            }
        }
    }

    /// Leaves the terminal clean.
    pub(super) fn clear(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

#[expect(clippy::print_stderr, reason = "progress is what stderr is for")]
fn print_line(line: &str) {
    eprintln!("shardglm: {line}");
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg} {elapsed}").expect("a valid template")
}

fn bytes_bar() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg} [{bar:30}] {bytes}/{total_bytes} {elapsed}")
        .expect("a valid template")
}
