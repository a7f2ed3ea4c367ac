//! `shardglm deploy status`: what should run, and how far each rank of it is. `deploy scale`: how much of it.

use std::time::Duration;

use protocol::admin::{DeploymentInfo, RankInfo, ReplicaInfo, ReplicaPhase, ScaleRequest, ScaleWritten};
use protocol::lease::WorkerPhase;
use protocol::{Generation, NodeId, PictureLimits};
use tokio::time::Instant;

use super::output::{Format, OutputArgs};
use super::{Failure, or_dash, print, print_json, table};
use crate::admin::{AdminArgs, AdminClient};
use crate::host;

/// Pause between two looks of `--wait`.
const POLL: Duration = Duration::from_millis(200);

/// Arguments of `deploy`.
#[derive(Debug, clap::Args)]
pub(super) struct DeployArgs {
    #[command(subcommand)]
    verb: DeployVerb,
}

#[derive(Debug, clap::Subcommand)]
enum DeployVerb {
    /// Show each deployment, its replicas and their ranks
    Status {
        #[command(flatten)]
        admin: AdminArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Set how many replicas a deployment has
    Scale(ScaleArgs),
}

#[derive(Debug, clap::Args)]
struct ScaleArgs {
    /// The deployment
    #[arg(value_parser = |s: &str| NodeId::new(s).map(|_| s.to_owned()).map_err(|_| "not a DNS label"))]
    name: String,
    /// How many replicas there should be
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=256))]
    replicas: u16,
    /// Only if nobody changed the deployment since: the generation that `deploy status` shows
    #[arg(long, value_name = "N")]
    generation: Option<u64>,
    /// Return only when so many replicas are ready and no other is left
    #[arg(long)]
    wait: bool,
    /// How long --wait may take, seconds
    #[arg(long, value_name = "S", default_value_t = 300, requires = "wait")]
    timeout: u64,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the verb.
pub(super) async fn run(args: DeployArgs) -> Result<(), Failure> {
    match args.verb {
        DeployVerb::Status { admin, output } => status(&admin, output.output).await,
        DeployVerb::Scale(args) => scale(&args).await,
    }
}

async fn scale(args: &ScaleArgs) -> Result<(), Failure> {
    let client = AdminClient::new(&args.admin)?;
    let expected_generation = args.generation.map(Generation);
    let written = client.scale(&args.name, &ScaleRequest { replicas: args.replicas, expected_generation }).await?;
    if args.wait {
        wait(&client, &written, Duration::from_secs(args.timeout)).await?;
    }
    if args.output.output == Format::Json {
        return print_json(&written);
    }
    let cells = [
        written.deployment.clone(),
        written.replicas.to_string(),
        written.generation.to_string(),
        written.log_index.to_string(),
    ];
    print(&table(&["deployment", "replicas", "generation", "log index"], [Vec::from(cells)]))
}

/// Returns when the deployment is as `written`. A coordinator that cannot say is asked again.
async fn wait(client: &AdminClient, written: &ScaleWritten, timeout: Duration) -> Result<(), Failure> {
    let until = Instant::now() + timeout;
    loop {
        let why = match client.deployment(&written.deployment).await {
            Ok(found) if found.item.generation > written.generation => {
                let now = found.item.generation;
                let error = anyhow::anyhow!(
                    "generation {} of `{}` was written, and replaced by generation {now}",
                    written.generation,
                    written.deployment
                );
                return Err(Failure::refused(error));
            }
            Ok(found) if found.item.generation < written.generation => {
                "the coordinator that was asked is behind".to_owned()
            }
            Ok(found) => match not_there(&found.item) {
                None => return Ok(()),
                Some(why) => why,
            },
            Err(error) => error.to_string(),
        };
        if Instant::now() >= until {
            let error = anyhow::anyhow!(
                "generation {} of `{}` was written, but is not reached after {} s: {why}",
                written.generation,
                written.deployment,
                timeout.as_secs()
            );
            return Err(error.into());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Why a deployment does not have the replicas that are wanted; `None` when it has them, all ready and no other.
fn not_there(d: &DeploymentInfo) -> Option<String> {
    let ready = d.replicas.iter().filter(|r| r.phase == ReplicaPhase::Ready).count();
    if ready == usize::from(d.replicas_wanted) && ready == d.replicas.len() {
        return None;
    }
    let counted = format!("{ready} of {} replicas are ready, of {} that exist", d.replicas_wanted, d.replicas.len());
    let reason = d.replicas.iter().find_map(|r| r.reason.as_ref());
    Some(match d.blocked.as_ref().or(reason) {
        Some(reason) => format!("{counted}: {reason}"),
        None => counted,
    })
}

async fn status(admin: &AdminArgs, format: Format) -> Result<(), Failure> {
    let listing = AdminClient::new(admin)?.deployments().await?;
    if format == Format::Json {
        return print_json(&listing);
    }
    if listing.items.is_empty() {
        return print("no deployment\n");
    }
    let parts: Vec<String> = listing.items.iter().map(deployment_text).collect();
    print(&parts.join("\n"))
}

fn deployment_text(d: &DeploymentInfo) -> String {
    let header = ["deployment", "generation", "model", "served as", "tp", "dtype", "ready", "context", "kv tokens"];
    let ready = d.replicas.iter().filter(|r| r.phase == ReplicaPhase::Ready).count();
    let row = vec![
        d.name.clone(),
        d.generation.to_string(),
        d.model.clone(),
        d.served_names.join(" "),
        d.tp.to_string(),
        d.dtype.clone(),
        format!("{ready}/{}", d.replicas_wanted),
        or_dash(d.context_tokens),
        or_dash(d.kv_tokens),
    ];
    let mut text = table(&header, [row]);
    if let Some(limits) = d.pictures {
        let PictureLimits { pictures_max, pixels_max } = limits;
        text += &format!("pictures: at most {pictures_max} in a prompt, {pixels_max} pixels each (over two frames)\n");
    }
    if let Some(blocked) = &d.blocked {
        text += &format!("blocked: {blocked}\n");
    }
    let ranks = d.replicas.iter().flat_map(|r| r.ranks.iter().map(move |rank| rank_row(r, rank)));
    text += "\n";
    text += &table(
        &[
            "replica",
            "epoch",
            "phase",
            "rank",
            "node",
            "rank phase",
            "weights",
            "kv cache",
            "activations",
            "bytes read",
        ],
        ranks,
    );
    for (replica, reason) in d.replicas.iter().filter_map(|r| r.reason.as_ref().map(|why| (r.replica, why))) {
        text += &format!("replica {replica}: {reason}\n");
    }
    for (replica, load) in d.replicas.iter().filter_map(|r| r.load.map(|load| (r.replica, load))) {
        text += &format!(
            "replica {replica}: {} running, {} waiting, {}/{} KV blocks, {} steps\n",
            load.running, load.waiting, load.kv_blocks_used, load.kv_blocks_total, load.steps
        );
    }
    text
}

fn rank_row(replica: &ReplicaInfo, rank: &RankInfo) -> Vec<String> {
    vec![
        replica.replica.to_string(),
        replica.epoch.to_string(),
        phase_word(replica.phase).to_owned(),
        rank.rank.to_string(),
        rank.node.to_string(),
        or_dash(rank.phase.as_ref().map(worker_phase)),
        host::bytes(rank.budget.weights),
        host::bytes(rank.budget.kv_cache),
        host::bytes(rank.budget.activations),
        or_dash(rank.bytes_read.map(host::bytes)),
    ]
}

fn phase_word(phase: ReplicaPhase) -> &'static str {
    match phase {
        ReplicaPhase::Forming => "forming",
        ReplicaPhase::Ready => "ready",
        ReplicaPhase::Draining => "draining",
        ReplicaPhase::Failed => "failed",
    }
}

/// A rank's phase in a few words.
fn worker_phase(phase: &WorkerPhase) -> String {
    match phase {
        WorkerPhase::Starting => "starting".to_owned(),
        WorkerPhase::Loading { bytes_read, bytes_total } => {
            format!("loading {} %", bytes_read * 100 / (*bytes_total).max(1))
        }
        WorkerPhase::Loaded { .. } => "loaded".to_owned(),
        WorkerPhase::Connected => "connected".to_owned(),
        WorkerPhase::Serving => "serving".to_owned(),
        WorkerPhase::Draining => "draining".to_owned(),
        WorkerPhase::Failed { reason, .. } => format!("failed: {reason}"),
    }
}
