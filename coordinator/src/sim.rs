//! What the simulator drives, and nobody else: Raft on a simulated disk.
//!
//! Not here: the simulation (tests/sim). Under the feature `sim`, which only adds.

pub use crate::raft::simulated::{Claim, Planted, SimDisk, claim, seed_thread, start};

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::lease::{NodeOrders, NodeReport};
use protocol::{NodeId, Term};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::LeaseTimings;
use crate::publish;
use crate::raft::Consensus;
use crate::reconcile::{Lead, Reconciler, ReportIn};
use crate::view::ClusterView;

/// The real reconciler of one coordinator, with its reports and orders carried by whoever simulates.
#[derive(Debug, Clone)]
pub struct Leases {
    lead: watch::Receiver<Option<Lead>>,
}

impl Leases {
    /// Starts it on `tasks`, on a runtime, until `cancel`.
    pub fn start(
        consensus: &Consensus,
        timings: LeaseTimings,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Self {
        let reconciler = Reconciler::new(consensus.clone(), None, timings);
        let lead = reconciler.lead();
        tasks.spawn(reconciler.run(cancel.clone()));
        Self { lead }
    }

    /// Brings a report of `session`, a later one having a higher number; the orders that answer it, where this coordinator leads.
    pub async fn report(&self, session: u64, report: NodeReport) -> Option<Arc<NodeOrders>> {
        let lead = self.lead.borrow().clone()?;
        let (answer, answered) = oneshot::channel();
        lead.reports.send(ReportIn { session, report, answer }).await.ok()?;
        answered.await.ok()
    }

    /// The orders of each node that was heard in the term that this coordinator leads, where it does; they change.
    #[must_use]
    pub fn orders(&self) -> Option<(Term, Orders)> {
        self.lead.borrow().as_ref().map(|lead| (lead.term, lead.orders.clone()))
    }
}

/// See [`Leases::orders`].
pub type Orders = watch::Receiver<Arc<BTreeMap<NodeId, Arc<NodeOrders>>>>;

/// What the gateway of a coordinator goes by, as it publishes it.
pub fn view(
    consensus: &Consensus,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> watch::Receiver<Arc<ClusterView>> {
    let (view, published) = watch::channel(Arc::default());
    tasks.spawn(publish::follow(consensus.clone(), view, cancel.clone()));
    published
}
