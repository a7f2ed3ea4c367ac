//! `shardglm up`: a whole small cluster on this machine, as real processes that speak real QUIC.
//!
//! ```text
//!  ports free? ─▶ state dir ─▶ model ─▶ memory plan ─▶ trust, cluster.toml ─▶ processes ─▶ ready ─▶ signal ─▶ drain
//!       └──────────────┴──────────┴──── refused: nothing stays behind ────────────┴───────────┘
//! ```
//! Not here: any part of serving. Invariants: when this returns, no process and no temporary file of it is left; a
//! killed `up` ends its processes too, since their stdin ends with it.

mod home;
mod nano;
mod phase;
mod ports;
mod processes;
mod progress;
mod ready;
mod settings;
mod signals;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use protocol::{CoordinatorId, Dtype, WorldSize};

use crate::cli::{Failure, print};
use crate::config::Config;
use crate::memory::{self, MemoryPlan};
use crate::telemetry::LogArgs;
use home::Home;
use processes::Processes;
use progress::Progress;
use signals::Signals;

/// What nodes get to end their workers, after the coordinators have drained.
const NODE_GRACE: Duration = Duration::from_secs(5);
/// What coordinators get on top of their own drain.
const DRAIN_MARGIN: Duration = Duration::from_secs(3);

/// What was asked for.
#[derive(Debug)]
pub(crate) struct UpSpec {
    /// The checkpoint, absolute; `None`: the built-in one.
    pub(crate) model: Option<PathBuf>,
    /// Its name for clients.
    pub(crate) served_model_name: Option<String>,
    /// Degree of tensor parallelism.
    pub(crate) tp: WorldSize,
    /// Copies.
    pub(crate) replicas: u16,
    /// Node agents.
    pub(crate) nodes: u16,
    /// Coordinators.
    pub(crate) coordinators: u16,
    /// Precision of the weights.
    pub(crate) dtype: Dtype,
    /// The first coordinator's public address.
    pub(crate) listen: SocketAddr,
    /// Where state is kept, absolute; `None`: a temporary directory.
    pub(crate) state_dir: Option<PathBuf>,
    /// Compute threads of each worker.
    pub(crate) threads_per_worker: u16,
    /// How the processes log.
    pub(crate) log: LogArgs,
}

impl UpSpec {
    /// Where nodes, and coordinators' inner listeners, are: the public address's host, or loopback for a wildcard.
    fn listen_ip(&self) -> IpAddr {
        match self.listen.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        }
    }

    fn coordinator_ids(&self) -> Vec<CoordinatorId> {
        (1..=u64::from(self.coordinators)).map(CoordinatorId).collect()
    }
}

/// Starts everything, waits until it serves, runs until a signal, drains.
///
/// # Errors
/// Exit 3 for what is refused before anything starts, exit 1 for what fails after.
pub(crate) async fn run(spec: UpSpec) -> Result<(), Failure> {
    let started = Instant::now();
    let mut signals = Signals::listen()?;
    let public = ports::public(spec.listen, spec.coordinators)?;
    let mut home = Home::open(spec.state_dir.as_deref(), spec.coordinators, spec.nodes)?;
    let config = prepare(&spec, &home, &public)?;
    home.establish(&spec.coordinator_ids(), &config)?;

    let mut processes = Processes::new(home.dir().join("logs"), spec.log.clone())?;
    let served = start(&spec, &home, &config, &mut processes, &mut signals, started).await;
    if matches!(served, Ok(Outcome::Ready)) {
        home.keep();
        signals.until_stop_or(processes.all_ended()).await;
    }
    let drain = config.gateway.drain() + DRAIN_MARGIN;
    let stopped = stop(&mut processes, drain, &mut signals).await;
    match served {
        Ok(_) => stopped,
        Err(failure) => Err(failure),
    }
}

/// How a start ended that did not fail.
enum Outcome {
    /// Every coordinator says ready.
    Ready,
    /// A signal came first.
    Stopped,
}

/// Settles the configuration and shows the memory plan; nothing runs yet.
fn prepare(spec: &UpSpec, home: &Home, public: &[SocketAddr]) -> Result<Config, Failure> {
    let model_dir = match &spec.model {
        Some(dir) => dir.clone(),
        None => nano::write(&home.dir().join("models"))?,
    };
    let model = sharding::model_record(&model_dir).map_err(Failure::refused)?;
    let config = settings::settle(spec, home, public, &model_dir)?;
    let nodes = memory::alike(spec.nodes, config.node.memory_bytes)?;
    let plan = MemoryPlan::new(&config.deployment, &model, nodes).map_err(Failure::refused)?;
    coordinator::gateway::check_model_files(&model).map_err(Failure::refused)?;
    let names = config.deployment.names().join(", ");
    let (tp, dtype) = (spec.tp, spec.dtype.as_str());
    print(&format!("{names} ({}) at tp {tp}, {dtype}\n{}\n", model_dir.display(), plan.text()))?;
    Ok(config)
}

async fn start(
    spec: &UpSpec,
    home: &Home,
    config: &Config,
    processes: &mut Processes,
    signals: &mut Signals,
    started: Instant,
) -> Result<Outcome, Failure> {
    for coordinator in &config.coordinators {
        processes.spawn_coordinator(home, coordinator.id)?;
    }
    for node in 1..=spec.nodes {
        processes.spawn_node(home, node)?;
    }
    let mut progress = Progress::new();
    let ready = tokio::select! {
        ready = ready::wait(config, home, spec, &mut progress) => ready,
        ended = processes.next_ended() => Err(anyhow::anyhow!("while starting, {ended}").into()),
        () = signals.next() => {
            progress.clear();
            return Ok(Outcome::Stopped);
        }
    };
    progress.clear();
    ready?;
    print(&welcome(spec, home, config, started.elapsed()))?;
    Ok(Outcome::Ready)
}

/// What a newcomer needs next.
fn welcome(spec: &UpSpec, home: &Home, config: &Config, took: Duration) -> String {
    let url = format!("http://{}", config.coordinators[0].public);
    let others: Vec<String> = config.coordinators.iter().skip(1).map(|c| format!("http://{}/v1", c.public)).collect();
    let also = if others.is_empty() { String::new() } else { format!("   (or {})", others.join(", ")) };
    let model = config.deployment.names().remove(0);
    let body = serde_json::json!({
        "model": model, "messages": [{ "role": "user", "content": "打开微信" }], "temperature": 0
    });
    let many = |n: u16, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    let (replicas, nodes) = (many(spec.replicas, "replica"), many(spec.nodes, "node"));
    let coordinators = many(spec.coordinators, "coordinator");
    let dir = home.dir().display();
    format!(
        "ready in {:.1} s: {replicas} of {model} at tp {}, {nodes}, {coordinators}\n\n\
         endpoint  {url}/v1{also}\n\
         try       curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'\n\
         \x20         shardglm chat --url {url} \"打开微信\"\n\
         look      shardglm deploy status --state-dir {dir}\n\
         stop      Ctrl-C drains and stops; logs until then in {dir}/logs\n",
        took.as_secs_f64(),
        spec.tp,
    )
}

/// Coordinators first, since they hold the clients' connections and nodes must compute while they drain.
async fn stop(processes: &mut Processes, drain: Duration, signals: &mut Signals) -> Result<(), Failure> {
    let graceful = async {
        processes.stop_coordinators(drain).await;
        processes.stop_nodes(NODE_GRACE).await;
    };
    let forced = tokio::select! {
        () = graceful => false,
        () = signals.next() => true,
    };
    let killed = processes.kill_rest().await;
    match (forced, killed.as_slice()) {
        (false, [_, ..]) => Err(anyhow::anyhow!("did not drain in time and were killed: {}", killed.join(", ")).into()),
        _ => Ok(()),
    }
}
