//! `shardglm deploy status`: what should run, and how far each rank of it is.

use protocol::PictureLimits;
use protocol::admin::{DeploymentInfo, RankInfo, ReplicaInfo, ReplicaPhase};
use protocol::lease::WorkerPhase;

use super::output::{Format, OutputArgs};
use super::{Failure, or_dash, print, print_json, table};
use crate::admin::{AdminArgs, AdminClient};
use crate::host;

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
}

/// Runs the verb.
pub(super) async fn run(args: DeployArgs) -> Result<(), Failure> {
    let DeployVerb::Status { admin, output } = args.verb;
    let listing = AdminClient::new(&admin)?.deployments().await?;
    if output.output == Format::Json {
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
