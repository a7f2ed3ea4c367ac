//! The internal listener: who is behind each stream, and what its first frame asks for.
//!
//! Not here: answers. Invariants: connections and streams are bounded; only a coordinator speaks Raft, only a node
//! reports.

use std::sync::Arc;
use std::time::Duration;

use protocol::frame::{Ping, Refusal, RefusalCode};
use protocol::journal::JournalRequest;
use protocol::lease::NodeReport;
use protocol::raft::RaftRequest;
use protocol::{Epoch, Frame, Identity, Kind, Message, Role};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use transport::{Connection, Endpoint, RecvStream, SendStream, StreamError};

use crate::journal::Journal;
use crate::lease::Sessions;
use crate::raft::Consensus;

/// Most peers at once.
const CONNECTIONS_MAX: usize = 1024;
/// Most streams of one peer that are served at once.
const STREAMS_MAX: usize = 128;
/// How long a stream's first frame may take, and an answer to leave.
const FRAME_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest frame of a node, bytes: a report of a few dozen workers.
const REPORT_BYTES_MAX: u32 = 1 << 20;

/// What the listener serves.
#[derive(Debug)]
pub(crate) struct Internal {
    /// Raft.
    pub consensus: Consensus,
    /// Leases.
    pub sessions: Sessions,
    /// What is kept of other coordinators' streams.
    pub journal: Journal,
}

impl Internal {
    /// Serves `endpoint` on `tasks` until `cancel`.
    pub(crate) async fn accept(self: Arc<Self>, endpoint: Endpoint, tasks: TaskTracker, cancel: CancellationToken) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let connection = tokio::select! {
                () = cancel.cancelled() => return,
                connection = endpoint.accept() => match connection {
                    Some(connection) => connection,
                    None => return,
                },
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                tracing::warn!(peer = %connection.peer(), "too many connections, peer refused");
                connection.close("too many connections");
                continue;
            };
            let (this, tracker, cancel) = (Arc::clone(&self), tasks.clone(), cancel.clone());
            tasks.spawn(async move {
                this.connection(connection, tracker, cancel).await;
                drop(place);
            });
        }
    }

    async fn connection(self: Arc<Self>, connection: Connection, tasks: TaskTracker, cancel: CancellationToken) {
        let places = Arc::new(Semaphore::new(STREAMS_MAX));
        loop {
            let place = tokio::select! {
                () = cancel.cancelled() => return,
                place = Arc::clone(&places).acquire_owned() => place.expect("the semaphore is never closed"),
            };
            let (send, recv) = tokio::select! {
                () = cancel.cancelled() => return,
                stream = connection.accept_stream() => match stream {
                    Ok(stream) => stream,
                    Err(reason) => {
                        tracing::debug!(peer = %connection.peer(), %reason, "connection ended");
                        return;
                    }
                },
            };
            let (this, connection, cancel) = (Arc::clone(&self), connection.clone(), cancel.clone());
            tasks.spawn(async move {
                let served = this.stream(connection.peer(), send, recv, &cancel).await;
                if let Err(reason) = served {
                    tracing::debug!(peer = %connection.peer(), %reason, "stream ended");
                }
                drop(place);
            });
        }
    }

    async fn stream(
        &self,
        peer: &Identity,
        mut send: SendStream,
        mut recv: RecvStream,
        cancel: &CancellationToken,
    ) -> Result<(), StreamError> {
        if peer.role == Role::Node {
            recv.set_body_max(REPORT_BYTES_MAX);
        }
        let first = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            first = recv.recv(FRAME_TIMEOUT) => first?,
        };
        match (first.kind, peer.role) {
            (Kind::RaftRequest, Role::Coordinator) => {
                let answer = match read::<RaftRequest>(&first) {
                    Ok(request) => self.consensus.serve(request).await,
                    Err(refusal) => Err(refusal),
                };
                reply(&mut send, answer).await
            }
            (Kind::JournalRequest, Role::Coordinator) => {
                reply(&mut send, read::<JournalRequest>(&first).map(|request| self.journal.serve(request))).await
            }
            (Kind::NodeReport, Role::Node) => match read::<NodeReport>(&first) {
                Ok(report) => {
                    self.sessions.session(peer).serve(report, &mut send, &mut recv, cancel).await;
                    Ok(())
                }
                Err(refusal) => send.refuse(Epoch(0), &refusal, FRAME_TIMEOUT).await,
            },
            (Kind::Ping, _) => reply(&mut send, read::<Ping>(&first)).await,
            (kind, _) => {
                let detail = format!("{peer} may not send a {kind:?} frame here");
                let refusal = Refusal { code: RefusalCode::Forbidden, detail };
                send.refuse(Epoch(0), &refusal, FRAME_TIMEOUT).await
            }
        }
    }
}

fn read<M: Message>(frame: &Frame) -> Result<M, Refusal> {
    frame.read().map_err(|e| Refusal { code: RefusalCode::BadRequest, detail: e.to_string() })
}

async fn reply<M: Message>(send: &mut SendStream, answer: Result<M, Refusal>) -> Result<(), StreamError> {
    match answer {
        Ok(answer) => {
            send.send(Epoch(0), &answer, FRAME_TIMEOUT).await?;
            send.finish()
        }
        Err(refusal) => send.refuse(Epoch(0), &refusal, FRAME_TIMEOUT).await,
    }
}
