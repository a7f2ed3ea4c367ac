//! One `shardglm up` with a temporary directory and ports of its own.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::processes::{self, Seen};

/// How long a cluster may take to be ready: debug builds on a busy machine.
const READY: Duration = Duration::from_secs(120);
/// How long it may take to stop.
const STOP: Duration = Duration::from_secs(30);
/// Pause between two looks at a condition.
const LOOK: Duration = Duration::from_millis(50);

/// Waits until `condition` gives something.
#[track_caller]
pub(crate) fn until<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(started.elapsed() < deadline, "not within {deadline:?}: {what}");
        std::thread::sleep(LOOK);
    }
}

pub(crate) fn exit(output: &Output) -> Option<i32> {
    output.status.code()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a command that succeeded has printed.
#[track_caller]
pub(crate) fn json(output: &Output) -> Value {
    assert_eq!(exit(output), Some(0), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// A command of the binary, for an admin of the cluster with that state directory.
pub(crate) fn shardglm(args: &[&str], state_dir: Option<PathBuf>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shardglm"));
    command.args(args).stdin(Stdio::null());
    if let Some(dir) = state_dir {
        command.arg("--state-dir").arg(dir);
    }
    command.output().expect("the binary runs")
}

/// A running `up`.
pub(crate) struct Cluster {
    up: Child,
    /// Where `up` puts its temporary directory; nothing else is in it.
    temp: TempDir,
    log: PathBuf,
    _logs: TempDir,
    listen: String,
}

impl Cluster {
    /// Starts one and waits until it is ready.
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut cluster = Self::spawn(args);
        let started = Instant::now();
        loop {
            let said = cluster.said();
            if said.contains("\nready in ") {
                return cluster;
            }
            let ended = cluster.up.try_wait().expect("a child");
            assert!(ended.is_none(), "up ended: {ended:?}\n{said}");
            assert!(started.elapsed() < READY, "not ready within {READY:?}\n{said}");
            std::thread::sleep(LOOK);
        }
    }

    fn spawn(args: &[&str]) -> Self {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let logs = tempfile::tempdir().expect("a temporary directory");
        let listen = format!("127.0.0.1:{}", three_free_ports());
        let log = logs.path().join("up.log");
        let out = File::create(&log).expect("creates");
        let mut command = Command::new(env!("CARGO_BIN_EXE_shardglm"));
        command.arg("up").args(["--listen", &listen]).args(args).env("TMPDIR", temp.path()).stdin(Stdio::null());
        command.stderr(out.try_clone().expect("clones")).stdout(out);
        let up = command.spawn().expect("the binary runs");
        Self { up, temp, log, _logs: logs, listen }
    }

    /// What `up` has printed.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.log).expect("the log")
    }

    /// The first coordinator's URL, without `/v1`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// Every coordinator's URL, of a cluster of three.
    pub(crate) fn urls(&self) -> [String; 3] {
        let (host, port) = self.listen.rsplit_once(':').expect("an address");
        let first: u16 = port.parse().expect("a port");
        [0, 1, 2].map(|i| format!("http://{host}:{}", first + i))
    }

    /// The state directory.
    pub(crate) fn state_dir(&self) -> PathBuf {
        let mut entries = std::fs::read_dir(self.temp.path()).expect("exists").flatten();
        entries.next().expect("up's directory").path()
    }

    /// Its processes, without `up` itself.
    pub(crate) fn processes(&self) -> Vec<Seen> {
        processes::below(self.up.id())
    }

    /// The worker of a rank of the first replica.
    pub(crate) fn worker(&self, rank: u16) -> Seen {
        let of_rank = format!("--rank {rank}");
        let mut all = self.processes().into_iter();
        all.find(|p| p.args.starts_with("shardglm worker") && p.args.ends_with(&of_rank)).expect("a worker")
    }

    /// Another command of the binary, with this cluster's state directory where `admin`.
    pub(crate) fn shardglm(&self, args: &[&str], admin: bool) -> Output {
        shardglm(args, admin.then(|| self.state_dir()))
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.up.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("up runs");
    }

    /// Ctrl-C: it must end well, and leave no process and no file.
    pub(crate) fn interrupt_and_check_nothing_is_left(mut self) {
        let processes = self.processes();
        self.signal(Signal::INT);
        let status = until("up ends after Ctrl-C", STOP, || self.up.try_wait().expect("a child"));
        assert!(status.success(), "{status}\n{}", self.said());
        let left: Vec<_> = processes.iter().filter(|p| p.runs()).collect();
        assert!(left.is_empty(), "processes left: {left:?}");
        let files: Vec<_> = std::fs::read_dir(self.temp.path()).expect("exists").flatten().map(|e| e.path()).collect();
        assert!(files.is_empty(), "files left: {files:?}");
    }

    /// SIGKILL to `up` alone: its processes must end by themselves.
    pub(crate) fn kill_up_and_check_its_processes_end(mut self) {
        let processes = self.processes();
        self.signal(Signal::KILL);
        self.up.wait().expect("a child");
        until("its processes end", STOP, || processes.iter().all(|p| !p.runs()).then_some(()));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Only what a failed test has left: a cluster that was stopped has none.
        for process in self.processes() {
            if process.runs() {
                process.kill();
            }
        }
        let _ = self.up.kill();
        let _ = self.up.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.said());
        }
    }
}

/// The first of three ports in a row that nobody listens on; below the range that the system hands out, and apart for
/// tests that run side by side.
fn three_free_ports() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    until("three free ports in a row", Duration::from_secs(10), || {
        let turn = std::process::id().wrapping_mul(31).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let first = u16::try_from(20_000 + turn % 4_000 * 3).expect("below 32,000");
        (first..first + 3).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()).then_some(first)
    })
}
