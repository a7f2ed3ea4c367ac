//! One worker process, as its agent holds it: started with piped stdin and stdout, driven by one task until it is gone.
//!
//! Not here: when to start or stop one (the supervisor). stderr is the agent's own: every line a worker logs carries
//! its replica, epoch and rank.
//! Invariant: when the task is dropped the process is killed, and when the agent dies its end of stdin closes and the
//! process stops by itself.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use protocol::worker::{FromWorker, ToWorker};
use protocol::{Epoch, Frame};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::supervisor::{Event, RankKey};
use crate::pipe::{self, PipeError};

/// Messages that may wait for one worker's stdin; more means that it does not read.
pub(super) const INBOX_MAX: usize = 16;
/// How long a worker may leave its stdin unread.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// How long what a dead worker said last may take to be read.
const LAST_WORDS_DEADLINE: Duration = Duration::from_secs(1);

/// What the agent asks of a process.
#[derive(Debug)]
pub(super) enum ProcessCommand {
    Tell(Box<ToWorker>),
    /// Say so if there is nothing in its pipe.
    Look,
    Kill,
}

/// Starts `exe worker --replica R --epoch E --rank K`.
///
/// # Errors
/// The system's.
pub(super) fn spawn(exe: &Path, key: RankKey) -> std::io::Result<Child> {
    Command::new(exe)
        // As the other processes of the binary show in `ps`, wherever it is installed.
        .arg0("shardglm")
        .arg("worker")
        .args(["--replica", &key.replica.to_string()])
        .args(["--epoch", &key.epoch.to_string()])
        .args(["--rank", &key.rank.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
}

enum Happened {
    Said(ChildStdout, Result<Option<FromWorker>, PipeError>),
    Asked(Option<ProcessCommand>),
    Exited(std::io::Result<ExitStatus>),
}

/// Drives one process until it is gone, then says how it went.
pub(super) async fn drive(
    mut child: Child,
    key: RankKey,
    mut inbox: mpsc::Receiver<ProcessCommand>,
    events: mpsc::Sender<Event>,
) {
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let mut reading = Box::pin(read(key.epoch, child.stdout.take().expect("stdout is piped")));
    let mut listening = true;
    let mut killed_for: Option<String> = None;
    let status = loop {
        let happened = tokio::select! {
            // In this order: what it has said comes before the answer to whether it has said anything.
            biased;
            (stdout, said) = &mut reading, if listening => Happened::Said(stdout, said),
            asked = inbox.recv(), if killed_for.is_none() => Happened::Asked(asked),
            status = child.wait() => Happened::Exited(status),
        };
        let fault = match happened {
            Happened::Said(stdout, Ok(Some(message))) => {
                reading.set(read(key.epoch, stdout));
                tell_agent(&events, Event::Said { key, message }).await;
                None
            }
            Happened::Said(_, Ok(None)) => {
                listening = false;
                None
            }
            Happened::Said(_, Err(e)) => {
                listening = false;
                Some(format!("was killed: what it said could not be read ({e})"))
            }
            Happened::Asked(Some(ProcessCommand::Tell(message))) => write(&mut stdin, key.epoch, &message).await.err(),
            Happened::Asked(Some(ProcessCommand::Look)) => {
                tell_agent(&events, Event::Silent(key)).await;
                None
            }
            Happened::Asked(Some(ProcessCommand::Kill) | None) => Some("was killed past its deadline".to_owned()),
            Happened::Exited(status) => break status,
        };
        if let Some(why) = fault {
            // Fails only when it is gone already, which `wait` reports next.
            let _ = child.start_kill();
            killed_for.get_or_insert(why);
        }
    };
    if listening {
        let last_words = drain(reading, key, &events);
        let _ = timeout(LAST_WORDS_DEADLINE, last_words).await;
    }
    let how = killed_for.unwrap_or_else(|| describe(status));
    tell_agent(&events, Event::Exited { key, how }).await;
}

async fn read(epoch: Epoch, mut stdout: ChildStdout) -> (ChildStdout, Result<Option<FromWorker>, PipeError>) {
    let said = pipe::read_async(epoch, &mut stdout).await;
    (stdout, said)
}

/// Passes on what a dead process still had in its pipe.
async fn drain(
    mut reading: std::pin::Pin<Box<impl Future<Output = (ChildStdout, Result<Option<FromWorker>, PipeError>)>>>,
    key: RankKey,
    events: &mpsc::Sender<Event>,
) {
    let (mut stdout, mut said) = reading.as_mut().await;
    while let Ok(Some(message)) = said {
        tell_agent(events, Event::Said { key, message }).await;
        said = pipe::read_async(key.epoch, &mut stdout).await;
    }
}

async fn write(stdin: &mut ChildStdin, epoch: Epoch, message: &ToWorker) -> Result<(), String> {
    let bytes = Frame::bytes_of(epoch, message).map_err(|e| format!("was killed: it could not be told ({e})"))?;
    match timeout(WRITE_DEADLINE, stdin.write_all(&bytes)).await {
        Ok(Ok(())) => Ok(()),
        // It is on its way out: let it finish by itself, the exit follows.
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Ok(Err(e)) => Err(format!("was killed: its stdin failed ({e})")),
        Err(_) => Err(format!("was killed: it read nothing for {} s", WRITE_DEADLINE.as_secs())),
    }
}

/// The agent's loop outlives its processes' tasks; an error can only mean that the agent is being dropped.
async fn tell_agent(events: &mpsc::Sender<Event>, event: Event) {
    let _ = events.send(event).await;
}

fn describe(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Err(e) => format!("could not be waited for ({e})"),
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exited with code {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => format!("ended: {status}"),
        },
    }
}
