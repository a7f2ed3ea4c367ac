//! A coordinator's process: the real Raft on a simulated disk, and the answers to whoever calls it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use coordinator::MemberAddrs;
use coordinator::config::{LeaseTimings, RaftTimings};
use coordinator::gateway::InProcess;
use coordinator::raft::{AppliedState, Consensus, ConsensusConfig, Leadership};
use coordinator::sim::{self, Claim, Leases, SimDisk};
use coordinator::view::ClusterView;
use protocol::lease::LeaderNamed;
use protocol::{ClusterId, CoordinatorId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::host_of;
use crate::client::Client;
use crate::fact::{Fact, Recorder};
use crate::host::{Host, HostId};
use crate::message::{Answer, NotLeading, Request};
use crate::net::{Arrived, Net};
use crate::way::Ways;
use crate::wires::SimWires;

/// How long an admin's write or read may take at a coordinator.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(3);
/// How often who pushes orders looks whether it leads.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Orders that one start of a coordinator gives at most.
const ORDERS_MAX: u64 = 1 << 32;
/// Clients of each gateway.
const CLIENTS: u64 = 2;
/// How long pushed orders may take to be taken.
const PUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// One coordinator: what outlives its process, and what is seen of that.
#[derive(Debug)]
pub struct Coordinator {
    id: CoordinatorId,
    disk: SimDisk,
    seat: Arc<Mutex<Seat>>,
    claim: Option<Claim>,
    applied_index: u64,
}

#[derive(Debug, Default)]
struct Seat {
    consensus: Option<Consensus>,
    leases: Option<Leases>,
    /// How often it gave orders: each has its place.
    num_orders: Arc<AtomicU64>,
    stopped: Option<String>,
}

impl Coordinator {
    /// A coordinator that never ran.
    #[must_use]
    pub fn new(id: CoordinatorId, disk: SimDisk) -> Self {
        Self { id, disk, seat: Arc::default(), claim: None, applied_index: 0 }
    }

    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// Its host.
    #[must_use]
    pub fn host(&self) -> HostId {
        HostId::Coordinator(self.id.0)
    }

    fn seat(&self) -> MutexGuard<'_, Seat> {
        self.seat.lock().expect("nothing panics in the seat")
    }

    /// Starts its process on `host`.
    pub fn start(&mut self, host: &mut Host, net: &Net, members: &[CoordinatorId], clients: Clients) {
        host.start();
        let start = net.started(self.host());
        self.seat = Arc::default();
        (self.claim, self.applied_index) = (None, 0);
        let (seat, disk, id) = (Arc::clone(&self.seat), self.disk.clone(), self.id);
        let (own, pushing) = (self.host(), net.clone());
        let wires = Arc::new(SimWires { own: id, members: members.to_vec(), net: net.clone() });
        let members: Vec<_> = members.iter().map(|id| addrs(*id)).collect();
        host.spawn(async move {
            let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
            let config = ConsensusConfig {
                id,
                members: &members,
                dir: std::path::Path::new("simulated"),
                timings: RaftTimings::default(),
            };
            let started = sim::start(config, &disk, (ClusterId::from_bytes([7; 16]), wires), &tasks, &cancel).await;
            let put = |f: &dyn Fn(&mut Seat)| f(&mut seat.lock().expect("nothing panics in the seat"));
            let stopped = match started {
                Ok(consensus) => {
                    let leases = Leases::start(&consensus, LeaseTimings::default(), &tasks, &cancel);
                    // A leader that starts anew may go on in the same term: what it says comes after what it said.
                    let num_orders = Arc::new(AtomicU64::new(start * ORDERS_MAX));
                    tasks.spawn(push_orders(own, pushing.clone(), leases.clone(), Arc::clone(&num_orders)));
                    let view = sim::view(&consensus, &tasks, &cancel);
                    clients.start(own, view, pushing, &tasks);
                    put(&|seat| {
                        let (leases, num_orders) = (Some(leases.clone()), Arc::clone(&num_orders));
                        *seat = Seat { consensus: Some(consensus.clone()), leases, num_orders, stopped: None };
                    });
                    consensus.failed().await
                }
                Err(e) => e.to_string(),
            };
            put(&|seat| seat.stopped = Some(stopped.clone()));
        });
    }

    /// Its process is gone; of what it wrote and did not sync, `kept` says of each sector whether it is there.
    pub fn kill(&mut self, host: &mut Host, net: &Net, kept: impl FnMut() -> bool) {
        // First of all: what is dropped with the process would be closed in order, and flush what it holds.
        self.disk = self.disk.plug(kept);
        self.seat = Arc::default();
        self.claim = None;
        net.killed(self.host());
        host.kill();
    }

    /// Why its process cannot go on, where it cannot.
    #[must_use]
    pub fn stopped(&self) -> Option<String> {
        self.seat().stopped.clone()
    }

    fn consensus(&self) -> Option<Consensus> {
        self.seat().consensus.clone()
    }

    /// Whether it takes itself for the leader.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.claim.is_some_and(|c| c.leads)
    }

    /// What it has applied, and whether it knows a leader.
    #[must_use]
    pub fn settled(&self) -> (Option<AppliedState>, bool) {
        let Some(consensus) = self.consensus() else { return (None, false) };
        let applied = consensus.applied().borrow().clone();
        let leader = consensus.leadership().borrow().leader;
        (Some(applied), leader.is_some())
    }

    /// Tells what has changed since the last look.
    pub fn look(&mut self, recorder: &Recorder) {
        let Some(consensus) = self.consensus() else { return };
        let coordinator = self.id;
        let claim = sim::claim(&consensus);
        if self.claim != Some(claim) {
            self.claim = Some(claim);
            recorder.fact(Fact::Claims { coordinator, claim });
        }
        let applied = consensus.applied();
        let applied = applied.borrow();
        if applied.index != self.applied_index {
            self.applied_index = applied.index;
            recorder.fact(Fact::Applied { coordinator, applied: applied.clone() });
        }
    }

    /// Serves a call that has arrived. A process that is still coming up has no listener.
    pub fn serve(&self, host: &Host, arrived: Arrived) {
        let (consensus, leases, num_orders) = {
            let seat = self.seat();
            let (Some(consensus), Some(leases)) = (&seat.consensus, &seat.leases) else { return };
            (consensus.clone(), leases.clone(), Arc::clone(&seat.num_orders))
        };
        host.spawn(async move {
            let answer = match arrived.request {
                Request::Raft(request) => Answer::Raft(consensus.serve(request).await),
                Request::Write(command) => Answer::Written(consensus.propose(*command, ADMIN_TIMEOUT).await),
                Request::Read => Answer::State(consensus.read(ADMIN_TIMEOUT).await),
                Request::Report { session, report } => {
                    let node = report.node.clone();
                    let answered = leases.report(session, *report).await;
                    // The newest there are, so that they are in the order of their numbers.
                    let newest = leases.orders().and_then(|(_, orders)| orders.borrow().get(&node).cloned());
                    let Leadership { leader, term, .. } = *consensus.leadership().borrow();
                    let leader = leader.map(|id| LeaderNamed { addr: addrs(id).internal, term: Some(term) });
                    let orders = newest.filter(|_| answered.is_some()).ok_or(NotLeading { leader });
                    let seq = num_orders.fetch_add(1, Ordering::Relaxed) + 1;
                    Answer::Orders(orders.map(|orders| (seq, Box::new(orders.as_ref().clone()))))
                }
                // Nobody says such a thing to a coordinator.
                _ => return,
            };
            arrived.reply.send(answer);
        });
    }
}

/// Who asks at a coordinator's gateway.
#[derive(Debug)]
pub struct Clients {
    /// What they tell.
    pub recorder: Recorder,
    /// Whether they begin anything new.
    pub open: Arc<AtomicBool>,
    /// What their requests follow from.
    pub seed: u64,
}

impl Clients {
    fn start(self, host: HostId, view: watch::Receiver<Arc<ClusterView>>, net: Net, tasks: &TaskTracker) {
        let gateway = InProcess::start(view, Arc::new(Ways { own: host, net })).expect("no pictures are fetched");
        for number in 0..CLIENTS {
            let (gateway, recorder, open) = (gateway.clone(), self.recorder.clone(), Arc::clone(&self.open));
            let seed = self.seed.wrapping_add(number);
            tasks.spawn(Client { host, gateway, recorder, open, seed }.run());
        }
    }
}

/// Tells each node its orders whenever they change, while this coordinator leads.
async fn push_orders(own: HostId, net: Net, leases: Leases, num_orders: Arc<AtomicU64>) {
    let mut told = (None, BTreeMap::new());
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some((term, orders)) = leases.orders() else { continue };
        if told.0 != Some(term) {
            told = (Some(term), BTreeMap::new());
        }
        let orders = Arc::clone(&orders.borrow());
        for (node, orders) in
            orders.iter().filter(|(node, orders)| told.1.get(*node) != Some(*orders)).collect::<Vec<_>>()
        {
            told.1.insert(node.clone(), Arc::clone(orders));
            let seq = num_orders.fetch_add(1, Ordering::Relaxed) + 1;
            let (net, to, orders) = (net.clone(), host_of(node), Box::new(orders.as_ref().clone()));
            tokio::spawn(async move { net.call(own, to, Request::Orders { seq, orders }, PUSH_TIMEOUT).await });
        }
    }
}

/// Where a coordinator would be dialled.
pub(crate) fn internal_addr(host: HostId) -> SocketAddr {
    let HostId::Coordinator(id) = host else { unreachable!("only coordinators are dialled") };
    addrs(CoordinatorId(id)).internal
}

/// Addresses that nobody dials.
fn addrs(id: CoordinatorId) -> MemberAddrs {
    let ip = [10, 0, 0, id.0 as u8];
    MemberAddrs { id, internal: (ip, 7000).into(), admin: (ip, 8443).into(), public: (ip, 8000).into() }
}
