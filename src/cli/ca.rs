//! `shardglm ca create`: the trust of a new cluster, in one directory, for whoever installs it.

use std::path::PathBuf;

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
}

/// Runs the verb.
pub(super) fn run(args: &CaArgs) -> Result<(), Failure> {
    let CaVerb::Create { config, out } = &args.verb;
    let config = RawConfig::read(config).and_then(|raw| raw.settle(&[])).map_err(Failure::usage)?;
    if std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Failure::refused(anyhow::anyhow!("{} is not empty: a CA is never overwritten", out.display())));
    }
    let ids: Vec<_> = config.coordinators.iter().map(|c| c.id).collect();
    let cluster = trust::create(out, &ids)?;
    print(&format!("cluster {cluster}: CA, {} coordinators, admin and join-token in {}\n", ids.len(), out.display()))
}
