//! Rank 0's step loop: take requests in, plan a step, tell the others, compute, sample, hand tokens out, again.
//!
//! ```text
//!  submissions ─▶ ┌ inbox ─ forget cancelled ─ schedule ─┬─ plan ─▶ ranks ─ compute ─ sample ─ complete ┐ ─▶ replies
//!                 └──────────────────────────────────────┴─ nothing to do: sleep until a command ──────┘
//! ```
//! Not here: sockets, clocks. Deadlines and lost clients show as a dropped reply channel; a lost rank as an error of
//! the group.
//! Invariants: a sequence whose receiver is gone is not in the next step and its blocks are free; every submission
//! gets exactly one reply that ends it, unless its receiver is gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::frame::{Refusal, RefusalCode};
use protocol::generate::{Choice, GenerateRequest, TokenOutput};
use protocol::step::{LogitsWanted, StepPlan};
use protocol::{RequestId, SeqId};
use sharding::layers::Logits;
use tokio::sync::mpsc;

use super::compute::Order;
use super::fault::StepFault;
use super::gauge::Gauge;
use super::group::{LeadingGroup, Ranks};
use super::model::StepModel;
use super::submission::{Reply, SUBMISSIONS_MAX, Submission};
use crate::engine::{Admission, AdmitError, EngineLimits, NewSequence, Scheduler};
use crate::sampler::{Sampler, Scratch};

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
        self.submissions.try_recv().ok().map(|s| Command::Submit(Box::new(s)))
    }
}

/// A request that is in the scheduler.
struct Active {
    request_id: RequestId,
    sampler: Sampler,
    replies: mpsc::Sender<Reply>,
}

impl Active {
    /// Never full: the channel has room for all replies (`Submission::new`). Closed: the next pass forgets it.
    fn reply(&self, reply: Reply) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.replies.try_send(reply) {
            tracing::error!(request_id = %self.request_id, "a reply channel is full");
        }
    }
}

/// Rank 0's step loop.
pub(super) struct Leader<G, M> {
    group: G,
    model: M,
    scheduler: Scheduler,
    scratch: Scratch,
    active: BTreeMap<SeqId, Active>,
    inbox: Inbox,
    gauge: Arc<Gauge>,
    draining: bool,
}

impl<G: LeadingGroup, M: StepModel> Leader<G, M> {
    pub(super) fn new(group: G, model: M, limits: EngineLimits, inbox: Inbox, gauge: Arc<Gauge>) -> Self {
        let scheduler = Scheduler::new(limits);
        gauge.publish(&scheduler);
        let (scratch, active) = (Scratch::default(), BTreeMap::new());
        Self { group, model, scheduler, scratch, active, inbox, gauge, draining: false }
    }

    /// Steps until drained. On a fault every request in it is told that it may be resumed elsewhere.
    ///
    /// # Errors
    /// [`StepFault`]: the group has to be formed anew.
    pub(super) fn run(mut self) -> Result<(), StepFault> {
        let outcome = self.serve();
        if let Err(fault) = &outcome {
            let reason = fault.to_string();
            for active in self.active.values() {
                active.reply(Reply::Failed { reason: reason.clone(), retryable: true });
            }
        }
        outcome
    }

    fn serve(&mut self) -> Result<(), StepFault> {
        loop {
            self.take_commands();
            self.forget_cancelled();
            if let Some(mut plan) = self.scheduler.schedule() {
                self.narrow(&mut plan);
                self.step(&plan)?;
                self.gauge.publish(&self.scheduler);
                continue;
            }
            self.gauge.publish(&self.scheduler);
            if self.draining {
                return self.end_group();
            }
            let command = self.group.idle(self.inbox.next())?;
            self.apply(command);
        }
    }

    /// Tells the other ranks that no step follows.
    fn end_group(&mut self) -> Result<(), StepFault> {
        let step = self.scheduler.steps() + 1;
        self.group
            .send_plan(&StepPlan { step, copies: Vec::new(), seqs: Vec::new() })
            .map_err(|source| StepFault::Plan { step, source })
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
        let Submission { request, replies } = submission;
        let GenerateRequest { request_id, prompt_ids, mut choices, sampling, .. } = request;
        let Choice { index, resume } = choices.swap_remove(0);
        let sampler = Sampler::new(sampling.clone(), index, &prompt_ids, &resume);
        let active = Active { request_id, sampler, replies };
        if self.draining {
            let detail = "the replica is draining".to_owned();
            return active.reply(Reply::Refused(Refusal { code: RefusalCode::Draining, detail }));
        }
        let admission = self.scheduler.add(NewSequence {
            prompt: prompt_ids,
            resume,
            max_tokens: sampling.max_tokens,
            min_tokens: sampling.min_tokens,
            stop_ids: sampling.stop_token_ids,
        });
        match admission {
            Ok(Admission::Queued(seq)) => {
                tracing::debug!(%request_id, seq = seq.0, "request queued");
                self.active.insert(seq, active);
            }
            Ok(Admission::Finished(reason)) => active.reply(Reply::Finished(reason)),
            Err(e) => active.reply(Reply::Refused(Refusal { code: refusal_code(e), detail: e.to_string() })),
        }
    }

    fn forget_cancelled(&mut self) {
        let scheduler = &mut self.scheduler;
        self.active.retain(|seq, active| {
            let cancelled = active.replies.is_closed();
            if cancelled {
                scheduler.cancel(*seq);
                tracing::debug!(request_id = %active.request_id, seq = seq.0, "request cancelled");
            }
            !cancelled
        });
    }

    /// Has no more of a row sent than its sampler needs.
    fn narrow(&self, plan: &mut StepPlan) {
        for seq in plan.seqs.iter_mut().filter(|s| s.logits == LogitsWanted::Last) {
            if let Some(active) = self.active.get(&seq.seq) {
                seq.logits = active.sampler.wanted();
            }
        }
    }

    fn step(&mut self, plan: &StepPlan) -> Result<(), StepFault> {
        let step = plan.step;
        self.group.send_plan(plan).map_err(|source| StepFault::Plan { step, source })?;
        let logits = self.model.step(&mut Ranks(&mut self.group), plan);
        let logits = logits.map_err(|source| StepFault::Model { step, source })?;
        let sampled = self.sample(plan, logits.as_ref())?;
        for progress in self.scheduler.complete(&sampled) {
            if let Some(reason) = progress.finished
                && let Some(active) = self.active.remove(&progress.seq)
            {
                active.reply(Reply::Finished(reason));
            }
        }
        Ok(())
    }

    /// Chooses a token for each sequence that wanted logits, and sends it off.
    fn sample(&mut self, plan: &StepPlan, logits: Option<&Logits>) -> Result<Vec<(SeqId, u32)>, StepFault> {
        let wanting: Vec<SeqId> = plan.seqs.iter().filter(|s| s.logits != LogitsWanted::None).map(|s| s.seq).collect();
        let rows = logits.map_or(&[][..], |l| l.rows.as_slice());
        if rows.len() != wanting.len() {
            return Err(StepFault::Logits { step: plan.step, wanted: wanting.len(), found: rows.len() });
        }
        let mut sampled = Vec::with_capacity(wanting.len());
        for (seq, row) in wanting.into_iter().zip(rows) {
            let Some(active) = self.active.get_mut(&seq) else { continue };
            match active.sampler.choose(row, &mut self.scratch) {
                Ok(choice) => {
                    active.reply(Reply::Token(TokenOutput { id: choice.id, logprobs: choice.logprobs }));
                    sampled.push((seq, choice.id));
                }
                Err(e) => {
                    tracing::error!(request_id = %active.request_id, error = %e, "no token could be sampled");
                    active.reply(Reply::Failed { reason: e.to_string(), retryable: false });
                    self.active.remove(&seq);
                    self.scheduler.cancel(seq);
                }
            }
        }
        Ok(sampled)
    }
}

fn refusal_code(e: AdmitError) -> RefusalCode {
    match e {
        AdmitError::QueueFull { .. } => RefusalCode::Overloaded { retry_after_ms: 0 },
        AdmitError::TooLong { .. } | AdmitError::Empty => RefusalCode::BadRequest,
    }
}

#[cfg(test)]
#[path = "leader_tests.rs"]
mod tests;
