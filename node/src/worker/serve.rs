//! Rank 0's front: the QUIC endpoint that gateways bring requests to, on a small runtime of its own.
//!
//! ```text
//!  gateway ── GenerateRequest, Picture* ─▶ stream task ── Submission ─▶ step loop
//!  gateway ◀─ GenerateEvent… ─── stream task ◀─ replies ───── step loop
//!  gateway ── EndChoice ───────▶ stream task ── a flag ─────▶ step loop, before its next step
//!  gateway ── reset or stop ───▶ stream task ends: its reply channel closes, which is the cancellation
//! ```
//! Not here: what a request computes. A slow gateway slows its own stream's task only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use protocol::frame::{Ping, Refusal, RefusalCode};
use protocol::generate::{EndChoice, GenerateEvent, GenerateRequest, TokenOutput};
use protocol::identity::Role;
use protocol::{Epoch, Frame, Kind, ReplicaId};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use transport::{BindError, Connection, Endpoint, NodeIdentity, RecvStream, SendStream, StreamError};

use super::constraints::{COMPILES_MAX, Constraints};
use super::picture_inbox::{NotTaken, PictureInbox};
use super::submission::{EndedChoices, Reply, Submission};
use crate::grammar::STACK_BYTES;

/// How long a stream may take to bring its request.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// How long a gateway may leave an event unread before its stream is given up.
const EVENT_DEADLINE: Duration = Duration::from_secs(10);
/// How long the end of a stream may stay unacknowledged.
const FLUSH_DEADLINE: Duration = Duration::from_millis(500);
/// Largest request: a context of `CONTEXT_TOKENS_MAX` ids and its parameters, bytes.
const REQUEST_BYTES_MAX: u32 = 8 << 20;
/// Most replies that one event frame carries.
const REPLIES_PER_FRAME: usize = 256;

/// What the front needs to know of its rank.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) replica: ReplicaId,
    pub(super) epoch: Epoch,
    /// Rows of the embedding; an id from there on is no token.
    pub(super) vocab: u32,
    pub(super) context_tokens: u32,
    pub(super) submissions: mpsc::Sender<Submission>,
    pub(super) constraints: Constraints,
    pub(super) pictures: PictureInbox,
    /// Set once the epoch is committed.
    pub(super) open: AtomicBool,
}

/// The running front.
pub(super) struct ServeSide {
    runtime: Runtime,
    endpoint: Endpoint,
    front: Arc<Front>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Why there is no front.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No thread could be started.
    #[error("cannot start the serving runtime: {0}")]
    Runtime(#[source] std::io::Error),
    /// No socket.
    #[error(transparent)]
    Bind(#[from] BindError),
}

impl ServeSide {
    /// Listens on `addr` for coordinators; refuses everything until [`Self::open`].
    ///
    /// # Errors
    /// [`ServeError`].
    pub(super) fn start(addr: SocketAddr, identity: &NodeIdentity, front: Front) -> Result<Self, ServeError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            // Only grammars block, and they need the stack; nobody else is harmed, as it is taken when it is touched.
            .max_blocking_threads(COMPILES_MAX)
            .thread_stack_size(STACK_BYTES)
            .thread_name("serve")
            .enable_all()
            .build()
            .map_err(ServeError::Runtime)?;
        let endpoint = {
            let _inside = runtime.enter();
            Endpoint::bind(addr, identity, &[Role::Coordinator])?
        };
        let (front, tasks, stop) = (Arc::new(front), TaskTracker::new(), CancellationToken::new());
        let accepting = accept(endpoint.clone(), front.clone(), tasks.clone(), stop.clone());
        tasks.spawn_on(accepting, runtime.handle());
        Ok(Self { runtime, endpoint, front, tasks, stop })
    }

    /// Where it listens.
    pub(super) fn addr(&self) -> SocketAddr {
        self.endpoint.local_addr()
    }

    /// Takes requests from now on.
    pub(super) fn open(&self) {
        self.front.open.store(true, Ordering::Release);
    }

    /// Takes no new request, waits at most `deadline` for the streams' ends to be acknowledged, and closes.
    pub(super) fn close(self, deadline: Duration) {
        self.stop.cancel();
        self.tasks.close();
        self.runtime.block_on(async {
            let _ = timeout(deadline, self.tasks.wait()).await;
            self.endpoint.close("the rank ends", deadline).await;
        });
        self.runtime.shutdown_timeout(deadline);
    }
}

async fn accept(endpoint: Endpoint, front: Arc<Front>, tasks: TaskTracker, stop: CancellationToken) {
    loop {
        let connection = tokio::select! {
            () = stop.cancelled() => return,
            connection = endpoint.accept() => connection,
        };
        let Some(connection) = connection else { return };
        tasks.spawn(accept_streams(connection, front.clone(), tasks.clone(), stop.clone()));
    }
}

async fn accept_streams(connection: Connection, front: Arc<Front>, tasks: TaskTracker, stop: CancellationToken) {
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            stream = connection.accept_stream() => stream,
        };
        let Ok((send, recv)) = stream else { return };
        let front = front.clone();
        tasks.spawn(async move {
            if let Err(e) = front.answer(send, recv).await {
                tracing::debug!(reason = %e, "a request's stream broke");
            }
        });
    }
}

impl Front {
    /// Serves one stream to its end.
    async fn answer(&self, mut send: SendStream, mut recv: RecvStream) -> Result<(), StreamError> {
        recv.set_body_max(REQUEST_BYTES_MAX);
        let frame = recv.recv(REQUEST_DEADLINE).await?;
        if frame.kind == Kind::Ping {
            return self.answer_ping(&frame, &mut send).await;
        }
        let admitted = tokio::select! {
            biased;
            // A client that goes while its pictures arrive is not waited for.
            stopped = send.stopped() => return stopped,
            admitted = self.admit(&frame, &mut recv) => admitted,
        };
        match admitted {
            Err(NotTaken::Broken(e)) => return Err(e),
            Err(NotTaken::Refused(refusal)) => {
                // Pictures that are still on their way are not wanted: whoever sends them turns to the answer.
                recv.stop();
                send.refuse(self.epoch, &refusal, EVENT_DEADLINE).await?;
            }
            Ok(accepted) => self.forward(accepted, &mut send, &mut recv).await?,
        }
        // Until the end is acknowledged, closing the endpoint would lose it.
        let _ = timeout(FLUSH_DEADLINE, send.stopped()).await;
        Ok(())
    }

    /// Whether a request would be looked at: a gateway asks that as often as it likes.
    async fn answer_ping(&self, frame: &Frame, send: &mut SendStream) -> Result<(), StreamError> {
        let refusal = if frame.epoch != self.epoch {
            let detail = format!("epoch {} is meant, this is epoch {}", frame.epoch, self.epoch);
            Refusal { code: RefusalCode::WrongEpoch, detail }
        } else if self.open.load(Ordering::Acquire) {
            send.send(self.epoch, &frame.read::<Ping>()?, EVENT_DEADLINE).await?;
            return send.finish();
        } else {
            let detail = "the replica does not serve yet".to_owned();
            Refusal { code: RefusalCode::Overloaded { retry_after_ms: 0 }, detail }
        };
        send.refuse(self.epoch, &refusal, EVENT_DEADLINE).await
    }

    /// Checks a request, reads its pictures, compiles its grammar and submits it.
    async fn admit(&self, frame: &Frame, recv: &mut RecvStream) -> Result<Accepted, NotTaken> {
        let no = |code, detail: String| Err(NotTaken::Refused(Refusal { code, detail }));
        let request: GenerateRequest = match frame.read() {
            Ok(request) => request,
            Err(e) => return no(RefusalCode::BadRequest, e.to_string()),
        };
        if (frame.epoch, request.replica) != (self.epoch, self.replica) {
            let found = format!("replica {} epoch {}", request.replica, frame.epoch);
            let here = format!("this is replica {} epoch {}", self.replica, self.epoch);
            return no(RefusalCode::WrongEpoch, format!("{found} is meant, {here}"));
        }
        let biased = request.sampling.logit_bias.iter().map(|(id, _)| id);
        let mut ids = request.prompt_ids.iter().chain(request.choices.iter().flat_map(|c| &c.resume)).chain(biased);
        if let Some(id) = ids.find(|id| **id >= self.vocab) {
            return no(RefusalCode::BadRequest, format!("token id {id} is not below {}", self.vocab));
        }
        if !self.open.load(Ordering::Acquire) {
            return no(RefusalCode::Overloaded { retry_after_ms: 0 }, "the replica does not serve yet".to_owned());
        }
        let deadline = Instant::now() + Duration::from_millis(u64::from(request.deadline_ms));
        let pictures = self.pictures.receive(&request, self.epoch, recv, deadline).await?;
        recv.set_body_max(REQUEST_BYTES_MAX);
        let constraints = self.constraints.of(&request).await?;
        let open = request.choices.iter().map(|c| c.index).collect();
        let (submission, replies) = Submission::new(request, pictures, constraints, self.context_tokens);
        let ended = submission.ended.clone();
        match self.submissions.try_send(submission) {
            Ok(()) => Ok(Accepted { replies, ended, open, deadline }),
            Err(mpsc::error::TrySendError::Full(_)) => {
                no(RefusalCode::Overloaded { retry_after_ms: 0 }, "too many requests arrive at once".to_owned())
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                no(RefusalCode::Internal, "the group of this epoch has ended".to_owned())
            }
        }
    }

    /// Passes replies on until the last choice has ended, the request fails, the gateway goes, or the deadline passes.
    async fn forward(
        &self,
        mut accepted: Accepted,
        send: &mut SendStream,
        recv: &mut RecvStream,
    ) -> Result<(), StreamError> {
        let mut batch = Vec::new();
        let mut listening = true;
        let deadline = accepted.deadline;
        while !accepted.open.is_empty() {
            tokio::select! {
                biased;
                stopped = send.stopped() => return stopped,
                // A finished request side is no cancellation: only a reset is.
                said = recv.recv(deadline.into_std()), if listening => match said {
                    Err(StreamError::Ended | StreamError::Deadline { .. }) => listening = false,
                    Err(gone) => return Err(gone),
                    Ok(frame) if frame.epoch != self.epoch => {
                        return Err(StreamError::StaleEpoch { found: frame.epoch, expected: self.epoch });
                    }
                    Ok(frame) => accepted.end_choice(frame.read::<EndChoice>()?),
                },
                n = accepted.replies.recv_many(&mut batch, REPLIES_PER_FRAME) => {
                    let lost = (n == 0).then(|| failed("the step loop ended", true));
                    let (events, end) = accepted.events(batch.drain(..));
                    for event in events {
                        send.send(self.epoch, &event, EVENT_DEADLINE).await?;
                    }
                    if let Some(end) = end.or(lost) {
                        return self.send_end(end, send).await;
                    }
                }
                () = sleep_until(deadline) => {
                    return self.send_end(failed("the request's deadline has passed", false), send).await;
                }
            }
        }
        send.finish()
    }

    async fn send_end(&self, end: Ending, send: &mut SendStream) -> Result<(), StreamError> {
        match end {
            Ending::Event(event) => send.send(self.epoch, &event, EVENT_DEADLINE).await?,
            Ending::Refusal(refusal) => send.send(self.epoch, &refusal, EVENT_DEADLINE).await?,
        }
        send.finish()
    }
}

/// A request that the step loop has.
struct Accepted {
    replies: mpsc::Receiver<Reply>,
    /// What the gateway wants no more.
    ended: Arc<EndedChoices>,
    /// Choices that have not ended.
    open: BTreeSet<u16>,
    deadline: Instant,
}

impl Accepted {
    fn end_choice(&mut self, EndChoice { index }: EndChoice) {
        self.ended.end(index);
        self.open.remove(&index);
    }

    /// A batch of replies as few events, and what ends the request before all of its choices have, if something does.
    /// Nothing of a choice that has ended goes out.
    fn events(&mut self, batch: impl Iterator<Item = Reply>) -> (Vec<GenerateEvent>, Option<Ending>) {
        let (mut events, mut end) = (Vec::new(), None);
        let mut tokens: BTreeMap<u16, Vec<TokenOutput>> = BTreeMap::new();
        for reply in batch {
            match reply {
                Reply::Started { cached_tokens } => events.push(GenerateEvent::Started { cached_tokens }),
                Reply::Prompt(logprobs) => events.push(GenerateEvent::Prompt(logprobs)),
                Reply::Token { choice, token } if self.open.contains(&choice) => {
                    tokens.entry(choice).or_default().push(token);
                }
                Reply::Finished { choice, reason } if self.open.remove(&choice) => {
                    let last = tokens.remove(&choice).map(|tokens| GenerateEvent::Tokens { choice, tokens });
                    events.extend(last.into_iter().chain([GenerateEvent::Finished { choice, reason }]));
                }
                Reply::Token { .. } | Reply::Finished { .. } => {}
                Reply::Failed { reason, retryable } => end = Some(failed(&reason, retryable)),
                Reply::Refused(refusal) => end = Some(Ending::Refusal(refusal)),
            }
        }
        events.extend(tokens.into_iter().map(|(choice, tokens)| GenerateEvent::Tokens { choice, tokens }));
        (events, end)
    }
}

/// The last frame of a stream that ends before its choices.
enum Ending {
    Event(GenerateEvent),
    Refusal(Refusal),
}

fn failed(reason: &str, retryable: bool) -> Ending {
    Ending::Event(GenerateEvent::Failed { reason: reason.to_owned(), retryable })
}
