//! The processes of an `up`: started in process groups of their own, watched, drained, and never left behind.
//!
//! Not here: what they do. Invariants: each child's stdin is held open, so that it ends when `up` does, however that
//! happens; dropping [`Processes`] kills every group.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::{join_all, select_all};
use protocol::CoordinatorId;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, ChildStdin, Command};

use super::home::Home;
use crate::telemetry::{LogArgs, LogFormat};
use crate::trust;

/// Last lines of a dead child's log that are shown.
const TAIL_LINES: usize = 12;
/// How much of a log's end is looked at, bytes.
const TAIL_BYTES: u64 = 16 << 10;
/// How long a killed process may take to be gone.
const REAP_TIMEOUT: Duration = Duration::from_secs(5);

/// Coordinator or node agent; workers are their agent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Coordinator,
    Node,
}

struct Process {
    kind: Kind,
    name: String,
    child: Child,
    /// Held apart from `child`, whose `wait` would close it; its end tells the process to drain.
    _stdin: Option<ChildStdin>,
    group: Pid,
    log: PathBuf,
}

/// All of them.
pub(super) struct Processes {
    exe: PathBuf,
    logs: PathBuf,
    log: LogArgs,
    list: Vec<Process>,
}

/// A process that ended by itself, with the end of its log.
#[derive(Debug)]
pub(super) struct Ended {
    name: String,
    status: Option<ExitStatus>,
    tail: Vec<String>,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status.map_or_else(|| "unknown status".to_owned(), |s| s.to_string());
        write!(f, "{} ended by itself ({status})", self.name)?;
        self.tail.iter().try_for_each(|line| write!(f, "\n  {} | {line}", self.name))
    }
}

impl Processes {
    /// None yet; their logs will be files in `logs`.
    ///
    /// # Errors
    /// A directory that cannot be created, or a program file that cannot be found.
    pub(super) fn new(logs: PathBuf, log: LogArgs) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        let exe = std::env::current_exe().context("cannot find this program's file")?;
        Ok(Self { exe, logs, log, list: Vec::new() })
    }

    /// Starts a coordinator.
    ///
    /// # Errors
    /// A process that cannot be started.
    pub(super) fn spawn_coordinator(&mut self, home: &Home, id: CoordinatorId) -> anyhow::Result<()> {
        let identity = trust::coordinator_dir(home.dir(), id);
        self.spawn(Kind::Coordinator, format!("coordinator-{id}"), &["--id", &id.to_string()], home, &identity)
    }

    /// Starts a node agent.
    ///
    /// # Errors
    /// A process that cannot be started.
    pub(super) fn spawn_node(&mut self, home: &Home, number: u16) -> anyhow::Result<()> {
        let name = format!("node-{number}");
        let identity = home.dir().join(&name);
        self.spawn(Kind::Node, name.clone(), &["--name", &name], home, &identity)
    }

    fn spawn(&mut self, kind: Kind, name: String, who: &[&str], home: &Home, identity: &Path) -> anyhow::Result<()> {
        let log = self.logs.join(format!("{name}.log"));
        let stderr = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut command = Command::new(&self.exe);
        command.arg0("shardglm").arg(match kind {
            Kind::Coordinator => "coordinator",
            Kind::Node => "node",
        });
        command.args(who).arg("--config").arg(home.dir().join("cluster.toml"));
        command.arg("--state-dir").arg(home.dir().join("state").join(&name)).arg("--identity-dir").arg(identity);
        command.arg("--supervised");
        if let Some(filter) = &self.log.log {
            command.args(["--log", filter]);
        }
        if self.log.log_format == LogFormat::Json {
            command.args(["--log-format", "json"]);
        }
        // The token of this cluster is in its own file.
        command.env_remove("SHARDGLM_JOIN_TOKEN");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(stderr);
        // A group of its own: the terminal's Ctrl-C must reach `up` alone, which then drains in order.
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let group = pid.with_context(|| format!("{name} has no process id"))?;
        let stdin = child.stdin.take();
        self.list.push(Process { kind, name, child, _stdin: stdin, group, log });
        Ok(())
    }

    /// The next process that ends by itself. Cancel safe.
    pub(super) async fn next_ended(&mut self) -> Ended {
        if self.list.is_empty() {
            return std::future::pending().await;
        }
        let (status, index, _) = select_all(self.list.iter_mut().map(|p| Box::pin(p.child.wait()))).await;
        let process = self.list.swap_remove(index);
        // An agent's workers end by themselves when it is gone; this only makes sure.
        signal(&process, Signal::KILL);
        Ended { tail: tail(&process.log), status: status.ok(), name: process.name }
    }

    /// Reports each process that ends; returns when none is left. Cancel safe.
    pub(super) async fn all_ended(&mut self) {
        while !self.list.is_empty() {
            let ended = self.next_ended().await;
            tracing::warn!(process = %ended.name, "a process ended by itself");
            report(&ended);
        }
    }

    /// Drains the coordinators for at most `grace`.
    pub(super) async fn stop_coordinators(&mut self, grace: Duration) {
        self.stop(Kind::Coordinator, grace).await;
    }

    /// Stops the nodes and their workers for at most `grace`.
    pub(super) async fn stop_nodes(&mut self, grace: Duration) {
        self.stop(Kind::Node, grace).await;
    }

    async fn stop(&mut self, kind: Kind, grace: Duration) {
        let mine: Vec<&mut Process> = self.list.iter_mut().filter(|p| p.kind == kind).collect();
        // The process alone, not its group: an agent stops its workers in its own order.
        for process in &mine {
            let _ = rustix::process::kill_process(process.group, Signal::TERM);
        }
        let waits = join_all(mine.into_iter().map(|p| p.child.wait()));
        // What is still there after the deadline is killed by `kill_rest`.
        let _ = tokio::time::timeout(grace, waits).await;
    }

    /// Kills whatever is left of each group and waits until it is gone; returns the names of those that were.
    pub(super) async fn kill_rest(&mut self) -> Vec<String> {
        let mut killed = Vec::new();
        for process in &mut self.list {
            if matches!(process.child.try_wait(), Ok(None)) {
                killed.push(process.name.clone());
            }
            signal(process, Signal::KILL);
        }
        let waits = join_all(self.list.iter_mut().map(|p| p.child.wait()));
        let _ = tokio::time::timeout(REAP_TIMEOUT, waits).await;
        self.list.clear();
        killed
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for process in &self.list {
            signal(process, Signal::KILL);
        }
    }
}

/// To the whole group; a group that is gone is what was wanted.
fn signal(process: &Process, signal: Signal) {
    let _ = kill_process_group(process.group, signal);
}

#[expect(clippy::print_stderr, reason = "a person must know that a part of the cluster is gone")]
fn report(ended: &Ended) {
    eprintln!("shardglm: {ended}");
}

/// The last lines of a log.
fn tail(log: &Path) -> Vec<String> {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|l| (*l).to_owned()).collect()
}
