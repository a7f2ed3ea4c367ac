//! The engine's load and totals as numbers that any thread may read while the compute thread steps.
//!
//! Not here: history. Load and totals are each of one step, so that an engine without sequences is never seen with the
//! blocks that it used a step earlier; the two may be of neighbouring steps.

use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::stats::EngineStats;
use protocol::worker::EngineLoad;

use super::picture_desk::PictureDesk;
use super::progress::Progress;
use crate::engine::Scheduler;

/// Shared by the compute thread (writes) and the control thread (reads).
#[derive(Debug, Default)]
pub(super) struct Gauge {
    /// Both locked for the time of a copy by either side, so neither waits.
    load: Mutex<EngineLoad>,
    stats: Mutex<EngineStats>,
    progress: Progress,
}

impl Gauge {
    /// Takes the present figures of the scheduler and of those who wait for pictures over, and what the step loop has
    /// counted besides.
    pub(super) fn publish(&self, scheduler: &Scheduler, pictures: Option<&PictureDesk>, counted: &EngineStats) {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let counts = scheduler.counts();
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.clone_from(counted);
        stats.prefix_cache_queries = counts.prefix_queries;
        stats.prefix_cache_hits = counts.prefix_hits;
        stats.prefix_cache_evictions = counts.evictions;
        let seen = pictures.map(PictureDesk::counts).unwrap_or_default();
        stats.picture_queries = seen.claims;
        stats.picture_hits = seen.hits;
        stats.pictures_encoded = seen.encoded;
        stats.picture_evictions = seen.evictions;
        stats.preemptions = counts.preemptions;
        drop(stats);
        *self.locked_load() = EngineLoad {
            running: count(scheduler.num_running()),
            waiting: count(scheduler.num_waiting() + pictures.map_or(0, |desk| desk.demand().sequences)),
            kv_blocks_used: count(scheduler.pool().used()),
            kv_blocks_total: scheduler.pool().capacity(),
            steps: counts.steps,
        };
    }

    /// One step more; all there is to say of a rank that does not schedule.
    pub(super) fn count_step(&self) {
        self.locked_load().steps += 1;
    }

    /// The step that runs, and the last proof.
    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// What the engine has done so far; all zero on a rank that does not schedule.
    pub(super) fn stats(&self) -> EngineStats {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn locked_load(&self) -> MutexGuard<'_, EngineLoad> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The figures.
    pub(super) fn load(&self) -> EngineLoad {
        *self.locked_load()
    }
}
