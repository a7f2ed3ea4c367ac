//! A replica that plays a list of events instead of a model.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use async_trait::async_trait;
use coordinator::gateway::dispatch::{Dispatch, DispatchError, Events};
use coordinator::view::ReadyReplica;
use protocol::ReplicaId;
use protocol::generate::{FinishReason, GenerateEvent, GenerateRequest, TokenLogprobs, TokenOutput};
use protocol::picture::Picture;
use tokio::sync::{mpsc, watch};

/// One thing that happens on a replica's stream.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// An event arrives.
    Event(GenerateEvent),
    /// The stream breaks.
    Break(DispatchError),
    /// Nothing happens any more.
    Hang,
}

/// Tokens, all in one event.
pub(crate) fn tokens(ids: &[u32]) -> Step {
    tokens_of(0, ids)
}

/// Tokens of one choice, all in one event.
pub(crate) fn tokens_of(choice: u16, ids: &[u32]) -> Step {
    let tokens = ids.iter().map(|id| TokenOutput { id: *id, logprobs: None }).collect();
    Step::Event(GenerateEvent::Tokens { choice, tokens })
}

/// The request has entered its first step.
pub(crate) fn started(cached_tokens: u32) -> Step {
    Step::Event(GenerateEvent::Started { cached_tokens })
}

/// Logprobs of the next prompt tokens.
pub(crate) fn prompt(logprobs: &[(f32, &[(u32, f32)])]) -> Step {
    let logprobs = logprobs.iter().map(|(chosen, top)| TokenLogprobs { chosen: *chosen, top: top.to_vec() });
    Step::Event(GenerateEvent::Prompt(logprobs.collect()))
}

/// One token with logprobs.
pub(crate) fn scored(id: u32, chosen: f32, top: &[(u32, f32)]) -> Step {
    let logprobs = Some(TokenLogprobs { chosen, top: top.to_vec() });
    Step::Event(GenerateEvent::Tokens { choice: 0, tokens: vec![TokenOutput { id, logprobs }] })
}

pub(crate) fn stop() -> Step {
    Step::Event(GenerateEvent::Finished { choice: 0, reason: FinishReason::Stop })
}

pub(crate) fn length() -> Step {
    length_of(0)
}

pub(crate) fn length_of(choice: u16) -> Step {
    Step::Event(GenerateEvent::Finished { choice, reason: FinishReason::Length })
}

/// What happens when a replica is asked.
pub(crate) type Script = Result<Vec<Step>, DispatchError>;

/// What every request is answered by.
enum Scripts {
    /// The front script, or the last one again and again.
    List(VecDeque<Script>),
    /// What this makes of it.
    By(Box<dyn FnMut(&GenerateRequest) -> Script + Send>),
}

/// Replicas that play.
pub(crate) struct Scripted {
    scripts: Mutex<Scripts>,
    requests: mpsc::Sender<(ReplicaId, GenerateRequest)>,
    pictures: mpsc::Sender<Vec<Picture>>,
    cancelled: watch::Sender<usize>,
    ended: mpsc::Sender<u16>,
    reachable: watch::Receiver<bool>,
}

/// What the replica saw.
pub(crate) struct Seen {
    pub(crate) requests: mpsc::Receiver<(ReplicaId, GenerateRequest)>,
    /// The levels that came with each request that has pictures.
    pub(crate) pictures: mpsc::Receiver<Vec<Picture>>,
    /// How many streams were dropped before their end.
    pub(crate) cancelled: watch::Receiver<usize>,
    /// Choices that the gateway ended.
    pub(crate) ended: mpsc::Receiver<u16>,
    /// Whether replicas can be reached; set by the test.
    pub(crate) reachable: watch::Sender<bool>,
}

impl Scripted {
    pub(crate) fn new(scripts: Vec<Script>) -> (Arc<Self>, Seen) {
        Self::over(Scripts::List(scripts.into()))
    }

    /// Each request is answered by what `script` makes of it.
    pub(crate) fn by(script: impl FnMut(&GenerateRequest) -> Script + Send + 'static) -> (Arc<Self>, Seen) {
        Self::over(Scripts::By(Box::new(script)))
    }

    fn over(scripts: Scripts) -> (Arc<Self>, Seen) {
        let (requests, seen_requests) = mpsc::channel(1024);
        let (pictures, seen_pictures) = mpsc::channel(64);
        let (cancelled, seen_cancelled) = watch::channel(0);
        let (ended, seen_ended) = mpsc::channel(1024);
        let (set_reachable, reachable) = watch::channel(true);
        let scripted = Self { scripts: Mutex::new(scripts), requests, pictures, cancelled, ended, reachable };
        let seen = Seen {
            requests: seen_requests,
            pictures: seen_pictures,
            cancelled: seen_cancelled,
            ended: seen_ended,
            reachable: set_reachable,
        };
        (Arc::new(scripted), seen)
    }
}

#[async_trait]
impl Dispatch for Scripted {
    async fn open(
        &self,
        replica: &ReadyReplica,
        request: &GenerateRequest,
        pictures: &[Picture],
        _: Instant,
    ) -> Result<Box<dyn Events>, DispatchError> {
        self.requests.try_send((replica.replica, request.clone())).expect("the test has room for it");
        if !pictures.is_empty() {
            self.pictures.try_send(pictures.to_vec()).expect("the test has room for it");
        }
        let script = {
            match &mut *self.scripts.lock().unwrap() {
                Scripts::List(scripts) if scripts.len() > 1 => scripts.pop_front().expect("there are more"),
                Scripts::List(scripts) => scripts.front().cloned().expect("a script"),
                Scripts::By(script) => script(request),
            }
        };
        let steps = script?;
        let running = request.choices.iter().map(|c| c.index).collect();
        let (cancelled, ended) = (Some(self.cancelled.clone()), self.ended.clone());
        Ok(Box::new(Playing { steps: steps.into(), running, cancelled, ended }))
    }

    async fn reach(&self, _: &ReadyReplica, _: Instant) -> Result<(), DispatchError> {
        let reason = "nobody listens".to_owned();
        if *self.reachable.borrow() { Ok(()) } else { Err(DispatchError::Unreachable { reason }) }
    }
}

struct Playing {
    steps: VecDeque<Step>,
    running: BTreeSet<u16>,
    /// Gone once the stream has ended by itself.
    cancelled: Option<watch::Sender<usize>>,
    ended: mpsc::Sender<u16>,
}

#[async_trait]
impl Events for Playing {
    async fn next(&mut self, _: Instant) -> Result<GenerateEvent, DispatchError> {
        match self.steps.pop_front() {
            Some(Step::Event(event)) => {
                match &event {
                    GenerateEvent::Finished { choice, .. } => drop(self.running.remove(choice)),
                    GenerateEvent::Failed { .. } => self.running.clear(),
                    _ => {}
                }
                if self.running.is_empty() {
                    self.cancelled = None;
                }
                Ok(event)
            }
            Some(Step::Break(error)) => {
                self.cancelled = None;
                Err(error)
            }
            Some(Step::Hang) | None => std::future::pending().await,
        }
    }

    async fn end_choice(&mut self, choice: u16, _: Instant) {
        self.running.remove(&choice);
        self.ended.try_send(choice).expect("the test has room for it");
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        if let Some(cancelled) = &self.cancelled {
            cancelled.send_modify(|n| *n += 1);
        }
    }
}
