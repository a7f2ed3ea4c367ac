//! Processes below a given one, from `/proc`, told apart by start time so that a reused id is not mistaken.

use std::collections::BTreeMap;

use rustix::process::{Pid, Signal, kill_process};

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seen {
    /// Its id.
    pub(crate) pid: u32,
    /// Its arguments, joined by blanks.
    pub(crate) args: String,
    started: u64,
}

impl Seen {
    /// Whether it still runs (a zombie does not).
    pub(crate) fn runs(&self) -> bool {
        stat(self.pid).is_some_and(|(_, started, state)| started == self.started && state != 'Z')
    }

    /// SIGKILL.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("it runs");
    }
}

/// Parent, start time and state.
fn stat(pid: u32) -> Option<(u32, u64, char)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything.
    let fields: Vec<&str> = text[text.rfind(')')? + 2..].split(' ').collect();
    Some((fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?, fields.first()?.chars().next()?))
}

/// Every process below `root`.
pub(crate) fn below(root: u32) -> Vec<Seen> {
    let pids = std::fs::read_dir("/proc").expect("this is Linux").flatten();
    let all: BTreeMap<u32, (u32, u64, char)> =
        pids.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter_map(|pid| Some((pid, stat(pid)?))).collect();
    let is_below = |mut pid: u32| {
        while let Some((parent, _, _)) = all.get(&pid) {
            if *parent == root {
                return true;
            }
            pid = *parent;
        }
        false
    };
    let seen =
        all.iter().filter(|(pid, (_, _, state))| *state != 'Z' && is_below(**pid)).map(|(pid, (_, started, _))| {
            let args = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let args = String::from_utf8_lossy(&args).replace('\0', " ").trim_end().to_owned();
            Seen { pid: *pid, args, started: *started }
        });
    seen.collect()
}
