//! Lets requests wait for the policy's decisions. All state is the policy's, behind one short lock; nothing waits under it.
//!
//! Invariant: a [`Waiting`] or [`Place`] that is dropped gives back what it holds, and whoever that makes room for goes on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::DeploymentSpec;
use protocol::generate::Priority;
use protocol::stats::Histogram;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::policy::{Bounds, Demand, Grant, No, Policy, Snapshot, Ticket};
use crate::runtime;
use crate::view::{ClusterView, Group, ReadyReplica};

/// The way in.
#[derive(Debug, Clone)]
pub(in crate::gateway) struct Gate {
    shared: Arc<Mutex<Shared>>,
    view: watch::Receiver<Arc<ClusterView>>,
}

#[derive(Debug)]
struct Shared {
    policy: Policy,
    /// The view that the policy knows.
    known: Arc<ClusterView>,
    /// Those who wait.
    waking: HashMap<Ticket, oneshot::Sender<Grant>>,
    waited: Histogram,
}

/// What waits, what is in flight, and how long the former took to become the latter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::gateway) struct GateStats {
    /// Prompts that wait.
    pub(in crate::gateway) waiting: u64,
    /// KV tokens that they will take up.
    pub(in crate::gateway) waiting_tokens: u64,
    /// Memory that they hold, bytes.
    pub(in crate::gateway) waiting_bytes: u64,
    /// Prompts at a replica.
    pub(in crate::gateway) in_flight: u64,
    /// How long prompts waited that were placed.
    pub(in crate::gateway) waited: Histogram,
}

impl Gate {
    pub(in crate::gateway) fn new(bounds: Bounds, view: watch::Receiver<Arc<ClusterView>>) -> Self {
        let policy = Policy::new(bounds);
        let shared = Shared { policy, known: Arc::default(), waking: HashMap::new(), waited: Histogram::default() };
        Self { shared: Arc::new(Mutex::new(shared)), view }
    }

    /// Tells the policy of every new view, so that those who wait hear of replicas that come and go, until `cancel`.
    pub(in crate::gateway) async fn follow(self, cancel: CancellationToken) {
        let mut view = self.view.clone();
        loop {
            view.mark_unchanged();
            {
                self.decide(&mut self.lock(), runtime::now());
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = view.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Takes all prompts of a request, or none; one [`Waiting`] each.
    ///
    /// # Errors
    /// [`No`].
    pub(in crate::gateway) fn arrive(
        &self,
        deployment: &str,
        demands: &[Demand],
        priority: Priority,
        deadline: Instant,
    ) -> Result<Vec<Waiting>, No> {
        let now = runtime::now();
        let mut shared = self.lock();
        self.know_latest(&mut shared);
        let tickets = shared.policy.arrive(deployment, demands, priority, deadline, now)?;
        let waiting = tickets.into_iter().map(|ticket| {
            let (wake, granted) = oneshot::channel();
            shared.waking.insert(ticket, wake);
            Waiting { held: Held { ticket, gate: self.clone() }, granted }
        });
        let waiting = waiting.collect();
        self.decide(&mut shared, now);
        Ok(waiting)
    }

    /// Longest context that the last replicas of a deployment took, tokens, while none stands.
    pub(in crate::gateway) fn context_before(&self, deployment: &str) -> Option<u32> {
        let mut shared = self.lock();
        self.know_latest(&mut shared);
        shared.policy.context_before(deployment)
    }

    /// When a place among all requests may be free.
    pub(in crate::gateway) fn one_is_over_in(&self) -> Duration {
        self.lock().policy.one_is_over_in()
    }

    pub(in crate::gateway) fn stats(&self) -> GateStats {
        let shared = self.lock();
        let Snapshot { waiting, waiting_tokens, waiting_bytes, in_flight } = shared.policy.snapshot();
        GateStats { waiting, waiting_tokens, waiting_bytes, in_flight, waited: shared.waited.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looked at under the lock, so that no older view is ever gone back to.
    fn know_latest(&self, shared: &mut Shared) {
        let latest = self.view.borrow().clone();
        if !Arc::ptr_eq(&shared.known, &latest) {
            shared.policy.view(&latest.deployments);
            shared.known = latest;
        }
    }

    /// Wakes whoever the policy has decided about, by the latest view.
    fn decide(&self, shared: &mut Shared, now: Instant) {
        self.know_latest(shared);
        for (ticket, grant, waited) in shared.policy.grants(now) {
            if matches!(grant, Grant::Placed(_)) {
                shared.waited.record(waited);
            }
            // Whoever does not listen any more is about to give the ticket back.
            let _ = shared.waking.remove(&ticket).map(|wake| wake.send(grant));
        }
    }
}

/// A ticket; left when dropped.
#[derive(Debug)]
struct Held {
    ticket: Ticket,
    gate: Gate,
}

impl Drop for Held {
    fn drop(&mut self) {
        let now = runtime::now();
        let mut shared = self.gate.lock();
        shared.waking.remove(&self.ticket);
        shared.policy.leave(self.ticket, now);
        self.gate.decide(&mut shared, now);
    }
}

/// A prompt that was taken and not yet placed.
#[derive(Debug)]
pub(in crate::gateway) struct Waiting {
    held: Held,
    granted: oneshot::Receiver<Grant>,
}

impl Waiting {
    /// Waits for a replica; `None` where none can take it.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(in crate::gateway) async fn replica(&mut self) -> Option<ReadyReplica> {
        match (&mut self.granted).await {
            Ok(Grant::Placed(replica)) => Some(replica),
            Ok(Grant::NoReplica) | Err(_) => None,
        }
    }

    /// The place at the replica that was waited for.
    pub(in crate::gateway) fn at(self, replica: ReadyReplica) -> Place {
        Place { held: self.held, replica }
    }

    /// By the latest view, until when it waits for a replica to be formed; `None` while there is one.
    pub(in crate::gateway) fn patience(&self) -> Option<Instant> {
        let gate = &self.held.gate;
        let mut shared = gate.lock();
        gate.decide(&mut shared, runtime::now());
        shared.policy.patience(self.held.ticket)
    }
}

/// Whether a prompt has another replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum Moved {
    /// It has.
    There,
    /// None is ready that may have it.
    NotNow,
    /// What it was asked of is not served any more.
    Never,
}

/// A prompt's place at a replica.
#[derive(Debug)]
pub(in crate::gateway) struct Place {
    held: Held,
    replica: ReadyReplica,
}

impl Place {
    /// Where.
    pub(in crate::gateway) fn replica(&self) -> &ReadyReplica {
        &self.replica
    }

    /// Moves to a group that is not among `avoid` and gives the answers of `spec`. Where there is none now, the place stays
    /// the prompt's own.
    pub(in crate::gateway) fn elsewhere(&mut self, spec: &DeploymentSpec, avoid: &[Group]) -> Moved {
        let now = runtime::now();
        let gate = &self.held.gate;
        let mut shared = gate.lock();
        gate.know_latest(&mut shared);
        if !shared.known.answers_as(spec) {
            return Moved::Never;
        }
        let replica = shared.policy.elsewhere(self.held.ticket, avoid, now);
        gate.decide(&mut shared, now);
        drop(shared);
        match replica {
            Some(replica) => {
                self.replica = replica;
                Moved::There
            }
            None => Moved::NotNow,
        }
    }

    /// The replica brought so many tokens; it was working on `running` answers.
    pub(in crate::gateway) fn served(&self, tokens: usize, running: usize) {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let running = u16::try_from(running).unwrap_or(u16::MAX);
        self.held.gate.lock().policy.served(self.held.ticket, count(tokens), running, runtime::now());
    }

    /// One answer has ended by itself after so many tokens.
    pub(in crate::gateway) fn answered(&self, tokens: usize) {
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        self.held.gate.lock().policy.answered(self.held.ticket, tokens);
    }

    /// One answer was cut off after so many tokens.
    pub(in crate::gateway) fn cut_off(&self, tokens: usize) {
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        self.held.gate.lock().policy.cut_off(self.held.ticket, tokens);
    }
}
