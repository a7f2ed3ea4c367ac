//! What the daemons' logs say, as events with their moments: when the cluster noticed, decided, served.
//!
//! Not here: what is made of it. Invariant: a line that is no event is left out, never a failure: a killed process may
//! leave half of one.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// One line of a log.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When it was written, by the host's clock.
    pub at: OffsetDateTime,
    /// The daemon.
    pub daemon: String,
    /// The constant message.
    pub message: String,
    /// All of it.
    pub fields: Value,
}

impl Event {
    fn read(daemon: &str, line: &str) -> Option<Self> {
        let fields: Value = serde_json::from_str(line).ok()?;
        let at = OffsetDateTime::parse(fields["timestamp"].as_str()?, &Rfc3339).ok()?;
        Some(Self { at, daemon: daemon.to_owned(), message: fields["message"].as_str()?.to_owned(), fields })
    }

    /// What the leader was about to write, if this tells it.
    #[must_use]
    pub fn command(&self) -> Option<&str> {
        if self.message == "reconciling" { self.fields["command"].as_str() } else { None }
    }
}

/// Where a log is read from: what was there before is not looked at.
#[derive(Debug, Clone)]
pub struct Mark {
    daemon: String,
    path: PathBuf,
    offset: u64,
}

impl Mark {
    /// The end of a log as it is now.
    #[must_use]
    pub fn end_of(daemon: &str, path: &Path) -> Self {
        let offset = std::fs::metadata(path).map_or(0, |m| m.len());
        Self { daemon: daemon.to_owned(), path: path.to_owned(), offset }
    }

    /// Every event since.
    #[must_use]
    pub fn since(&self) -> Vec<Event> {
        let mut bytes = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.offset))?;
            file.read_to_end(&mut bytes)
        });
        // A log that cannot be read tells nothing, as one that is not written yet.
        if read.is_err() {
            return Vec::new();
        }
        String::from_utf8_lossy(&bytes).lines().filter_map(|line| Event::read(&self.daemon, line)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_from_the_mark_on_and_half_a_line_is_left_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("c1.log");
        let line = |command: &str| {
            format!(
                "{{\"timestamp\":\"2026-11-28T00:23:56.125000Z\",\"level\":\"INFO\",\"message\":\"reconciling\",\"command\":\"{command}\"}}\n"
            )
        };
        std::fs::write(&path, line("before")).expect("writes");
        let mark = Mark::end_of("c1", &path);
        assert_eq!(mark.since(), []);
        std::fs::write(&path, line("before") + "not an event\n" + &line("after") + "{\"timest").expect("writes");
        let events = mark.since();
        assert_eq!(events.iter().map(Event::command).collect::<Vec<_>>(), [Some("after")]);
        assert_eq!((events[0].at.millisecond(), events[0].daemon.as_str()), (125, "c1"));
    }
}
