//! The engine's load and totals as numbers that any thread may read while the compute thread steps.
//!
//! Not here: history. Each number is exact as of some step; together they may be of two neighbouring steps.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use protocol::stats::EngineStats;
use protocol::worker::EngineLoad;

use crate::engine::Scheduler;

/// Shared by the compute thread (writes) and the control thread (reads).
#[derive(Debug, Default)]
pub(super) struct Gauge {
    running: AtomicU32,
    waiting: AtomicU32,
    kv_blocks_used: AtomicU32,
    kv_blocks_total: AtomicU32,
    steps: AtomicU64,
    /// Locked for the time of a copy by either side, so neither waits.
    stats: Mutex<EngineStats>,
}

impl Gauge {
    /// Takes the scheduler's present figures over, and what the step loop has counted besides.
    pub(super) fn publish(&self, scheduler: &Scheduler, counted: &EngineStats) {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let counts = scheduler.counts();
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.clone_from(counted);
        stats.prefix_cache_queries = counts.prefix_queries;
        stats.prefix_cache_hits = counts.prefix_hits;
        stats.prefix_cache_evictions = counts.evictions;
        stats.preemptions = counts.preemptions;
        drop(stats);
        self.running.store(count(scheduler.num_running()), Ordering::Relaxed);
        self.waiting.store(count(scheduler.num_waiting()), Ordering::Relaxed);
        self.kv_blocks_used.store(count(scheduler.pool().used()), Ordering::Relaxed);
        self.kv_blocks_total.store(scheduler.pool().capacity(), Ordering::Relaxed);
        self.steps.store(counts.steps, Ordering::Relaxed);
    }

    /// One step more; all there is to say of a rank that does not schedule.
    pub(super) fn count_step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// What the engine has done so far; all zero on a rank that does not schedule.
    pub(super) fn stats(&self) -> EngineStats {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The figures.
    pub(super) fn load(&self) -> EngineLoad {
        EngineLoad {
            running: self.running.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
            kv_blocks_used: self.kv_blocks_used.load(Ordering::Relaxed),
            kv_blocks_total: self.kv_blocks_total.load(Ordering::Relaxed),
            steps: self.steps.load(Ordering::Relaxed),
        }
    }
}
