//! Processes below a given one, from `/proc`, told apart by start time so that a reused id is not mistaken.

use std::collections::BTreeMap;

use rustix::process::{Pid, Signal, kill_process};

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// Its id.
    pub pid: u32,
    /// Its arguments, joined by blanks.
    pub args: String,
    started: u64,
}

impl Seen {
    /// Whether it still runs (a zombie does not).
    #[must_use]
    pub fn runs(&self) -> bool {
        stat(self.pid).is_some_and(|(_, started, state)| started == self.started && state != 'Z')
    }

    /// SIGKILL; nothing where it is gone already.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Sends it a signal; false when it is gone.
    pub fn signal(&self, signal: Signal) -> bool {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        self.runs() && pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
    }
}

/// Parent, start time and state.
fn stat(pid: u32) -> Option<(u32, u64, char)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything.
    let fields: Vec<&str> = text[text.rfind(')')? + 2..].split(' ').collect();
    Some((fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?, fields.first()?.chars().next()?))
}

/// A process by its id.
#[must_use]
pub fn by_id(pid: u32) -> Option<Seen> {
    let (_, started, state) = stat(pid)?;
    (state != 'Z').then(|| Seen { pid, args: args(pid), started })
}

/// Every process below `root`.
#[must_use]
pub fn below(root: u32) -> Vec<Seen> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|e| e.file_name().to_str()?.parse().ok());
    let all: BTreeMap<u32, (u32, u64, char)> = pids.filter_map(|pid| Some((pid, stat(pid)?))).collect();
    let is_below = |mut pid: u32| {
        while let Some((parent, _, _)) = all.get(&pid) {
            if *parent == root {
                return true;
            }
            pid = *parent;
        }
        false
    };
    let below = all.iter().filter(|(pid, (_, _, state))| *state != 'Z' && is_below(**pid));
    below.map(|(pid, (_, started, _))| Seen { pid: *pid, args: args(*pid), started: *started }).collect()
}

fn args(pid: u32) -> String {
    let args = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&args).replace('\0', " ").trim_end().to_owned()
}
