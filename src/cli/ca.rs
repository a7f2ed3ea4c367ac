//! `shardglm ca create|add`: the trust of a cluster, in one directory, for whoever installs it.

use std::path::{Path, PathBuf};

use protocol::CoordinatorId;

use super::{Failure, print};
use crate::config::RawConfig;
use crate::trust;

/// Arguments of `ca`.
#[derive(Debug, clap::Args)]
pub(super) struct CaArgs {
    #[command(subcommand)]
    verb: CaVerb,
}

#[derive(Debug, clap::Subcommand)]
enum CaVerb {
    /// Create the CA, an identity for each coordinator and one admin, and a join token
    Create {
        /// The configuration that names the coordinators
        #[arg(long, value_name = "FILE", default_value = "cluster.toml")]
        config: PathBuf,
        /// Where to; must not exist yet, or be empty
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Issue an identity for one more coordinator, with the CA that `ca create` made
    Add {
        /// The directory that `ca create` wrote
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// The new coordinator's id; one that none ever had
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=65_535))]
        id: u64,
    },
}

/// Runs the verb.
pub(super) fn run(args: &CaArgs) -> Result<(), Failure> {
    match &args.verb {
        CaVerb::Create { config, out } => create(config, out),
        CaVerb::Add { out, id } => add(out, CoordinatorId(*id)),
    }
}

fn create(config: &Path, out: &Path) -> Result<(), Failure> {
    let config = RawConfig::read(config).and_then(|raw| raw.settle(&[])).map_err(Failure::usage)?;
    if std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Failure::refused(anyhow::anyhow!("{} is not empty: a CA is never overwritten", out.display())));
    }
    let ids: Vec<_> = config.coordinators.iter().map(|c| c.id).collect();
    let cluster = trust::create(out, &ids)?;
    print(&format!("cluster {cluster}: CA, {} coordinators, admin and join-token in {}\n", ids.len(), out.display()))
}

fn add(out: &Path, id: CoordinatorId) -> Result<(), Failure> {
    let home = trust::coordinator_dir(out, id);
    if home.exists() {
        return Err(Failure::refused(anyhow::anyhow!("{} exists: an identity is never overwritten", home.display())));
    }
    let cluster = trust::add_coordinator(out, id).map_err(Failure::refused)?;
    print(&format!("cluster {cluster}: coordinator {id} in {}\n", home.display()))
}
