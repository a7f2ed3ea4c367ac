//! One lease stream, as drawn in [`protocol::lease`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use protocol::frame::{Refusal, RefusalCode};
use protocol::lease::{LeaderNamed, NodeOrders, NodeReport};
use protocol::{Epoch, Identity};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use transport::{RecvStream, SendStream, StreamError};

use crate::config::LeaseTimings;
use crate::raft::{Leadership, Members};
use crate::reconcile::{Lead, ReportIn};

/// How long orders may take to leave.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// What every session needs.
#[derive(Debug)]
pub(crate) struct Sessions {
    lead: watch::Receiver<Option<Lead>>,
    leadership: watch::Receiver<Leadership>,
    members: watch::Receiver<Arc<Members>>,
    lease: LeaseTimings,
    num_started: AtomicU64,
}

impl Sessions {
    /// `lead`: the term that this coordinator leads; `leadership`: who does otherwise.
    #[must_use]
    pub(crate) fn new(
        lead: watch::Receiver<Option<Lead>>,
        leadership: watch::Receiver<Leadership>,
        members: watch::Receiver<Arc<Members>>,
        lease: LeaseTimings,
    ) -> Self {
        Self { lead, leadership, members, lease, num_started: AtomicU64::new(0) }
    }

    /// A session with `peer`; one that is started later supersedes it.
    #[must_use]
    pub(crate) fn session<'a>(&'a self, peer: &'a Identity) -> Session<'a> {
        Session { all: self, peer, number: self.num_started.fetch_add(1, Ordering::Relaxed), answered: None }
    }

    fn not_leader(&self) -> Refusal {
        let Leadership { leader, term, .. } = *self.leadership.borrow();
        let addr = leader.and_then(|id| self.members.borrow().get(id).map(|m| m.addrs.internal));
        let named = addr.map(|addr| LeaderNamed { addr, term: Some(term) }.to_string());
        Refusal { code: RefusalCode::NotLeader, detail: named.unwrap_or_else(|| "no leader is known".to_owned()) }
    }
}

/// One lease stream.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    all: &'a Sessions,
    peer: &'a Identity,
    number: u64,
    /// The orders that the node has.
    answered: Option<Arc<NodeOrders>>,
}

/// How a session ends.
enum End {
    Refused(Refusal),
    Stream(StreamError),
    Cancelled,
}

impl Session<'_> {
    /// Serves the stream that began with `first`, until it ends, the term ends or `cancel`.
    pub(crate) async fn serve(
        mut self,
        first: NodeReport,
        send: &mut SendStream,
        recv: &mut RecvStream,
        cancel: &CancellationToken,
    ) {
        let end = match self.talk(first, send, recv, cancel).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        match end {
            // The peer that is gone cannot be told.
            End::Refused(refusal) => drop(send.refuse(Epoch(0), &refusal, SEND_TIMEOUT).await),
            End::Stream(StreamError::Ended) => tracing::debug!(node_id = %self.peer.name, "lease stream ended"),
            End::Stream(reason) => tracing::info!(node_id = %self.peer.name, %reason, "lease stream lost"),
            End::Cancelled => {}
        }
    }

    async fn talk(
        &mut self,
        first: NodeReport,
        send: &mut SendStream,
        recv: &mut RecvStream,
        cancel: &CancellationToken,
    ) -> Result<std::convert::Infallible, End> {
        let lead = self.all.lead.borrow().clone();
        let mut lead = lead.ok_or_else(|| End::Refused(self.all.not_leader()))?;
        let mut changed = self.all.lead.clone();
        let term = lead.term;
        let silence = Duration::from_millis(u64::from(self.all.lease.lease_ms));
        let mut report = Some(first);
        loop {
            if let Some(report) = report.take() {
                let orders = self.take(report, &lead).await?;
                self.send(orders, send).await?;
            }
            tokio::select! {
                () = cancel.cancelled() => return Err(End::Cancelled),
                () = async { drop(changed.wait_for(|l| l.as_ref().is_none_or(|l| l.term != term)).await) } => {
                    return Err(End::Refused(self.all.not_leader()));
                }
                received = recv.recv_message::<NodeReport>(Epoch(0), silence) => {
                    report = Some(received.map_err(End::Stream)?);
                }
                Ok(()) = lead.orders.changed() => {
                    let orders = lead.orders.borrow_and_update().get(&self.peer.name).cloned();
                    if let Some(orders) = orders.filter(|o| self.answered.as_ref() != Some(o)) {
                        self.send(orders, send).await?;
                    }
                }
            }
        }
    }

    /// Hands the report to the leader's loop and waits for its answer.
    async fn take(&self, report: NodeReport, lead: &Lead) -> Result<Arc<NodeOrders>, End> {
        if report.node != self.peer.name {
            let detail = format!("the certificate is of node {}, the report of node {}", self.peer.name, report.node);
            return Err(End::Refused(Refusal { code: RefusalCode::Forbidden, detail }));
        }
        let (answer, answered) = oneshot::channel();
        let incoming = ReportIn { session: self.number, report, answer };
        let not_leader = |_| End::Refused(self.all.not_leader());
        lead.reports.send(incoming).await.map_err(|_| End::Refused(self.all.not_leader()))?;
        answered.await.map_err(not_leader)
    }

    async fn send(&mut self, orders: Arc<NodeOrders>, send: &mut SendStream) -> Result<(), End> {
        send.send(Epoch(0), orders.as_ref(), SEND_TIMEOUT).await.map_err(End::Stream)?;
        self.answered = Some(orders);
        Ok(())
    }
}
