//! Rank 0's step loop: take requests in, plan a step, tell the others, compute, sample, hand tokens out, again.
//!
//! ```text
//!  submissions ─▶ ┌ inbox ─ forget abandoned ─ look ─ schedule ─┬─ plan ─▶ ranks ─ compute ─ sample ─ complete ┐ ─▶ replies
//!                 └─────────────────────────────────────────────┴─ nothing to do: sleep until a command ───────┘
//! ```
//! Not here: sockets, deadlines (they and lost clients show as a dropped reply channel; a lost rank as an error of the
//! group), decisions (the engine). What the engine has no clock for is measured here.
//! Invariants: a choice that nobody wants is not in the next step and its blocks are free; every submission gets exactly
//! one reply that ends it, unless its receiver is gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::SeqId;
use protocol::frame::{Refusal, RefusalCode};
use protocol::generate::{FinishReason, GenerateRequest, TokenOutput};
use protocol::picture::PictureWork;
use protocol::step::{LogitsWanted, StepPlan};
use sharding::layers::{Logits, LogitsRow};
use tokio::sync::mpsc;

use super::allowance::Allowance;
use super::canary::Canary;
use super::compute::Order;
use super::fault::StepFault;
use super::gauge::Gauge;
use super::group::{LeadingGroup, Ranks};
use super::model::StepModel;
use super::pace::Pace;
use super::picture_desk::{Applicant, PictureDesk};
use super::planner::Planner;
use super::requests::{Request, Requests, Scored};
use super::step_cost::StepCost;
use super::submission::{Reply, SUBMISSIONS_MAX, Submission};
use crate::engine::{Admission, AdmitError, Draft, NewRequest, Progress, PromptRows, Sample, Scheduler, Started, Step};
use crate::sampler::{SampleError, Sampler, Scratch, prompt_logprobs};

/// Where the step loop's commands come from.
pub(super) struct Inbox {
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) submissions: mpsc::Receiver<Submission>,
}

enum Command {
    Submit(Box<Submission>),
    Drain,
}

impl Inbox {
    /// The next command, waiting for it. A control thread that is gone means drain.
    async fn next(&mut self) -> Command {
        loop {
            tokio::select! {
                biased;
                order = self.orders.recv() => match order {
                    Some(Order::Drain) | None => return Command::Drain,
                    Some(Order::Connect(_) | Order::Serve) => {}
                },
                Some(submission) = self.submissions.recv() => return Command::Submit(Box::new(submission)),
            }
        }
    }

    /// The next command if there is one.
    fn poll(&mut self) -> Option<Command> {
        match self.orders.try_recv() {
            Ok(Order::Drain) | Err(mpsc::error::TryRecvError::Disconnected) => return Some(Command::Drain),
            Ok(Order::Connect(_) | Order::Serve) | Err(mpsc::error::TryRecvError::Empty) => {}
        }
        self.submissions.try_recv().ok().map(|submission| Command::Submit(Box::new(submission)))
    }
}

/// After a step as long as this the next one is planned while this one computes: the hand-over to another thread costs what
/// it hides, and only here is that nothing (docs/design/0002-the-engine.md).
pub(super) const PLAN_AHEAD_MIN: Duration = Duration::from_millis(20);

/// How long the other ranks have to take the plan that ends the group.
const END_WAIT: Duration = Duration::from_secs(4);

/// What decides in a step loop, and by which measures.
pub(super) struct Engine {
    /// Empty.
    pub(super) scheduler: Scheduler,
    /// For a model that sees.
    pub(super) pictures: Option<PictureDesk>,
    /// After a step as long as this the one after the next is planned while that computes.
    pub(super) plan_ahead_min: Duration,
    /// What steps cost, by which their deadlines are measured.
    pub(super) cost: StepCost,
    /// `None`: no step is taken that nobody asked for.
    pub(super) canary: Option<Canary>,
}

/// Rank 0's step loop.
pub(super) struct Leader<G, M> {
    group: G,
    model: M,
    planner: Planner,
    pictures: Option<PictureDesk>,
    cost: StepCost,
    allowance: Allowance,
    canary: Option<Canary>,
    /// Canaries so far: they are steps of the group, and not of the scheduler.
    canaries: u64,
    scratch: Scratch,
    requests: Requests,
    inbox: Inbox,
    gauge: Arc<Gauge>,
    pace: Pace,
    /// What is planned of the next step.
    draft: Draft,
    plan_ahead_min: Duration,
    /// How long the last step took.
    last_step: Duration,
    draining: bool,
}

impl<G: LeadingGroup, M: StepModel> Leader<G, M> {
    /// A loop around an empty engine.
    pub(super) fn new(group: G, model: M, engine: Engine, inbox: Inbox, gauge: Arc<Gauge>) -> Self {
        let Engine { scheduler, pictures, plan_ahead_min, cost, canary } = engine;
        let mut leader = Self {
            group,
            model,
            planner: Planner::new(scheduler),
            pictures,
            cost,
            allowance: Allowance::default(),
            canary,
            canaries: 0,
            scratch: Scratch::default(),
            requests: Requests::default(),
            inbox,
            gauge,
            pace: Pace::default(),
            draft: Draft::default(),
            plan_ahead_min,
            last_step: Duration::ZERO,
            draining: false,
        };
        leader.publish();
        leader
    }

    /// Steps until drained. On a fault every request in it is told that it may be resumed elsewhere.
    ///
    /// # Errors
    /// [`StepFault`]: the group has to be formed anew.
    pub(super) fn run(mut self) -> Result<(), StepFault> {
        let outcome = self.serve();
        if let Err(fault) = &outcome {
            self.requests.fail_all(&fault.to_string());
            self.pictures.iter().for_each(|desk| desk.fail_all(&fault.to_string()));
        }
        outcome
    }

    fn serve(&mut self) -> Result<(), StepFault> {
        loop {
            self.take_commands();
            self.forget_abandoned();
            self.prove_if_due()?;
            let pictures = self.look();
            let draft = std::mem::take(&mut self.draft);
            let scheduler = self.planner.scheduler();
            let step = scheduler.schedule(draft);
            if let Some(mut step) = step.or_else(|| (!pictures.is_empty()).then(|| scheduler.empty_step())) {
                step.plan.pictures = pictures;
                self.narrow(&mut step);
                step.plan.step += self.canaries;
                self.step(&mut step)?;
                self.publish();
                continue;
            }
            self.publish();
            if self.draining {
                return self.end_group();
            }
            let until = self.canary.as_ref().map(Canary::due);
            if let Some(command) = self.group.idle(self.inbox.next(), until)? {
                self.apply(command);
            }
        }
    }

    /// Tells the other ranks that no step follows.
    fn end_group(&mut self) -> Result<(), StepFault> {
        let step = self.next_step();
        self.group.set_step_deadline(END_WAIT.into());
        self.group.send_plan(&StepPlan::last(step)).map_err(|source| StepFault::Plan { step, source })
    }

    /// The number of the group's next step, where the scheduler plans none.
    fn next_step(&mut self) -> u64 {
        self.planner.scheduler().counts().steps + self.canaries + 1
    }

    /// Has all ranks answer where no step has had them for a while. Steps for pictures alone have nobody answer.
    fn prove_if_due(&mut self) -> Result<(), StepFault> {
        let Some(canary) = self.canary.as_ref().filter(|c| Instant::now() >= c.due() && !self.draining) else {
            return Ok(());
        };
        let (began, canary) = (Instant::now(), canary.clone());
        let mut plan = canary.plan(self.next_step());
        self.canaries += 1;
        self.begin(&mut plan, began)?;
        let logits = self.model.step(&mut Ranks(&mut self.group), &plan);
        let logits = logits.map_err(|source| StepFault::Model { step: plan.step, source })?;
        let now = Instant::now();
        self.computed(&plan, began, now);
        let found = logits.map_or(0, |l| l.rows.len());
        if found != 1 {
            return Err(StepFault::Logits { step: plan.step, wanted: 1, found });
        }
        self.gauge.progress().end_leading(now);
        self.canary.iter_mut().for_each(|canary| canary.sang(now - began, now));
        Ok(())
    }

    /// Has every rank begin a step, and says by when it must be over.
    fn begin(&mut self, plan: &mut StepPlan, now: Instant) -> Result<(), StepFault> {
        let allowed = self.allowance.of(self.cost.work(plan));
        plan.within_ms = u32::try_from(allowed.as_millis()).unwrap_or(u32::MAX);
        self.gauge.progress().begin(plan.step, allowed, now);
        self.group.set_step_deadline((now + allowed).into());
        self.group.send_plan(plan).map_err(|source| StepFault::Plan { step: plan.step, source })
    }

    /// A step's forward pass is over.
    fn computed(&mut self, plan: &StepPlan, began: Instant, now: Instant) {
        self.allowance.record(self.cost.work(plan), now - began);
        if !plan.seqs.is_empty() {
            self.gauge.progress().prove(now);
            self.canary.iter_mut().for_each(|canary| canary.proved(now));
        }
    }

    fn publish(&mut self) {
        self.gauge.publish(self.planner.scheduler(), self.pictures.as_ref(), self.requests.stats());
    }

    fn forget_abandoned(&mut self) {
        for seq in self.requests.take_abandoned() {
            self.planner.scheduler().cancel(seq);
        }
        for choices in self.pictures.iter_mut().flat_map(PictureDesk::forget_abandoned) {
            self.requests.count_abandoned(choices);
        }
    }

    /// What the next step does for pictures; who has all of its own then is handed to the scheduler.
    fn look(&mut self) -> PictureWork {
        let Some(desk) = &mut self.pictures else { return PictureWork::default() };
        let (work, seeing) = desk.plan(!self.planner.scheduler().is_idle());
        for applicant in seeing {
            self.enter(applicant);
        }
        work
    }

    fn take_commands(&mut self) {
        for _ in 0..SUBMISSIONS_MAX {
            match self.inbox.poll() {
                Some(command) => self.apply(command),
                None => return,
            }
        }
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Drain => self.draining = true,
            Command::Submit(submission) => self.admit(*submission),
        }
    }

    fn admit(&mut self, submission: Submission) {
        let Submission { request, pictures, constraints, replies, ended } = submission;
        let GenerateRequest { request_id, prompt_ids, choices, sampling, priority, cache_salt, .. } = request;
        let new = NewRequest {
            prompt: prompt_ids,
            pictures: Arc::default(),
            choices: choices.iter().map(|c| c.resume.clone()).collect(),
            max_tokens: sampling.max_tokens,
            min_tokens: sampling.min_tokens,
            stop_ids: sampling.stop_token_ids.clone(),
            priority,
            cache_salt,
            prompt_logits: sampling.prompt_logprobs.is_some(),
        };
        let mut request = Request::new(request_id, (replies, ended), new.prompt.len(), Instant::now());
        request.scored = sampling.prompt_logprobs.map(|top| Scored { ids: new.prompt.clone(), top });
        if self.draining {
            let detail = "the replica is draining".to_owned();
            return request.reply(Reply::Refused(Refusal { code: RefusalCode::Draining, detail }));
        }
        let elsewhere = self.pictures.as_ref().map(PictureDesk::demand).unwrap_or_default();
        if let Err(e) = self.planner.scheduler().check(&new, elsewhere) {
            let refusal = Refusal { code: self.refusal_code(e), detail: e.to_string() };
            return request.reply(Reply::Refused(refusal));
        }
        let demand = new.demand(self.planner.scheduler().limits().context_tokens());
        let places = pictures.iter().map(|picture| picture.place).collect();
        let applicant = Applicant { request, new, places, choices, sampling, constraints, demand };
        if pictures.is_empty() || demand.sequences == 0 {
            return self.enter(applicant);
        }
        let Some(desk) = &mut self.pictures else {
            let detail = "the model reads text alone".to_owned();
            return applicant.request.reply(Reply::Refused(Refusal { code: RefusalCode::BadRequest, detail }));
        };
        if let Err((applicant, e)) = desk.take(applicant, pictures) {
            let refusal = Refusal { code: RefusalCode::BadRequest, detail: e.to_string() };
            applicant.request.reply(Reply::Refused(refusal));
        }
    }

    /// Hands a request that there is room for to the scheduler.
    fn enter(&mut self, applicant: Applicant) {
        let Applicant { request, new, choices, sampling, constraints, .. } = applicant;
        let (request_id, waited_ms) = (request.request_id, request.arrived.elapsed().as_millis());
        let admissions = self.planner.scheduler().enter(&new);
        let mut queued = Vec::with_capacity(choices.len());
        let mut constraints = constraints.into_iter();
        for (choice, admission) in choices.into_iter().zip(admissions) {
            let constraint = constraints.next();
            match admission {
                Admission::Finished(reason) => request.reply(Reply::Finished { choice: choice.index, reason }),
                Admission::Queued(seq) => {
                    tracing::debug!(%request_id, choice = choice.index, seq = seq.0, waited_ms, "choice queued");
                    let sampler = Sampler::new(sampling.clone(), choice.index, &new.prompt, &choice.resume)
                        .constrained(constraint);
                    if sampler.is_complete() {
                        self.planner.scheduler().cancel(seq);
                        request.reply(Reply::Finished { choice: choice.index, reason: FinishReason::Stop });
                        continue;
                    }
                    queued.push((seq, choice.index, sampler));
                }
            }
        }
        self.requests.insert(request, queued);
    }

    fn refusal_code(&mut self, e: AdmitError) -> RefusalCode {
        match e {
            AdmitError::QueueFull { .. } | AdmitError::QueueTokens { .. } => {
                let tokens = self.planner.scheduler().tokens_ahead();
                RefusalCode::Overloaded { retry_after_ms: self.pace.ms_for(tokens) }
            }
            AdmitError::TooLong { .. } | AdmitError::Empty => RefusalCode::BadRequest,
        }
    }

    /// Has no more of a row sent than those who sample from it need.
    fn narrow(&mut self, step: &mut Step) {
        let mut last = None;
        for Sample { entry, seq, .. } in &step.samples {
            let logits = &mut step.plan.seqs[*entry].logits;
            let Some(sampler) = self.requests.sampler(*seq).filter(|_| *logits != LogitsWanted::All) else { continue };
            // Choices of one prompt share their first row: it must do for each.
            let shared = last.replace(*entry) == Some(*entry);
            *logits = match (sampler.wanted(), *logits) {
                (LogitsWanted::Best { k }, LogitsWanted::Best { k: other }) if shared => {
                    LogitsWanted::Best { k: k.max(other) }
                }
                (_, LogitsWanted::Last) if shared => LogitsWanted::Last,
                (wanted, _) => wanted,
            };
        }
    }

    fn step(&mut self, step: &mut Step) -> Result<(), StepFault> {
        let (number, began) = (step.plan.step, Instant::now());
        for Started { seq, cached_tokens } in &step.started {
            self.requests.start(*seq, *cached_tokens, began);
        }
        self.begin(&mut step.plan, began)?;
        let (model, group) = (&mut self.model, &mut self.group);
        let compute = || model.step(&mut Ranks(group), &step.plan);
        let (logits, draft) = self.planner.during(self.last_step >= self.plan_ahead_min, compute);
        let logits = logits.map_err(|source| StepFault::Model { step: number, source })?;
        self.computed(&step.plan, began, Instant::now());
        if let (Some(desk), Some(work)) = (&mut self.pictures, self.model.tower_work()) {
            desk.record(work);
        }
        let sampled = self.sample(step, logits.as_ref())?;
        let now = Instant::now();
        for Progress { seq, finished } in self.planner.scheduler().complete(&sampled) {
            let complete = self.requests.sampler(seq).is_some_and(|sampler| sampler.is_complete());
            if complete && finished.is_none() {
                self.planner.scheduler().cancel(seq);
            }
            let reason = if complete { Some(FinishReason::Stop) } else { finished };
            if let Some(reason) = reason {
                self.requests.finish(seq, reason, now);
            }
        }
        self.draft = draft;
        self.last_step = now - began;
        self.gauge.progress().end_leading(now);
        if !step.plan.seqs.is_empty() {
            self.pace.record(step.plan.num_tokens(), self.last_step);
        }
        Ok(())
    }

    /// Chooses a token for each choice that samples, and sends it off.
    fn sample(&mut self, step: &Step, logits: Option<&Logits>) -> Result<Vec<(SeqId, u32)>, StepFault> {
        let wanted = step.num_rows();
        let rows = logits.map_or(&[][..], |l| l.rows.as_slice());
        if rows.len() != wanted {
            return Err(StepFault::Logits { step: step.plan.step, wanted, found: rows.len() });
        }
        for PromptRows { seq, rows: of_prompt, from } in &step.prompts {
            self.score_prompt(*seq, &rows[of_prompt.clone()], *from);
        }
        let mut sampled = Vec::with_capacity(step.samples.len());
        for Sample { row, seq, .. } in &step.samples {
            let Some(sampler) = self.requests.sampler(*seq) else { continue };
            match sampler.choose(&rows[*row], &mut self.scratch) {
                Ok(choice) => {
                    let token = TokenOutput { id: choice.id, logprobs: choice.logprobs };
                    self.requests.token(*seq, token, Instant::now());
                    sampled.push((*seq, choice.id));
                }
                Err(e) => self.fail(*seq, &e),
            }
        }
        Ok(sampled)
    }

    /// Sends off the logprobs of prompt tokens: `rows` are those after the token at `from` and its followers.
    fn score_prompt(&mut self, seq: SeqId, rows: &[LogitsRow], from: usize) {
        let Some((request, scored)) = self.requests.scored(seq) else { return };
        let ids = scored.ids.get(from + 1..).unwrap_or_default();
        match prompt_logprobs(rows, ids, scored.top, from as u64 + 1, &mut self.scratch) {
            Ok(logprobs) => request.reply(Reply::Prompt(logprobs)),
            Err(e) => self.fail(seq, &e),
        }
    }

    fn fail(&mut self, seq: SeqId, error: &SampleError) {
        for seq in self.requests.fail(seq, error.to_string()) {
            self.planner.scheduler().cancel(seq);
        }
    }
}

#[cfg(test)]
#[path = "leader_tests.rs"]
mod tests;
