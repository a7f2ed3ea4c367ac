//! `shardglm worker`: one rank, as its agent starts it. The arguments are for `ps`; everything else comes over stdin.

use super::Failure;

/// Arguments of `worker`.
#[derive(Debug, clap::Args)]
pub(super) struct WorkerArgs {
    /// The replica's id
    #[arg(long)]
    replica: u64,
    /// The epoch of the replica's group
    #[arg(long)]
    epoch: u64,
    /// The rank
    #[arg(long)]
    rank: u16,
}

/// Runs the rank until its agent ends it.
pub(super) fn run(args: &WorkerArgs) -> Result<(), Failure> {
    node::worker::run().map_err(|e| {
        let (replica, epoch, rank) = (args.replica, args.epoch, args.rank);
        anyhow::Error::new(e).context(format!("replica {replica} epoch {epoch} rank {rank}")).into()
    })
}
