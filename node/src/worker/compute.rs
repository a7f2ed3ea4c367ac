//! The compute thread: loads the shard, forms the group, steps. It owns the model and its end of the group.
//!
//! ```text
//!  Loading ─ shard in memory, socket bound ─▶ Loaded ─ Connect order, peers proved ─▶ Connected ─ Serve order ─▶ Serving
//! ```
//! Not here: the pipe to the agent (told through [`Reporter`]) and the gateways' streams.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use kernels::Pool;
use protocol::frame::RefusalCode;
use protocol::lease::WorkerPhase;
use protocol::plan::RankAddr;
use protocol::step::GroupHello;
use protocol::worker::WorkerSpec;
use protocol::{Epoch, Rank};
use sharding::checkpoint::read_pixel_spec;
use sharding::layers::Glm4Text;
use sharding::{ModelSpec, prompt_rows_max};
use tokio::sync::mpsc;
use transport::collective::{FormError, GroupConfig, QuicGroup};
use transport::{AbortHandle, Collective, CollectiveError, NodeIdentity};

use super::canary::Canary;
use super::error::WorkerError;
use super::follower::{PLAN_WAIT, follow};
use super::gauge::Gauge;
use super::group::LeadingGroup;
use super::leader::{Engine, Inbox, Leader, PLAN_AHEAD_MIN};
use super::picture_desk::PictureDesk;
use super::reporter::Reporter;
use super::seeing::Seeing;
use super::step_cost::StepCost;
use super::submission::Submission;
use crate::engine::{EngineLimits, Scheduler};

/// How long forming a group may take: every rank has its shard already, so this is connecting only.
const FORM_DEADLINE: Duration = Duration::from_secs(20);
/// As [`FORM_DEADLINE`], of one attempt of a rank that was revived: the others may still load, or be dead.
const REFORM_DEADLINE: Duration = Duration::from_secs(8);
/// Pause between two such attempts.
const REFORM_PAUSE: Duration = Duration::from_millis(100);
/// How long a revived rank holds its shard and waits for the others. After that it ends, and its agent tries again.
const REFORM_PATIENCE: Duration = Duration::from_secs(600);
/// How often loading is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// What the control thread passes on to the compute thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    /// Form the group.
    Connect(Vec<RankAddr>),
    /// Take steps.
    Serve,
    /// Finish what runs, admit nothing, then end.
    Drain,
}

/// Everything that a rank's compute thread works with.
pub(super) struct ComputeRank {
    pub(super) spec: WorkerSpec,
    pub(super) model_spec: ModelSpec,
    pub(super) identity: NodeIdentity,
    pub(super) listen_ip: IpAddr,
    /// Where gateways reach this rank; rank 0 only.
    pub(super) serve_addr: Option<SocketAddr>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) submissions: mpsc::Receiver<Submission>,
    pub(super) reporter: Reporter,
    pub(super) gauge: Arc<Gauge>,
    /// Filled as soon as there is a group that could wait.
    pub(super) abort: Arc<OnceLock<AbortHandle>>,
}

impl ComputeRank {
    /// Runs the rank until it is drained.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub(super) fn run(mut self) -> Result<(), WorkerError> {
        let model = self.load()?;
        let mut group = match &self.spec.addr {
            Some(addr) => {
                let addr = addr.group().map_err(|found| WorkerError::Address { found })?;
                QuicGroup::bind_with(addr, &self.identity, GroupConfig::default())?
            }
            None => QuicGroup::bind(self.listen_ip, &self.identity)?,
        };
        // Taken by nobody else, so it is empty.
        let _ = self.abort.set(group.abort_handle());
        let addr = self.addr(group.local_addr());
        self.reporter.phase(WorkerPhase::Loaded { addr, bytes_read: model.text().bytes_read() });
        loop {
            match group.run_until(self.orders.recv())? {
                Some(Order::Connect(peers)) => self.form(&mut group, &peers)?,
                Some(Order::Serve) => return self.serve(group, model),
                Some(Order::Drain) | None => return Ok(()),
            }
        }
    }

    fn load(&mut self) -> Result<Seeing, WorkerError> {
        let WorkerSpec { deployment, plan, rank, .. } = &self.spec;
        let dir = Path::new(&deployment.model.dir);
        let found = sharding::model_record(dir)?.digest;
        if found != deployment.model.digest {
            let (dir, expected) = (dir.to_owned(), deployment.model.digest.clone());
            return Err(WorkerError::OtherModel { dir, expected, found });
        }
        let threads = NonZeroUsize::new(usize::from(deployment.threads_per_worker)).ok_or(WorkerError::NoThreads)?;
        let pool = Pool::new(threads)?;
        let reporter = &self.reporter;
        let mut reported = Instant::now();
        let mut progress = |bytes_read, bytes_total| {
            if reported.elapsed() >= PROGRESS_INTERVAL {
                reported = Instant::now();
                reporter.phase(WorkerPhase::Loading { bytes_read, bytes_total });
            }
        };
        let started = Instant::now();
        let model = Glm4Text::load(dir, &self.model_spec, plan, *rank, deployment.dtype, pool, &mut progress)?;
        let load_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let pixels = self.model_spec.vision.as_ref().map(|vision| read_pixel_spec(dir, vision)).transpose()?;
        tracing::info!(bytes_read = model.bytes_read(), load_ms, sees = pixels.is_some(), "shard loaded");
        Ok(Seeing::new(model, pixels))
    }

    /// Where the others reach this rank. Only rank 0 takes requests; the others give their one socket twice.
    fn addr(&self, group: SocketAddr) -> RankAddr {
        RankAddr::new(self.spec.rank, self.spec.node.clone(), group, self.serve_addr.unwrap_or(group))
    }

    fn form(&self, group: &mut QuicGroup, peers: &[RankAddr]) -> Result<(), WorkerError> {
        let WorkerSpec { deployment, plan, replica, epoch, rank, .. } = &self.spec;
        let hello = GroupHello {
            replica: *replica,
            rank: *rank,
            world_size: plan.world_size,
            model_digest: deployment.model.digest.clone(),
        };
        if self.spec.addr.is_none() {
            group.form(hello, *epoch, peers, FORM_DEADLINE)?;
        } else {
            form_again(group, &hello, *epoch, peers)?;
        }
        tracing::info!(world_size = plan.world_size.get(), "group formed");
        self.reporter.phase(WorkerPhase::Connected);
        Ok(())
    }

    fn serve(self, mut group: QuicGroup, model: Seeing) -> Result<(), WorkerError> {
        let Self { spec, model_spec, orders, submissions, reporter, gauge, .. } = self;
        #[cfg(test)]
        let model = super::hang::Hanging::if_asked(model);
        let mut model = model;
        if spec.rank != Rank(0) {
            reporter.phase(WorkerPhase::Serving);
            return Ok(follow(&mut group, &mut model, &gauge, PLAN_WAIT)?);
        }
        let limits = engine_limits(&spec)?.with_prompt_rows(prompt_rows_max(&model_spec, spec.deployment.step_tokens));
        let scheduler = Scheduler::new(limits, &spec.deployment.model.digest);
        let WorkerSpec { plan, .. } = &spec;
        let desk = |vision| PictureDesk::new(vision, plan.world_size.get(), plan.context_tokens);
        let pictures = model_spec.vision.as_ref().map(desk);
        let cost = StepCost::of(&model_spec, plan);
        let canary = Some(Canary::new(sharding::canary_block(plan), Instant::now()));
        let engine = Engine { scheduler, pictures, plan_ahead_min: PLAN_AHEAD_MIN, cost, canary };
        let leader = Leader::new(group, model, engine, Inbox { orders, submissions }, gauge);
        reporter.phase(WorkerPhase::Serving);
        Ok(leader.run()?)
    }
}

/// Forms the group of a rank that was revived: nobody says when the others are there, so it tries until they are.
fn form_again(group: &mut QuicGroup, hello: &GroupHello, epoch: Epoch, peers: &[RankAddr]) -> Result<(), WorkerError> {
    let until = Instant::now() + REFORM_PATIENCE;
    loop {
        match group.form(hello.clone(), epoch, peers, REFORM_DEADLINE) {
            Err(e) if may_come(&e) && Instant::now() < until => {
                tracing::info!(reason = %e, "the group is not there yet");
                group.run_until(tokio::time::sleep(REFORM_PAUSE))?;
            }
            formed => return Ok(formed?),
        }
    }
}

/// Whether the same attempt may go otherwise: a peer was not there, or was on its way out.
fn may_come(error: &FormError) -> bool {
    match error {
        FormError::Connect { .. } | FormError::Deadline { .. } => true,
        FormError::Refused { refusal, .. } => refusal.code != RefusalCode::WrongEpoch,
        FormError::Failed(error) => !matches!(error, CollectiveError::Aborted),
        FormError::BadRequest { .. } | FormError::Mismatch { .. } => false,
    }
}

/// Sequences that may wait for each one that may run.
const WAITING_PER_RUNNING: u32 = 4;

fn engine_limits(spec: &WorkerSpec) -> Result<EngineLimits, WorkerError> {
    let WorkerSpec { deployment: d, plan, .. } = spec;
    let waiting_max = u32::from(d.max_seqs) * WAITING_PER_RUNNING;
    Ok(EngineLimits::new(d.step_tokens, d.max_seqs, waiting_max, plan.context_tokens, plan.kv_tokens)?)
}

impl LeadingGroup for QuicGroup {
    fn idle<F: Future>(&mut self, command: F, until: Option<Instant>) -> Result<Option<F::Output>, CollectiveError> {
        self.run_until(async {
            match until {
                Some(until) => tokio::time::timeout_at(until.into(), command).await.ok(),
                None => Some(command.await),
            }
        })
    }
}
