//! `shardglm check`: what is wrong with a `cluster.toml`, all of it; else what it comes down to, and the memory plan.

use std::path::PathBuf;

use serde_json::json;

use super::output::{Format, OutputArgs};
use super::{Failure, print, print_json};
use crate::config::{Config, Override, RawConfig};
use crate::host;
use crate::memory::{self, MemoryPlan};

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "cluster.toml")]
    config: PathBuf,
    /// Override a key, such as `--set deployment.tp=4`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<Override>,
    /// Plan for so many nodes like this host; else one a rank
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    nodes: Option<u16>,
    /// Validate the file only: no model is opened, nothing is printed
    #[arg(long)]
    syntax_only: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs it: exit 2 for a faulty file, 3 for a model or a memory that does not do.
pub(super) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let config = RawConfig::read(&args.config).and_then(|raw| raw.settle(&args.overrides)).map_err(Failure::usage)?;
    if args.syntax_only {
        return Ok(());
    }
    let plan = plan(&config, args.nodes).map_err(Failure::refused)?;
    match args.output.output {
        Format::Json => print_json(&json!({ "config": config, "plan": plan })),
        Format::Table => print(&format!("{}\n{}", config.to_toml(), plan.text())),
    }
}

fn plan(config: &Config, nodes: Option<u16>) -> anyhow::Result<MemoryPlan> {
    let deployment = &config.deployment;
    let model = sharding::model_record(&deployment.model)?;
    coordinator::gateway::check_model_files(&model)?;
    let memory = match config.node.memory_bytes {
        0 => host::memory_for_ranks()?,
        bytes => bytes,
    };
    let ranks = deployment.tp.get().saturating_mul(deployment.replicas);
    MemoryPlan::new(deployment, &model, memory::alike(nodes.unwrap_or(ranks), memory)?)
}
