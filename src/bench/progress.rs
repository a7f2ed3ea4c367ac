//! How far a run is, on stderr, where that is a terminal.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::settings::Stop;
use super::tally::Tally;

/// The bar.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    stop: Stop,
    started: Instant,
}

impl Progress {
    pub(super) fn new(stop: Stop, started: Instant) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = match (stop.requests, stop.duration) {
                (Some(requests), _) => ProgressBar::new(requests),
                (None, Some(duration)) => ProgressBar::new(duration.as_millis() as u64),
                (None, None) => ProgressBar::new_spinner(),
            };
            bar.with_style(style(stop))
        });
        Self { bar, stop, started }
    }

    pub(super) fn show(&self, tally: &Tally) {
        let Some(bar) = &self.bar else { return };
        let (counts, elapsed) = (tally.counts(), self.started.elapsed());
        let position = match (self.stop.requests, self.stop.duration) {
            (None, Some(duration)) => elapsed.min(duration).as_millis() as u64,
            _ => counts.total(),
        };
        let rate = tally.tokens().output as f64 / elapsed.max(Duration::from_millis(1)).as_secs_f64();
        let bad = counts.refused + counts.failed + counts.dropped;
        bar.set_position(position);
        bar.set_message(format!("{} done, {bad} not, {rate:.0} tokens/s", counts.done));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(stop: Stop) -> ProgressStyle {
    let template = if stop.requests.or(stop.duration.map(|_| 0)).is_some() {
        "[{bar:30}] {percent} % {msg} {elapsed}"
    } else {
        "{spinner} {msg} {elapsed}"
    };
    ProgressStyle::with_template(template).expect("a valid template")
}
