//! One coordinator: owns its listeners and tasks, starts them in order and ends them in order.
//!
//! ```text
//!  start:     identity, state directory ─▶ bind admin, internal, public ─▶ raft ─▶ reconciler, serve
//!  shutdown:  gateway drains ─▶ cancel the rest ─▶ wait for every task ─▶ raft ─▶ endpoint
//! ```
//! Invariant: a start that fails leaves no task and no listener behind.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use protocol::{CoordinatorId, Identity, Role};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use transport::identity::{CaError, IdentityError};
use transport::{BindError, ClusterCa, Endpoint, NodeIdentity};

use crate::admin::{Admin, AdminError, AdminParts, Joins};
use crate::config::{CoordinatorConfig, MemberAddrs};
use crate::gateway::{Gateway, GatewayConfig, GatewayError};
use crate::internal::Internal;
use crate::journal::Journal;
use crate::lease::Sessions;
use crate::metrics::{self, Picture};
use crate::publish;
use crate::raft::{Consensus, ConsensusConfig, ConsensusError, Out, StateDir, StateDirError, certificate_name};
use crate::reconcile::{Reconciler, RecordSource};
use crate::view::ClusterView;

/// How long peers may take to learn that the endpoint closes.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause between two looks at a port that is being given back.
const RELEASE_PAUSE: Duration = Duration::from_millis(2);

/// Why a coordinator did not start. Nothing of it is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its own id is not among the members, or one stands there twice.
    #[error("the members are {members:?}, expected coordinator {id} once among them and none twice")]
    Members {
        /// The id.
        id: CoordinatorId,
        /// Who they are.
        members: Vec<u64>,
    },
    /// Its certificate or key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A certificate of somebody else.
    #[error("the certificate in {dir} is of {found}, expected coordinator {expected}")]
    WrongIdentity {
        /// The identity directory.
        dir: std::path::PathBuf,
        /// Whose it is.
        found: Box<Identity>,
        /// Whose it should be.
        expected: protocol::NodeId,
    },
    /// The CA that signs joins.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// Its state directory.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The internal listener.
    #[error("internal listener: {0}")]
    Internal(#[from] BindError),
    /// The admin listener.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// Raft.
    #[error(transparent)]
    Consensus(#[from] ConsensusError),
    /// The public listener.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
}

/// A running coordinator. Dropped without [`Coordinator::shutdown`], its tasks end without waiting for anybody.
#[derive(Debug)]
pub struct Coordinator {
    addrs: MemberAddrs,
    view: watch::Receiver<Arc<ClusterView>>,
    consensus: Consensus,
    endpoint: Endpoint,
    gateway: Gateway,
    tasks: TaskTracker,
    cancel: CancellationToken,
    _cancel_on_drop: DropGuard,
    _state_dir: StateDir,
}

impl Coordinator {
    /// Starts every part; all three listeners answer when this returns. It does not wait for the others: a leader is
    /// found in the background. The certificate's name must be `coordinator-<id>`.
    ///
    /// # Errors
    /// [`StartError`], one line.
    ///
    /// # Cancel safety
    /// Dropping the future ends what was started.
    pub async fn start(config: CoordinatorConfig) -> Result<Self, StartError> {
        let cancel = CancellationToken::new();
        let cancel_on_drop = cancel.clone().drop_guard();
        let tasks = TaskTracker::new();
        let Prepared { identity, ca, state_dir, config } = prepare(config).await?;
        let admin = Admin::bind(config.admin_listen, &identity).await?;
        let endpoint = Endpoint::bind(config.internal_listen, &identity, &[Role::Coordinator, Role::Node])?;
        let (view_tx, view) = watch::channel(Arc::default());
        let (pictures_tx, pictures) = watch::channel(Arc::new(Picture::unknown(Instant::now().into_std())));
        let metrics = config.serve_metrics.then(|| pictures.clone());
        let picture_hosts = config.picture_hosts.clone();
        let journal = Journal::default();
        let public = GatewayConfig {
            listen: config.public_listen,
            limits: config.gateway,
            picture_hosts,
            observed: Some(pictures),
            metrics,
            journal: journal.clone(),
        };
        let gateway = match Gateway::start(public, view.clone(), endpoint.clone(), cancel.clone()).await {
            Ok(gateway) => gateway,
            Err(e) => {
                release(endpoint).await;
                return Err(e.into());
            }
        };
        let raft =
            ConsensusConfig { id: config.id, members: &config.members, dir: state_dir.path(), timings: config.raft };
        let consensus = match Consensus::start(raft, &endpoint, &tasks, &cancel).await {
            Ok(consensus) => consensus,
            Err(e) => {
                cancel.cancel();
                tasks.close();
                tasks.wait().await;
                gateway.shutdown(Duration::ZERO).await;
                release(endpoint).await;
                return Err(e.into());
            }
        };
        journal.connect(Arc::new(consensus.clone()));
        let (internal, admin_addr, public) = (endpoint.local_addr(), admin.addr(), gateway.addr());
        let addrs = MemberAddrs { id: config.id, internal, admin: admin_addr, public };
        let serving = Serving {
            consensus: consensus.clone(),
            endpoint: endpoint.clone(),
            admin,
            ca,
            view: view_tx,
            pictures: pictures_tx,
            journal,
        };
        serving.spawn(config, &tasks, &cancel);
        tracing::info!(coordinator = addrs.id.0, %internal, admin = %admin_addr, "coordinator started");
        Ok(Self {
            addrs,
            view,
            consensus,
            endpoint,
            gateway,
            tasks,
            cancel,
            _cancel_on_drop: cancel_on_drop,
            _state_dir: state_dir,
        })
    }

    /// Where it listens; real ports where the configuration asked for port 0.
    #[must_use]
    pub fn addrs(&self) -> MemberAddrs {
        self.addrs
    }

    /// The last applied state, as far as serving needs it.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<Arc<ClusterView>> {
        self.view.clone()
    }

    /// Its Raft: to propose changes and to read the state.
    #[must_use]
    pub fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// Waits until the coordinator cannot go on (a failed disk, a fatal Raft error), with the reason; for ever while it
    /// can. Whoever owns it then shuts it down.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn failed(&self) -> String {
        self.consensus.failed().await
    }

    /// Waits until the coordinator has no place in the cluster any more, with the reason; for ever while it has. It goes on
    /// serving from what it knows until whoever owns it shuts it down.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn out(&self) -> Out {
        self.consensus.out().await
    }

    /// Admits no more requests, lets streams finish for at most `drain`, then ends every task and waits for it. What was
    /// acknowledged is on disk.
    pub async fn shutdown(self, drain: Duration) {
        self.gateway.shutdown(drain).await;
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.consensus.shutdown().await;
        drop(self.consensus);
        release(self.endpoint).await;
        tracing::info!(coordinator = self.addrs.id.0, "coordinator stopped");
    }
}

/// Closes the endpoint and waits until its port is free again: the socket goes with the last of its tasks, which end
/// by themselves.
async fn release(endpoint: Endpoint) {
    let addr = endpoint.local_addr();
    endpoint.close("shutting down", CLOSE_TIMEOUT).await;
    drop(endpoint);
    let until = Instant::now() + CLOSE_TIMEOUT;
    while Instant::now() < until && std::net::UdpSocket::bind(addr).is_err() {
        tokio::time::sleep(RELEASE_PAUSE).await;
    }
}

/// What is read and checked before anything listens.
struct Prepared {
    identity: NodeIdentity,
    ca: ClusterCa,
    state_dir: StateDir,
    config: CoordinatorConfig,
}

async fn prepare(config: CoordinatorConfig) -> Result<Prepared, StartError> {
    let read = move || {
        check_members(&config)?;
        let identity = NodeIdentity::load(&config.identity_dir)?;
        let (found, expected) = (identity.identity(), certificate_name(config.id));
        if found.role != Role::Coordinator || found.name != expected {
            let (dir, found) = (config.identity_dir, Box::new(found.clone()));
            return Err(StartError::WrongIdentity { dir, found, expected });
        }
        let ca = ClusterCa::load(&config.identity_dir)?;
        let state_dir = StateDir::open(&config.state_dir, found.cluster, config.id)?;
        Ok(Prepared { identity, ca, state_dir, config })
    };
    tokio::task::spawn_blocking(read).await.expect("reading files does not panic, and is never aborted")
}

fn check_members(config: &CoordinatorConfig) -> Result<(), StartError> {
    let ids: BTreeSet<_> = config.members.iter().map(|m| m.id).collect();
    if ids.len() == config.members.len() && ids.contains(&config.id) {
        return Ok(());
    }
    Err(StartError::Members { id: config.id, members: config.members.iter().map(|m| m.id.0).collect() })
}

/// The parts that serve, once everything is bound.
struct Serving {
    consensus: Consensus,
    endpoint: Endpoint,
    admin: Admin,
    ca: ClusterCa,
    view: watch::Sender<Arc<ClusterView>>,
    pictures: watch::Sender<Arc<Picture>>,
    journal: Journal,
}

impl Serving {
    fn spawn(self, config: CoordinatorConfig, tasks: &TaskTracker, cancel: &CancellationToken) {
        let consensus = self.consensus;
        let source = config.deployment.map(RecordSource::new);
        if let Some(source) = source.clone() {
            // Read ahead: whoever is elected finds it read. A failure shows when the leader reads it again.
            tasks.spawn(async move { drop(source.read().await) });
        }
        let reconciler = Reconciler::new(consensus.clone(), source, config.lease);
        let sessions = Sessions::new(reconciler.lead(), consensus.leadership(), consensus.members(), config.lease);
        let internal = Arc::new(Internal { consensus: consensus.clone(), sessions, journal: self.journal });
        let joins = Joins { ca: self.ca, token: config.join_token };
        let parts = Arc::new(AdminParts { consensus: consensus.clone(), joins });
        tasks.spawn(metrics::follow(consensus.clone(), self.pictures, cancel.clone()));
        tasks.spawn(publish::follow(consensus, self.view, cancel.clone()));
        tasks.spawn(reconciler.run(cancel.clone()));
        tasks.spawn(internal.accept(self.endpoint, tasks.clone(), cancel.clone()));
        tasks.spawn(self.admin.serve(parts, tasks.clone(), cancel.clone()));
    }
}
