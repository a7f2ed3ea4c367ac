//! The real way to a replica: one QUIC stream a request, on a cached connection to its rank 0.
//!
//! Invariant: a stream that is dropped is reset, so that the sequence leaves the next step.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use protocol::frame::{Ping, Refusal, RefusalCode};
use protocol::generate::{EndChoice, GenerateEvent, GenerateRequest};
use protocol::picture::Picture;
use protocol::{Epoch, Role};
use tokio::sync::OnceCell;
use transport::{CallError, Connection, Deadline, Endpoint, Expect, RecvStream, SendStream, StreamError};

use super::dispatch::{Dispatch, DispatchError, Events};
use crate::view::ReadyReplica;

/// Longest that connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a replica may say nothing before it is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(1);
/// Longest that its answer may take. Together with [`SILENCE`] well below QUIC's own idle timeout: a killed worker leaves
/// nobody behind who would close the connection.
const PROBE_TIMEOUT: Duration = Duration::from_millis(2500);
/// Longest that the word that one choice has ended may take to leave.
const END_CHOICE_TIMEOUT: Duration = Duration::from_secs(2);
/// By which a replica is asked whether it is there, whoever asks.
const HEALTH: Ping = Ping { nonce: 1 };
/// By which it is asked by a request that waits for it.
const WAITING: Ping = Ping { nonce: 0 };
/// Most connections kept; above it those that nobody uses go.
const CONNECTIONS_MAX: usize = 256;

/// A replica restarts under a new epoch, perhaps at the same address: that is another connection.
type Key = (SocketAddr, Epoch);
type Slot = Arc<OnceCell<Connection>>;

/// Dispatch over `transport`.
#[derive(Debug)]
pub(super) struct QuicDispatch {
    endpoint: Endpoint,
    connections: Mutex<HashMap<Key, Slot>>,
}

impl QuicDispatch {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, connections: Mutex::new(HashMap::new()) }
    }

    /// The connection to a replica's rank 0; requests that come while it is being made share it.
    async fn connection(&self, replica: &ReadyReplica, deadline: Instant) -> Result<(Key, Connection), DispatchError> {
        let addr = replica.leader.serve().map_err(|reason| DispatchError::Unreachable { reason })?;
        let key = (addr, replica.epoch);
        let slot = self.slot(key);
        let expect = Expect::named(Role::Node, replica.leader.node.clone());
        let connecting_until = deadline.min(Instant::now() + CONNECT_TIMEOUT);
        let made = slot.get_or_try_init(|| self.endpoint.connect(addr, expect, connecting_until)).await;
        match made {
            Ok(connection) => Ok((key, connection.clone())),
            Err(e) => Err(DispatchError::Unreachable { reason: e.to_string() }),
        }
    }

    fn slot(&self, key: Key) -> Slot {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if connections.get(&key).is_some_and(|slot| slot.get().is_some_and(Connection::is_closed)) {
            connections.remove(&key);
        }
        if connections.len() >= CONNECTIONS_MAX {
            connections.retain(|_, slot| Arc::strong_count(slot) > 1 && !slot.get().is_some_and(Connection::is_closed));
        }
        connections.entry(key).or_default().clone()
    }

    /// Forgets a connection that failed; streams that still run on it keep it.
    fn forget(&self, key: Key) {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }
}

#[async_trait]
impl Dispatch for QuicDispatch {
    async fn open(
        &self,
        replica: &ReadyReplica,
        request: &GenerateRequest,
        pictures: &[Picture],
        deadline: Instant,
    ) -> Result<Box<dyn Events>, DispatchError> {
        let (key, connection) = self.connection(replica, deadline).await?;
        let opened = async {
            let (mut send, recv) = connection.open(deadline).await?;
            send.send(replica.epoch, request, deadline).await?;
            for picture in pictures {
                match send.send(replica.epoch, picture, deadline).await {
                    Ok(()) => {}
                    // It has read enough to say why not: its refusal is the first that comes back.
                    Err(StreamError::Stopped { .. }) => break,
                    Err(error) => return Err(error),
                }
            }
            Ok::<_, StreamError>((send, recv))
        };
        match alive_while(&connection, replica.epoch, opened).await? {
            Ok((send, recv)) => {
                let running = request.choices.iter().map(|c| c.index).collect();
                Ok(Box::new(QuicEvents { connection, send, recv, epoch: replica.epoch, running }))
            }
            Err(e) => {
                self.forget(key);
                // The request has not arrived whole, so the replica has not begun with it.
                Err(DispatchError::Unreachable { reason: e.to_string() })
            }
        }
    }

    async fn reach(&self, replica: &ReadyReplica, deadline: Instant) -> Result<(), DispatchError> {
        let (key, connection) = self.connection(replica, deadline).await?;
        match connection.call::<Ping, Ping>(replica.epoch, &HEALTH, deadline).await {
            Ok(_) => Ok(()),
            // Of another epoch, or not serving yet.
            Err(CallError::Refused(refusal)) => Err(refused(refusal)),
            Err(error) => {
                // Another process may listen there by now, which only a new connection finds. Streams on this one find out
                // for themselves.
                self.forget(key);
                Err(DispatchError::Unreachable { reason: error.to_string() })
            }
        }
    }
}

struct QuicEvents {
    connection: Connection,
    /// Stays open while the request runs: dropped, it resets the stream, which is what cancels.
    send: SendStream,
    recv: RecvStream,
    epoch: Epoch,
    /// Choices whose end nobody has told.
    running: BTreeSet<u16>,
}

#[async_trait]
impl Events for QuicEvents {
    async fn next(&mut self, deadline: Instant) -> Result<GenerateEvent, DispatchError> {
        let event = self.recv.recv_message::<GenerateEvent>(self.epoch, Deadline::at(deadline));
        let event = alive_while(&self.connection, self.epoch, event).await?.map_err(failed)?;
        match &event {
            GenerateEvent::Finished { choice, .. } => drop(self.running.remove(choice)),
            GenerateEvent::Failed { .. } => self.running.clear(),
            GenerateEvent::Started { .. } | GenerateEvent::Prompt(_) | GenerateEvent::Tokens { .. } => {}
        }
        if self.running.is_empty() {
            // Fails only where the replica has closed its half of the request already.
            let _ = self.send.finish();
        }
        Ok(event)
    }

    async fn end_choice(&mut self, choice: u16, deadline: Instant) {
        self.running.remove(&choice);
        let until = deadline.min(Instant::now() + END_CHOICE_TIMEOUT);
        if let Err(error) = self.send.send(self.epoch, &EndChoice { index: choice }, until).await {
            tracing::debug!(choice, %error, "the replica was not told that a choice has ended");
        }
    }
}

/// Does `work`, which waits for the replica to read, for as long as that shows signs of life.
async fn alive_while<T>(
    connection: &Connection,
    epoch: Epoch,
    work: impl Future<Output = T>,
) -> Result<T, DispatchError> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = work.as_mut() => return Ok(done),
            alive = alive_after_silence(connection, epoch) => alive?,
        }
    }
}

/// Lets a silence pass, then asks the replica for a sign of life; a refusal is one too. A connection without one is
/// closed, which tells every request on it.
async fn alive_after_silence(connection: &Connection, epoch: Epoch) -> Result<(), DispatchError> {
    tokio::time::sleep(SILENCE).await;
    match connection.call::<Ping, Ping>(epoch, &WAITING, PROBE_TIMEOUT).await {
        Ok(_) | Err(CallError::Refused(_) | CallError::Stream(_)) => Ok(()),
        Err(CallError::Lost(lost)) => Err(DispatchError::Lost { reason: format!("connection lost: {lost}") }),
        Err(CallError::Deadline { .. }) => {
            connection.close("no sign of life");
            Err(DispatchError::Lost { reason: format!("no sign of life within {PROBE_TIMEOUT:?}") })
        }
    }
}

fn failed(error: StreamError) -> DispatchError {
    match error {
        StreamError::Refused(refusal) => refused(refusal),
        StreamError::Deadline { .. } => DispatchError::Deadline,
        other => DispatchError::Lost { reason: other.to_string() },
    }
}

fn refused(refusal: Refusal) -> DispatchError {
    let reason = refusal.to_string();
    match refusal.code {
        RefusalCode::Overloaded { retry_after_ms } => {
            let retry = (retry_after_ms > 0).then(|| Duration::from_millis(retry_after_ms.into()));
            DispatchError::Busy { reason, retry }
        }
        RefusalCode::Draining | RefusalCode::WrongEpoch | RefusalCode::NotLeader => {
            DispatchError::Busy { reason, retry: None }
        }
        RefusalCode::BadRequest => DispatchError::BadRequest { reason: refusal.detail },
        RefusalCode::Forbidden => DispatchError::Refused { reason },
        RefusalCode::Internal => DispatchError::Lost { reason },
    }
}
