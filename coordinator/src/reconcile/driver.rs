//! The leader's loop: waits for one event, takes it in, says what follows. Ends with the term.
//!
//! ```text
//!  (follower) ──elected, state confirmed──▶ leading ──deposed, or no majority──▶ (follower)
//! ```
//! Not here: deciding (`planner`, `orders`). Invariants: at most one batch of proposals is under way; orders follow
//! from applied state only; a report is answered after it was taken in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use protocol::lease::{NodeOrders, NodeReport};
use protocol::{NodeId, Term};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::observed::Observed;
use super::orders::{grace, orders};
use super::{RecordSource, deadlines, planner};
use crate::config::LeaseTimings;
use crate::raft::{AppliedState, Consensus, ProposeError};
use crate::state::Command;

/// Reports that wait for the loop; sessions wait beyond that.
const REPORTS_MAX: usize = 64;
/// How long one proposal of the leader's own may take.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a proposal that came to nothing, so that a disagreement of planner and state is no busy loop.
const HOLD: Duration = Duration::from_millis(200);
/// How long the confirmation of a new leader's state may take before it is asked for again.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);
const CONFIRM_PAUSE: Duration = Duration::from_millis(20);

/// A term that this coordinator leads, as sessions with nodes see it.
#[derive(Debug, Clone)]
pub(crate) struct Lead {
    /// The term.
    pub term: Term,
    /// Where reports go.
    pub reports: mpsc::Sender<ReportIn>,
    /// The orders of each node that was heard; changed whenever one of them does.
    pub orders: watch::Receiver<Arc<BTreeMap<NodeId, Arc<NodeOrders>>>>,
}

/// A report on its way in.
#[derive(Debug)]
pub(crate) struct ReportIn {
    /// Which session brings it; a later one has a higher number.
    pub session: u64,
    /// What it says.
    pub report: NodeReport,
    /// Where its answer goes.
    pub answer: oneshot::Sender<Arc<NodeOrders>>,
}

/// Leads while this coordinator is the leader.
#[derive(Debug)]
pub(crate) struct Reconciler {
    consensus: Consensus,
    source: Option<RecordSource>,
    lease: LeaseTimings,
    lead: watch::Sender<Option<Lead>>,
}

impl Reconciler {
    /// `source`: the configured deployment.
    #[must_use]
    pub(crate) fn new(consensus: Consensus, source: Option<RecordSource>, lease: LeaseTimings) -> Self {
        Self { consensus, source, lease, lead: watch::Sender::new(None) }
    }

    /// The term that this coordinator leads now, where it does.
    #[must_use]
    pub(crate) fn lead(&self) -> watch::Receiver<Option<Lead>> {
        self.lead.subscribe()
    }

    /// Leads whenever this coordinator is the leader, until cancelled.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let mut leadership = self.consensus.leadership();
        loop {
            let term = tokio::select! {
                () = cancel.cancelled() => return,
                elected = leadership.wait_for(|l| l.here) => match elected {
                    Ok(l) => l.term,
                    Err(_) => return,
                },
            };
            tracing::info!(term = term.0, "leading");
            tokio::select! {
                () = cancel.cancelled() => {}
                () = self.lead_term(term) => {}
                _ = leadership.wait_for(|l| !l.here || l.term != term) => {}
            }
            self.lead.send_replace(None);
            self.consensus.publish_heard(None);
            tracing::info!(term = term.0, "no longer leading");
        }
    }

    /// Returns only when the state machine is gone.
    async fn lead_term(&self, term: Term) {
        // What earlier leaders committed must be applied here before anything is decided.
        while let Err(reason) = self.consensus.read(CONFIRM_TIMEOUT).await {
            tracing::debug!(term = term.0, %reason, "the leader's state is not confirmed yet");
            tokio::time::sleep(CONFIRM_PAUSE).await;
        }
        let mut seeding = JoinSet::new();
        if let Some(source) = self.source.clone() {
            let consensus = self.consensus.clone();
            seeding.spawn(async move { source.apply(&consensus).await });
        }
        let mut applied = self.consensus.applied();
        let state = applied.borrow_and_update().clone();
        let (reports_tx, reports) = mpsc::channel(REPORTS_MAX);
        let (orders_tx, orders_rx) = watch::channel(Arc::default());
        let now = Instant::now().into_std();
        let mut turn = Turn {
            consensus: self.consensus.clone(),
            term,
            lease: self.lease,
            observed: Observed::new(&state.state, now, grace(self.lease)),
            state,
            applied,
            reports,
            sessions: BTreeMap::new(),
            orders: orders_tx,
            proposing: JoinSet::new(),
            hold_until: None,
        };
        self.consensus.publish_heard(Some(turn.observed.heard()));
        self.lead.send_replace(Some(Lead { term, reports: reports_tx, orders: orders_rx }));
        loop {
            turn.decide();
            match turn.select().await {
                Event::Ended => return,
                event => turn.take(event),
            }
        }
    }
}

/// What the loop waits for.
#[derive(Debug)]
enum Event {
    Report(Box<ReportIn>),
    Applied,
    Proposed(Result<(), ProposeError>),
    Deadline,
    Ended,
}

/// One term of leading.
#[derive(Debug)]
struct Turn {
    consensus: Consensus,
    term: Term,
    lease: LeaseTimings,
    state: AppliedState,
    observed: Observed,
    applied: watch::Receiver<AppliedState>,
    reports: mpsc::Receiver<ReportIn>,
    /// The newest session of each node: what an older one still brings is dropped.
    sessions: BTreeMap<NodeId, u64>,
    orders: watch::Sender<Arc<BTreeMap<NodeId, Arc<NodeOrders>>>>,
    /// The batch that is under way; dropped, and so ended, with the term.
    proposing: JoinSet<Result<(), ProposeError>>,
    hold_until: Option<Instant>,
}

impl Turn {
    async fn select(&mut self) -> Event {
        let now = Instant::now();
        let planned = deadlines::next(&self.state.state, &self.observed, now.into_std()).map(Instant::from_std);
        let deadline = self.hold_until.or(planned);
        let passed = async {
            match deadline {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            report = self.reports.recv() => report.map_or(Event::Ended, |r| Event::Report(Box::new(r))),
            changed = self.applied.changed() => changed.map_or(Event::Ended, |()| Event::Applied),
            Some(done) = self.proposing.join_next() => Event::Proposed(done.unwrap_or_else(|e| {
                Err(ProposeError::Stopped { reason: e.to_string() })
            })),
            () = passed => Event::Deadline,
        }
    }

    fn take(&mut self, event: Event) {
        // Reports are read against the newest state: a group must be known before its ranks are heard.
        self.state = self.applied.borrow_and_update().clone();
        let now = Instant::now();
        self.observed.follow(&self.state.state, now.into_std());
        match event {
            Event::Report(incoming) => self.report(*incoming, now),
            Event::Proposed(Err(reason)) => {
                tracing::warn!(term = self.term.0, %reason, "a proposal of the leader came to nothing");
                self.hold_until = Some(now + HOLD);
            }
            Event::Deadline => self.hold_until = self.hold_until.filter(|at| *at > now),
            Event::Applied | Event::Proposed(Ok(())) | Event::Ended => {}
        }
    }

    fn report(&mut self, incoming: ReportIn, now: Instant) {
        let ReportIn { session, report, answer } = incoming;
        let node = report.node.clone();
        let newest = self.sessions.entry(node.clone()).or_insert(session);
        if session < *newest {
            return;
        }
        *newest = session;
        let lease = Duration::from_millis(u64::from(self.lease.lease_ms));
        self.observed.report(report, now.into_std(), lease);
        self.consensus.publish_heard(Some(self.observed.heard()));
        let orders = self.publish_orders().get(&node).cloned();
        if let Some(orders) = orders {
            // A session that is gone meanwhile needs no answer.
            let _ = answer.send(orders);
        }
    }

    fn publish_orders(&self) -> Arc<BTreeMap<NodeId, Arc<NodeOrders>>> {
        let heard = self.observed.nodes.iter().filter(|(_, s)| s.report.is_some());
        let members = Arc::clone(&self.consensus.members().borrow());
        let coordinators: Vec<_> = members.list.iter().map(|m| m.addrs.internal.to_string()).collect();
        let order = |node: &NodeId| {
            let ranks = orders(&self.state.state, &self.observed, node, self.term, self.lease);
            Arc::new(NodeOrders { coordinators: coordinators.clone(), ..ranks })
        };
        let fresh: BTreeMap<_, _> = heard.map(|(node, _)| (node.clone(), order(node))).collect();
        self.orders.send_if_modified(|old| {
            let changed = **old != fresh;
            if changed {
                *old = Arc::new(fresh);
            }
            changed
        });
        Arc::clone(&self.orders.borrow())
    }

    fn decide(&mut self) {
        self.publish_orders();
        if !self.proposing.is_empty() || self.hold_until.is_some() {
            return;
        }
        let commands = planner::plan(&self.state.state, &self.observed, Instant::now().into_std());
        if commands.is_empty() {
            return;
        }
        let consensus = self.consensus.clone();
        self.proposing.spawn(async move { propose(&consensus, commands).await });
    }
}

/// One after the other; what is refused makes the rest moot.
async fn propose(consensus: &Consensus, commands: Vec<Command>) -> Result<(), ProposeError> {
    for command in commands {
        tracing::info!(%command, "reconciling");
        consensus.propose_here(command, PROPOSE_TIMEOUT).await?;
    }
    Ok(())
}
