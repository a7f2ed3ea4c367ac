//! A replica in threads, for tests: rank 0's step loop and its followers over [`LocalCollective`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use protocol::generate::{Choice, FinishReason, GenerateRequest, Priority, SamplingParams, TokenOutput};
use protocol::step::{LogitsWanted, StepPlan};
use protocol::worker::EngineLoad;
use protocol::{ReplicaId, RequestId, WorldSize};
use sharding::VisionSpec;
use sharding::layers::{Group, Logits, LogitsRow};
use tokio::sync::mpsc;
use transport::{CollectiveError, LocalCollective};

use super::canary::Canary;
use super::compute::Order;
use super::constraints::constraints;
use super::fault::StepFault;
use super::follower::follow;
use super::gauge::Gauge;
use super::group::LeadingGroup;
use super::leader::{Engine, Inbox, Leader, PLAN_AHEAD_MIN};
use super::levels::Levels;
use super::model::{ModelError, StepModel};
use super::picture_desk::PictureDesk;
use super::step_cost::StepCost;
use super::submission::{EndedChoices, Reply, SUBMISSIONS_MAX, Submission};
use crate::engine::{EngineLimits, NewPicture, Scheduler};
use crate::grammar::Grammars;

/// Longest wait of any test.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

impl LeadingGroup for LocalCollective {
    fn idle<F: Future>(&mut self, command: F, until: Option<Instant>) -> Result<Option<F::Output>, CollectiveError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        Ok(runtime.block_on(async {
            match until {
                Some(until) => tokio::time::timeout_at(until.into(), command).await.ok(),
                None => Some(command.await),
            }
        }))
    }
}

/// A model whose next token is the last one plus one; with a peer's vote, so that every rank takes part in each step.
#[derive(Default)]
pub(super) struct Counting {
    /// Gives NaN after this token.
    pub(super) poison: Option<u32>,
    /// Panics in this step.
    pub(super) dies_in: Option<u64>,
    /// Does not come back from this step until the other end is dropped.
    pub(super) hangs_in: Option<(u64, std::sync::mpsc::Receiver<()>)>,
    /// The steps that it was asked for, and of how many sequences.
    pub(super) seen: Option<std::sync::mpsc::Sender<(u64, usize)>>,
}

pub(super) const COUNTING_VOCAB: u32 = 64;

impl StepModel for Counting {
    fn step(&mut self, group: &mut dyn Group, plan: &StepPlan) -> Result<Option<Logits>, ModelError> {
        assert_ne!(Some(plan.step), self.dies_in, "this rank dies as the test asks");
        if let Some(seen) = &self.seen {
            let _ = seen.send((plan.step, plan.seqs.len()));
        }
        if let Some((_, released)) = self.hangs_in.as_ref().filter(|(step, _)| *step == plan.step) {
            let _ = released.recv();
        }
        let world = usize::from(group.world_size().get());
        group.all_gather(&vec![1; world], &[1.0], &mut vec![0.0; world])?;
        let vocab = COUNTING_VOCAB as usize;
        let mut rows = Vec::new();
        for seq in plan.seqs.iter().filter(|s| s.logits != LogitsWanted::None) {
            let last = *seq.tokens.last().expect("a sequence brings a token");
            let mut row = vec![0.0; vocab];
            row[(last as usize + 1) % vocab] = if self.poison == Some(last) { f32::NAN } else { 1.0 };
            rows.push(LogitsRow::Whole(row));
        }
        Ok((group.rank().0 == 0).then_some(Logits { rows }))
    }
}

/// The replica and the ends that its control thread and front would hold.
pub(super) struct Rig {
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) gauge: Arc<Gauge>,
    submissions: mpsc::Sender<Submission>,
    context_tokens: u32,
    /// Of autoglm-nano.
    grammars: Grammars,
    leader: JoinHandle<Result<(), StepFault>>,
    followers: Vec<JoinHandle<Result<(), StepFault>>>,
    next_request: u8,
}

impl Rig {
    /// Starts one thread a model, in rank order.
    pub(super) fn start<M: StepModel + Send + 'static>(models: Vec<M>, limits: EngineLimits) -> Self {
        Self::start_seeing(models, limits, PLAN_AHEAD_MIN, None)
    }

    /// As [`Self::start`], planning each step while the one before it computes.
    pub(super) fn start_planning_ahead<M: StepModel + Send + 'static>(models: Vec<M>, limits: EngineLimits) -> Self {
        Self::start_seeing(models, limits, Duration::ZERO, None)
    }

    /// As [`Self::start`], of models with this tower that keep embeddings of as many tokens, planning ahead after steps of
    /// `plan_ahead_min`.
    pub(super) fn start_seeing<M: StepModel + Send + 'static>(
        models: Vec<M>,
        limits: EngineLimits,
        plan_ahead_min: Duration,
        vision: Option<(&VisionSpec, u32)>,
    ) -> Self {
        Self::start_with(models, limits, plan_ahead_min, vision, (StepCost::patient(), None))
    }

    /// As [`Self::start`], with canaries in `block` and deadlines by measurement.
    pub(super) fn start_watched<M: StepModel + Send + 'static>(
        models: Vec<M>,
        limits: EngineLimits,
        block: u32,
    ) -> Self {
        let canary = Canary::new(block, Instant::now());
        Self::start_with(models, limits, PLAN_AHEAD_MIN, None, (StepCost::uniform(1), Some(canary)))
    }

    pub(super) fn start_with<M: StepModel + Send + 'static>(
        models: Vec<M>,
        limits: EngineLimits,
        plan_ahead_min: Duration,
        vision: Option<(&VisionSpec, u32)>,
        (cost, canary): (StepCost, Option<Canary>),
    ) -> Self {
        let world = WorldSize::new(u16::try_from(models.len()).expect("few")).expect("a world size");
        let (orders, orders_rx) = mpsc::channel(8);
        let (submissions, submissions_rx) = mpsc::channel(SUBMISSIONS_MAX);
        let gauge = Arc::new(Gauge::default());
        let mut ranks = LocalCollective::group(world).into_iter().zip(models);
        let (group, model) = ranks.next().expect("a rank 0");
        let inbox = Inbox { orders: orders_rx, submissions: submissions_rx };
        let (context_tokens, leader_gauge) = (limits.context_tokens(), gauge.clone());
        let desk = |(vision, tokens_max)| PictureDesk::new(vision, world.get(), tokens_max);
        let scheduler = Scheduler::new(limits, "a digest");
        let engine = Engine { scheduler, pictures: vision.map(desk), plan_ahead_min, cost, canary };
        let leader = std::thread::spawn(move || Leader::new(group, model, engine, inbox, leader_gauge).run());
        let follower = |(mut group, mut model): (LocalCollective, M)| {
            std::thread::spawn(move || follow(&mut group, &mut model, &Gauge::default(), DEADLINE))
        };
        let followers = ranks.map(follower).collect();
        let nano = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/autoglm-nano");
        let grammars = Grammars::new(nano, 4096);
        Self { orders, gauge, submissions, context_tokens, grammars, leader, followers, next_request: 0 }
    }

    pub(super) fn submit(&mut self, prompt: &[u32], resume: &[u32], sampling: SamplingParams) -> Stream {
        let choices = vec![Choice { index: 0, resume: resume.to_vec() }];
        let request = GenerateRequest { choices, ..self.request(prompt, sampling) };
        self.send(request)
    }

    /// A fresh request of one choice.
    pub(super) fn request(&mut self, prompt: &[u32], sampling: SamplingParams) -> GenerateRequest {
        self.next_request = self.next_request.wrapping_add(1);
        GenerateRequest {
            request_id: RequestId::from_bytes([self.next_request; 16]),
            replica: ReplicaId(1),
            prompt_ids: prompt.to_vec(),
            pictures: Vec::new(),
            choices: vec![Choice::only()],
            sampling,
            priority: Priority::default(),
            cache_salt: String::new(),
            deadline_ms: 60_000,
        }
    }

    pub(super) fn send(&self, request: GenerateRequest) -> Stream {
        self.send_with(request, Vec::new())
    }

    /// With the pictures of its prompt.
    pub(super) fn send_with(&self, request: GenerateRequest, pictures: Vec<NewPicture<Levels>>) -> Stream {
        let SamplingParams { grammar, stop_token_ids, .. } = &request.sampling;
        let made = grammar.as_ref().map(|g| constraints(&self.grammars, g, &request.choices, stop_token_ids));
        let constraints = made.transpose().expect("a good grammar").unwrap_or_default();
        let (submission, replies) = Submission::new(request, pictures, constraints, self.context_tokens);
        let ended = submission.ended.clone();
        self.submissions.blocking_send(submission).expect("the step loop runs");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        Stream { replies, ended, runtime, cached_tokens: None }
    }

    /// Drains and joins every rank.
    pub(super) fn drain(self) {
        self.orders.blocking_send(Order::Drain).expect("the step loop runs");
        self.leader.join().expect("no panic").expect("drained");
        for follower in self.followers {
            follower.join().expect("no panic").expect("told that nothing follows");
        }
    }

    /// Joins rank 0 alone.
    pub(super) fn join_leader(self) -> Result<(), StepFault> {
        self.leader.join().expect("no panic")
    }

    /// Waits until the engine is empty, and says how many blocks are in use then.
    pub(super) fn settle(&self) -> u32 {
        self.wait_for(|load| load.running + load.waiting == 0).kv_blocks_used
    }

    /// Waits until the engine's load is as wanted; the load.
    pub(super) fn wait_for(&self, wanted: impl Fn(&EngineLoad) -> bool) -> EngineLoad {
        let until = Instant::now() + DEADLINE;
        loop {
            let load = self.gauge.load();
            if wanted(&load) {
                return load;
            }
            assert!(Instant::now() < until, "still {load:?}");
            std::thread::yield_now();
        }
    }
}

/// One request's replies.
pub(super) struct Stream {
    replies: mpsc::Receiver<Reply>,
    ended: Arc<EndedChoices>,
    runtime: tokio::runtime::Runtime,
    /// As said when it started.
    pub(super) cached_tokens: Option<u32>,
}

impl Stream {
    /// The next reply but the start.
    pub(super) fn next(&mut self) -> Reply {
        self.try_next().expect("a reply that ends the request")
    }

    /// As [`Self::next`]; `None` once the request has ended.
    pub(super) fn try_next(&mut self) -> Option<Reply> {
        loop {
            let next = async { tokio::time::timeout(DEADLINE, self.replies.recv()).await };
            match self.runtime.block_on(next).expect("a reply in time")? {
                Reply::Started { cached_tokens } => {
                    assert_eq!(self.cached_tokens.replace(cached_tokens), None, "a request starts once");
                }
                other => return Some(other),
            }
        }
    }

    /// Wants no more of a choice.
    pub(super) fn end(&self, choice: u16) {
        self.ended.end(choice);
    }

    /// All tokens of the only choice, up to its end.
    pub(super) fn finish(mut self) -> (Vec<u32>, FinishReason) {
        let (tokens, reason) = self.finish_all(1).remove(&0).expect("choice 0");
        (tokens.iter().map(|t| t.id).collect(), reason)
    }

    /// All tokens of each choice, until `ends` of them have ended.
    pub(super) fn finish_all(&mut self, ends: usize) -> BTreeMap<u16, (Vec<TokenOutput>, FinishReason)> {
        let mut tokens: BTreeMap<u16, Vec<TokenOutput>> = BTreeMap::new();
        let mut ended = BTreeMap::new();
        while ended.len() < ends {
            match self.next() {
                Reply::Token { choice, token } => tokens.entry(choice).or_default().push(token),
                Reply::Finished { choice, reason } => {
                    ended.insert(choice, (tokens.remove(&choice).unwrap_or_default(), reason));
                }
                other => panic!("after {tokens:?}: {other:?}"),
            }
        }
        ended
    }
}
