//! The lease client: finds the leader, reports at once on every change and at each heartbeat, and passes orders on.
//!
//! Not here: what orders lead to, and what a node may do without a lease (`standing`); this task only keeps trying, and says
//! what it hears.

use std::net::SocketAddr;
use std::time::Duration;

use protocol::frame::RefusalCode;
use protocol::lease::{LeaderNamed, NodeOrders, NodeReport};
use protocol::{Epoch, Role};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use transport::{ConnectError, Endpoint, Expect, SendStream, StreamError};

use super::dialer::{Dialer, Miss};
use super::roster::Roster;
use super::standing::Said;
use super::supervisor::Event;

const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// How long a report may take to leave, and its first answer to come.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);
/// How long the last report of a leaving node may take.
const FAREWELL_DEADLINE: Duration = Duration::from_millis(500);
/// Bounds of what a leader may ask for.
const HEARTBEAT_MIN: Duration = Duration::from_millis(20);
const HEARTBEAT_MAX: Duration = Duration::from_secs(10);
const LEASE_MIN: Duration = Duration::from_millis(200);
const LEASE_MAX: Duration = Duration::from_secs(60);
/// A lease frame names at most a few dozen ranks with their plans.
const ORDERS_BYTES_MAX: u32 = 16 << 20;

/// Why a session with one coordinator ended.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("the agent is shutting down")]
    Cancelled,
}

impl SessionEnd {
    /// For whom to dial next, and for what to make of it, how the coordinator at `addr` did not grant the lease, or ended it.
    fn missed(&self, addr: SocketAddr) -> (Miss, Said) {
        let Self::Stream(StreamError::Refused(refusal)) = self else { return (Miss::Lost, Said::Nothing) };
        match (refusal.code, LeaderNamed::find(&refusal.detail)) {
            (RefusalCode::NotLeader, None) => (Miss::NotLeader(None), Said::NoLeader),
            (RefusalCode::NotLeader, Some(leader)) => (Miss::NotLeader(Some(leader.addr)), Said::LeaderIs(leader)),
            // It leads and does not want this node, or it is of another mind than its cluster: nothing to rely on.
            _ => (Miss::Lost, Said::LeaderIs(LeaderNamed { addr, term: None })),
        }
    }
}

/// How long the node may act on `orders`, within bounds of its own.
pub(super) fn held(orders: &NodeOrders) -> Duration {
    Duration::from_millis(u64::from(orders.lease_ms)).clamp(LEASE_MIN, LEASE_MAX)
}

/// To whom the lease's task speaks.
#[derive(Debug, Clone)]
pub(super) struct Voice {
    /// Orders.
    pub(super) events: mpsc::Sender<Event>,
    /// What coordinators say that do not grant the lease.
    pub(super) refusals: mpsc::Sender<(SocketAddr, Said)>,
}

/// Keeps the lease until cancelled. Reports are taken from `reports`, orders and refusals go to `voice`.
pub(super) async fn keep(
    endpoint: Endpoint,
    mut roster: Roster,
    mut reports: watch::Receiver<NodeReport>,
    voice: Voice,
    cancel: CancellationToken,
) {
    let mut dialer = Dialer::new(roster.addrs());
    loop {
        let addr = dialer.target();
        let mut session = Session {
            reports: &mut reports,
            events: &voice.events,
            cancel: &cancel,
            dialer: &mut dialer,
            roster: &mut roster,
        };
        let end = session.run(&endpoint, addr).await;
        if matches!(end, SessionEnd::Cancelled) {
            return;
        }
        let (miss, said) = end.missed(addr);
        match miss {
            Miss::NotLeader(_) => tracing::debug!(%addr, "this coordinator does not lead"),
            Miss::Lost => tracing::warn!(%addr, reason = %end, "no lease from this coordinator"),
        }
        // The agent's loop ends after this task; an error can only mean that it is being dropped.
        let _ = voice.refusals.send((addr, said)).await;
        let pause = dialer.missed(miss);
        tokio::select! {
            () = cancel.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

/// One connection to one coordinator.
struct Session<'a> {
    reports: &'a mut watch::Receiver<NodeReport>,
    events: &'a mpsc::Sender<Event>,
    cancel: &'a CancellationToken,
    dialer: &'a mut Dialer,
    roster: &'a mut Roster,
}

/// What a session waits for.
enum Wake {
    Orders(NodeOrders),
    /// A report is due: something changed, or the heartbeat.
    Report,
    Cancelled,
}

impl Session<'_> {
    async fn run(&mut self, endpoint: &Endpoint, addr: SocketAddr) -> SessionEnd {
        match self.talk(endpoint, addr).await {
            Err(end) => end,
            Ok(never) => match never {},
        }
    }

    async fn talk(&mut self, endpoint: &Endpoint, addr: SocketAddr) -> Result<std::convert::Infallible, SessionEnd> {
        let cancel = self.cancel.clone();
        let connecting = endpoint.connect(addr, Expect::role(Role::Coordinator), CONNECT_DEADLINE);
        let connection = tokio::select! {
            () = cancel.cancelled() => return Err(SessionEnd::Cancelled),
            connection = connecting => connection?,
        };
        let (mut send, mut recv) = connection.open(CONNECT_DEADLINE).await?;
        recv.set_body_max(ORDERS_BYTES_MAX);
        let mut heartbeat = HEARTBEAT_MAX;
        let mut granted = false;
        let mut silent_at = Instant::now() + ANSWER_DEADLINE;
        let mut report_at = Instant::now();
        loop {
            let wake = tokio::select! {
                biased;
                () = cancel.cancelled() => Wake::Cancelled,
                orders = recv.recv_message(Epoch(0), silent_at.into_std()) => Wake::Orders(orders?),
                Ok(()) = self.reports.changed() => Wake::Report,
                () = sleep_until(report_at) => Wake::Report,
            };
            match wake {
                Wake::Cancelled => {
                    self.report(&mut send, FAREWELL_DEADLINE).await?;
                    send.finish()?;
                    // Closing a connection drops what is not acknowledged: let the last report arrive.
                    let _ = tokio::time::timeout(FAREWELL_DEADLINE, send.stopped()).await;
                    return Err(SessionEnd::Cancelled);
                }
                Wake::Report => {
                    self.report(&mut send, ANSWER_DEADLINE).await?;
                    report_at = Instant::now() + heartbeat;
                }
                Wake::Orders(orders) => {
                    if !granted {
                        granted = true;
                        tracing::info!(%addr, term = orders.term.0, "lease granted");
                        self.dialer.granted();
                    }
                    if self.roster.learn(&orders.coordinators) {
                        tracing::info!(coordinators = ?orders.coordinators, "coordinators");
                        self.dialer.dial(self.roster.addrs());
                    }
                    let ms = |ms: u32| Duration::from_millis(u64::from(ms));
                    let asked = ms(orders.heartbeat_ms).clamp(HEARTBEAT_MIN, HEARTBEAT_MAX);
                    report_at = report_at.min(Instant::now() + asked);
                    heartbeat = asked;
                    silent_at = Instant::now() + held(&orders);
                    // The agent's loop ends after this task; an error can only mean that it is being dropped.
                    let _ = self.events.send(Event::Orders(orders)).await;
                }
            }
        }
    }

    async fn report(&mut self, send: &mut SendStream, deadline: Duration) -> Result<(), StreamError> {
        let report = self.reports.borrow_and_update().clone();
        send.send(Epoch(0), &report, deadline).await
    }
}
