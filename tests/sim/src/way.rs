//! A gateway's way to replicas, over the simulated network: each stream is asked for what comes next, again where the question
//! or its answer was lost, until nothing was heard for too long.
//!
//! Invariant: an event is handed out once and in order, as on a stream of QUIC.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use async_trait::async_trait;
use coordinator::gateway::dispatch::{Dispatch, DispatchError, Events};
use coordinator::view::ReadyReplica;
use node::agent::supervisor::RankKey;
use protocol::Rank;
use protocol::generate::{GenerateEvent, GenerateRequest};
use protocol::picture::Picture;
use tokio::time::Instant;

use crate::agent::host_of;
use crate::host::HostId;
use crate::message::{Answer, Request};
use crate::net::{CallFailed, Net};

/// How long one question may take.
const ASK_TIMEOUT: Duration = Duration::from_millis(1_000);
/// A replica that says nothing for so long is lost.
const SILENCE_MAX: Duration = Duration::from_millis(3_500);
/// Pause after a question that came to nothing at once.
const PAUSE: Duration = Duration::from_millis(50);

/// The ways of one coordinator's gateway.
#[derive(Debug, Clone)]
pub(crate) struct Ways {
    pub(crate) own: HostId,
    pub(crate) net: Net,
}

fn rank_0(replica: &ReadyReplica) -> RankKey {
    RankKey { replica: replica.replica, epoch: replica.epoch, rank: Rank(0) }
}

#[async_trait]
impl Dispatch for Ways {
    async fn open(
        &self,
        replica: &ReadyReplica,
        request: &GenerateRequest,
        _: &[Picture],
        _: std::time::Instant,
    ) -> Result<Box<dyn Events>, DispatchError> {
        let (key, to) = (rank_0(replica), host_of(&replica.leader.node));
        let asked = Request::Generate { key, request: Box::new(request.clone()) };
        match self.net.call(self.own, to, asked, SILENCE_MAX).await {
            Ok(Answer::Begun(Ok(stream))) => {
                let running = request.choices.iter().map(|c| c.index).collect();
                let (events, heard) = (VecDeque::new(), Instant::now());
                Ok(Box::new(Asking { ways: self.clone(), to, key, stream, taken: 0, events, running, heard }))
            }
            Ok(Answer::Begun(Err(reason))) => Err(DispatchError::Busy { reason, retry: None }),
            Ok(_) | Err(CallFailed::Down) => Err(DispatchError::Unreachable { reason: "it is down".to_owned() }),
            Err(CallFailed::Deadline) => Err(DispatchError::Unreachable { reason: "it is silent".to_owned() }),
        }
    }

    async fn reach(&self, replica: &ReadyReplica, _: std::time::Instant) -> Result<(), DispatchError> {
        let to = host_of(&replica.leader.node);
        match self.net.call(self.own, to, Request::Hello(rank_0(replica)), ASK_TIMEOUT).await {
            Ok(Answer::Hello(true)) => Ok(()),
            _ => Err(DispatchError::Unreachable { reason: "it does not answer".to_owned() }),
        }
    }
}

/// One stream.
struct Asking {
    ways: Ways,
    to: HostId,
    key: RankKey,
    stream: u64,
    /// How many events have come.
    taken: usize,
    /// Those that are still to be handed out.
    events: VecDeque<GenerateEvent>,
    /// Choices whose end was not handed out.
    running: BTreeSet<u16>,
    /// When the replica last said anything.
    heard: Instant,
}

#[async_trait]
impl Events for Asking {
    async fn next(&mut self, _: std::time::Instant) -> Result<GenerateEvent, DispatchError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                match &event {
                    GenerateEvent::Finished { choice, .. } => drop(self.running.remove(choice)),
                    GenerateEvent::Failed { .. } => self.running.clear(),
                    _ => {}
                }
                return Ok(event);
            }
            let asked = Request::Next { key: self.key, stream: self.stream, after: self.taken };
            match self.ways.net.call(self.ways.own, self.to, asked, ASK_TIMEOUT).await {
                Ok(Answer::Events(Some(events))) => {
                    self.heard = Instant::now();
                    self.taken += events.len();
                    self.events.extend(events);
                }
                Ok(_) => return Err(DispatchError::Lost { reason: "it knows of no such stream".to_owned() }),
                Err(_) if self.heard.elapsed() > SILENCE_MAX => {
                    return Err(DispatchError::Lost { reason: "no sign of life".to_owned() });
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn end_choice(&mut self, choice: u16, _: std::time::Instant) {
        self.running.remove(&choice);
        let asked = Request::EndChoice { key: self.key, stream: self.stream, choice };
        let _ = self.ways.net.call(self.ways.own, self.to, asked, ASK_TIMEOUT).await;
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        // A process that is being killed says nothing any more.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (ways, to, cancel) = (self.ways.clone(), self.to, Request::Cancel { key: self.key, stream: self.stream });
        runtime.spawn(async move { ways.net.call(ways.own, to, cancel, ASK_TIMEOUT).await });
    }
}
