//! `shardglm node`: the daemon (joins first where it has no certificate), and `node list|cordon|uncordon`.

use std::time::Duration;

use node::agent::AgentConfig;
use protocol::admin::{NodeHealth, NodeInfo};
use protocol::{NodeId, Revision};

use super::daemon::DaemonArgs;
use super::output::{Format, OutputArgs};
use super::{Failure, print, print_json, table};
use crate::admin::{AdminArgs, AdminClient};
use crate::dir_lock::lock;
use crate::{host, join};

/// Held in the state directory while an agent runs.
const LOCK: &str = "node.lock";

/// Arguments of `node`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct NodeArgs {
    #[command(subcommand)]
    verb: Option<NodeVerb>,
    /// This node's name: a DNS label, unique in its cluster
    #[arg(long, value_parser = |s: &str| NodeId::new(s))]
    name: Option<NodeId>,
    #[command(flatten)]
    daemon: DaemonArgs,
}

#[derive(Debug, clap::Subcommand)]
enum NodeVerb {
    /// List the nodes and the ranks they run
    List {
        #[command(flatten)]
        admin: AdminArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Place nothing new on a node; what runs there stays
    Cordon(CordonArgs),
    /// Let a node be used again
    Uncordon(CordonArgs),
}

#[derive(Debug, clap::Args)]
struct CordonArgs {
    /// The node
    #[arg(value_parser = |s: &str| NodeId::new(s))]
    node: NodeId,
    /// Only if nobody wrote its cordon since: the revision that `node list` shows
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl NodeArgs {
    /// Whether a daemon was asked for, and not a verb.
    pub(super) fn is_daemon(&self) -> bool {
        self.verb.is_none()
    }
}

/// Runs the daemon or the verb.
pub(super) async fn run(args: NodeArgs) -> Result<(), Failure> {
    match args.verb {
        Some(NodeVerb::List { admin, output }) => list(&admin, output.output).await,
        Some(NodeVerb::Cordon(args)) => set_cordon(&args, true).await,
        Some(NodeVerb::Uncordon(args)) => set_cordon(&args, false).await,
        None => {
            let name = args.name.ok_or_else(|| Failure::usage(anyhow::anyhow!("--name NAME is required")))?;
            daemon(name, &args.daemon).await
        }
    }
}

async fn daemon(name: NodeId, args: &DaemonArgs) -> Result<(), Failure> {
    let config = args.load()?;
    // Two agents under one name would take the lease from each other for ever.
    let _lock = lock(&config.paths.state_dir, LOCK, "shardglm node")?;
    let stop = args.stop()?;
    tokio::select! {
        joined = join::ensure_identity(&config, &name) => joined?,
        () = stop.token.cancelled() => return Ok(()),
    }
    let memory_bytes = match config.node.memory_bytes {
        0 => host::memory_for_ranks()?,
        bytes => bytes,
    };
    let worker_exe = std::env::current_exe().map_err(|e| anyhow::anyhow!("cannot find this program's file: {e}"))?;
    let agent = AgentConfig {
        node: name,
        identity_dir: config.paths.identity_dir.clone(),
        state_dir: config.paths.state_dir.clone(),
        listen_ip: config.node.listen_ip,
        coordinators: config.coordinators.iter().map(|c| c.internal).collect(),
        memory_bytes,
        worker_silence: Duration::from_millis(config.node.worker_silence_ms),
        orphan: Duration::from_millis(u64::from(config.node.orphan_ms)),
        worker_exe,
    };
    node::agent::run(agent, stop.token.clone()).await.map_err(|e| anyhow::Error::new(e).into())
}

async fn list(admin: &AdminArgs, format: Format) -> Result<(), Failure> {
    let listing = AdminClient::new(admin)?.nodes().await?;
    match format {
        Format::Json => print_json(&listing),
        Format::Table => print(&node_table(&listing.items)),
    }
}

async fn set_cordon(args: &CordonArgs, is_set: bool) -> Result<(), Failure> {
    let expected = args.revision.map(Revision);
    let written = AdminClient::new(&args.admin)?.set_cordon(&args.node, is_set, expected).await?;
    if args.output.output == Format::Json {
        return print_json(&written);
    }
    let cells = [
        written.node.to_string(),
        cordon_word(written.cordoned).to_owned(),
        written.revision.to_string(),
        written.log_index.to_string(),
    ];
    print(&table(&["node", "cordon", "revision", "log index"], [Vec::from(cells)]))
}

fn cordon_word(cordoned: bool) -> &'static str {
    if cordoned { "cordoned" } else { "-" }
}

fn node_table(nodes: &[NodeInfo]) -> String {
    let row = |n: &NodeInfo| {
        let planned: u64 = n.ranks.iter().map(|r| r.budget.total()).sum();
        let ranks: Vec<String> = n.ranks.iter().map(|r| format!("{}/{}", r.replica, r.rank)).collect();
        vec![
            n.node.to_string(),
            match n.health {
                NodeHealth::Up => "up".to_owned(),
                NodeHealth::Down => "down".to_owned(),
            },
            cordon_word(n.cordoned).to_owned(),
            n.revision.to_string(),
            n.inventory.cores.to_string(),
            host::bytes(n.inventory.memory_bytes),
            host::bytes(planned),
            if ranks.is_empty() { "-".to_owned() } else { ranks.join(" ") },
            n.inventory.version.clone(),
        ]
    };
    let header = ["node", "state", "cordon", "revision", "cores", "memory", "planned", "replica/rank", "version"];
    table(&header, nodes.iter().map(row))
}
