//! One daemon of the cluster on its host: started, killed, stopped in its tracks, started again.
//!
//! Not here: what it says of itself (`api`, `log`). Invariant: it does not outlive its [`Daemon`].

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::process::Signal;

use crate::net::Host;
use crate::processes::{self, Seen};

/// What is run, and where.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) envs: Vec<(String, String)>,
    pub(super) log: PathBuf,
}

/// A daemon; not running until it is started.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    spec: Spec,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    /// Its end tells the process to drain: also when this process is killed.
    _stdin: Option<ChildStdin>,
}

impl Daemon {
    pub(super) fn new(name: &str, spec: Spec) -> Self {
        Self { name: name.to_owned(), spec, running: None }
    }

    /// The name of its host.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its log: JSON lines of all its lives, and those of the workers below it.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.spec.log
    }

    /// Starts it, unless it runs.
    pub(super) fn start(&mut self, host: &Host) -> std::io::Result<()> {
        if self.runs() {
            return Ok(());
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.spec.log)?;
        let mut command: Command = host.command(&self.spec.program);
        command.args(&self.spec.args).envs(self.spec.envs.iter().map(|(k, v)| (k, v)));
        // A group of its own: the terminal's Ctrl-C is for the tool, which then ends things in order.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).process_group(0);
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        self.running = Some(Running { child, _stdin: stdin });
        Ok(())
    }

    /// Whether it runs; one that is stopped in its tracks does.
    pub fn runs(&mut self) -> bool {
        self.running.as_mut().is_some_and(|r| matches!(r.child.try_wait(), Ok(None)))
    }

    /// The process, while it runs.
    #[must_use]
    pub fn process(&self) -> Option<Seen> {
        processes::by_id(self.running.as_ref()?.child.id())
    }

    /// The worker of a rank below it, by the newest epoch.
    #[must_use]
    pub fn worker(&self, replica: u64, rank: u16) -> Option<Seen> {
        let (replica, rank) = (format!(" --replica {replica} "), format!(" --rank {rank}"));
        let mut workers = processes::below(self.running.as_ref()?.child.id());
        workers.retain(|p| p.args.contains(" worker ") && p.args.contains(&replica) && p.args.ends_with(&rank));
        let epoch = |p: &Seen| p.args.split(" --epoch ").nth(1)?.split(' ').next()?.parse::<u64>().ok();
        workers.into_iter().max_by_key(epoch)
    }

    /// SIGKILL, and waits until it is gone.
    pub(super) fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            // Gone already is as good.
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }

    /// A signal to the daemon alone; false when it is gone.
    pub(super) fn signal(&self, signal: Signal) -> bool {
        self.process().is_some_and(|p| p.signal(signal))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
