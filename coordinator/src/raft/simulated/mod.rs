//! Raft for the simulator: the same [`Consensus`] over a simulated disk, with random numbers that follow a seed.
//!
//! Not here: the network (whoever simulates implements [`super::Wires`]), the clock (tokio's, paused). Invariant: what runs
//! here is what runs outside, but for the disk under the log and where numbers come from; a bug is put back only where it
//! is asked for by name.

mod disk;
mod runtime;

use std::path::Path;
use std::sync::Arc;

use openraft::ServerState;
use protocol::{ClusterId, Term};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::disk::{Planted, SimDisk};
pub(super) use self::runtime::SeededRuntime;
pub(crate) use self::runtime::is_simulated;
pub use self::runtime::seed_thread;
use super::consensus::{Consensus, ConsensusConfig, ConsensusError, LogBounds};
use super::log_store::LogStore;
use super::snapshot::Place;
use super::state_machine::StateMachine;
use super::waits::Waits;
use super::wires::Wires;

/// The name of the log in errors.
const LOG: &str = "simulated/raft.redb";
/// Small, so that snapshots, purging and catching up by snapshot happen in every run.
const BOUNDS: LogBounds = LogBounds { snapshot_entries: 48, kept_entries: 16 };

/// Starts a coordinator's Raft on `disk`, as [`Consensus::start`] does on a directory.
///
/// # Errors
/// [`ConsensusError`].
pub async fn start(
    config: ConsensusConfig<'_>,
    disk: &SimDisk,
    (cluster, wires): (ClusterId, Arc<dyn Wires>),
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> Result<Consensus, ConsensusError> {
    let waits = Waits::Simulated(disk.clone());
    let create = |builder: &redb::Builder| builder.create_with_backend(disk.clone());
    let log = LogStore::over(Path::new(LOG), create)?.waiting(waits);
    let state_machine = StateMachine::at(Place::Simulated(disk.clone()), log.purged()?)?;
    Consensus::over(config, BOUNDS, (cluster, wires), (log, state_machine), tasks, cancel).await
}

/// What a coordinator's Raft takes itself for, whether or not a majority still agrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Its term.
    pub term: Term,
    /// Whether it leads in that term.
    pub leads: bool,
}

/// What `consensus` takes itself for now.
#[must_use]
pub fn claim(consensus: &Consensus) -> Claim {
    let metrics = consensus.raft().metrics();
    let metrics = metrics.borrow();
    Claim { term: Term(metrics.current_term), leads: metrics.state == ServerState::Leader }
}
