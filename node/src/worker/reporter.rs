//! The worker's voice to its agent: frames on stdout, from any thread.
//!
//! Not here: logs, which go to stderr.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use protocol::Epoch;
use protocol::lease::WorkerPhase;
use protocol::stats::EngineStats;
use protocol::worker::{EngineLoad, FromWorker, Proof};

use crate::pipe;

/// Writes whole frames. Cheap to clone; clones share the pipe.
#[derive(Clone)]
pub(super) struct Reporter {
    pipe: Arc<Mutex<Box<dyn Write + Send>>>,
    epoch: Epoch,
}

impl Reporter {
    /// A reporter onto `pipe`, for frames of `epoch`.
    pub(super) fn new(pipe: impl Write + Send + 'static, epoch: Epoch) -> Self {
        Self { pipe: Arc::new(Mutex::new(Box::new(pipe))), epoch }
    }

    /// Says how far the worker is.
    pub(super) fn phase(&self, phase: WorkerPhase) {
        self.send(&FromWorker::Phase(phase));
    }

    /// Says that the worker is alive; `stats` where it has an engine, `proof` where its group has answered.
    pub(super) fn alive(&self, load: EngineLoad, stats: Option<EngineStats>, proof: Option<Proof>) {
        self.send(&FromWorker::Alive { load, stats: stats.map(Box::new), proof });
    }

    fn send(&self, message: &FromWorker) {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(e) = pipe::write(&mut **pipe, self.epoch, message) {
            // The agent is gone; stdin ends too, and that ends the worker.
            tracing::debug!(reason = %e, "the agent cannot be told");
        }
    }
}
