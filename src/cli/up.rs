//! `shardglm up`: the flags of a whole small cluster on this machine.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::ValueEnum;
use protocol::{Dtype, WorldSize};

use super::Failure;
use super::daemon::absolute;
use crate::telemetry::LogArgs;
use crate::up::{self, UpSpec};

/// Arguments of `up`.
#[derive(Debug, clap::Args)]
pub(super) struct UpArgs {
    /// Hugging Face checkpoint directory; else the built-in autoglm-nano
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// The model's name for clients; else its directory's
    #[arg(long, value_name = "NAME")]
    served_model_name: Option<String>,
    /// Degree of tensor parallelism: processes that compute one replica together
    #[arg(long, value_name = "N", default_value = "2", value_parser = world_size)]
    tp: WorldSize,
    /// Full copies of the model
    #[arg(long, value_name = "R", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=256))]
    replicas: u16,
    /// Node agents
    #[arg(long, value_name = "K", default_value = "2", value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// Coordinators
    #[arg(long, value_name = "C", default_value = "3", value_parser = clap::value_parser!(u16).range(1..=9))]
    coordinators: u16,
    /// Precision of the weights; f32 rounds none
    #[arg(long, value_enum, default_value = "f32")]
    dtype: DtypeArg,
    /// The first coordinator's public address; the others take the ports after it
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// Keep state here and use it again; else a temporary directory that is removed at the end
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Compute threads of each worker
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads_per_worker: u16,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DtypeArg {
    F32,
    Bf16,
}

fn world_size(text: &str) -> Result<WorldSize, String> {
    let n: u16 = text.parse().map_err(|_| format!("expected a number of 1..={}", WorldSize::MAX))?;
    WorldSize::new(n).map_err(|e| e.to_string())
}

/// Runs it.
pub(super) async fn run(args: UpArgs, log: LogArgs) -> Result<(), Failure> {
    let spec = UpSpec {
        model: args.model.as_deref().map(absolute).transpose()?,
        served_model_name: args.served_model_name,
        tp: args.tp,
        replicas: args.replicas,
        nodes: args.nodes,
        coordinators: args.coordinators,
        dtype: match args.dtype {
            DtypeArg::F32 => Dtype::F32,
            DtypeArg::Bf16 => Dtype::Bf16,
        },
        listen: args.listen,
        state_dir: args.state_dir.as_deref().map(absolute).transpose()?,
        threads_per_worker: args.threads_per_worker,
        log,
    };
    up::run(spec).await
}
