//! The engine's load as numbers that any thread may read while the compute thread steps.
//!
//! Not here: history. Each number is exact as of some step; together they may be of two neighbouring steps.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

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
    preemptions: AtomicU64,
}

impl Gauge {
    /// Takes the scheduler's present figures over.
    pub(super) fn publish(&self, scheduler: &Scheduler) {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.running.store(count(scheduler.num_running()), Ordering::Relaxed);
        self.waiting.store(count(scheduler.num_waiting()), Ordering::Relaxed);
        self.kv_blocks_used.store(count(scheduler.pool().used()), Ordering::Relaxed);
        self.kv_blocks_total.store(scheduler.pool().capacity(), Ordering::Relaxed);
        self.steps.store(scheduler.steps(), Ordering::Relaxed);
        self.preemptions.store(scheduler.preemptions(), Ordering::Relaxed);
    }

    /// One step more; all there is to say of a rank that does not schedule.
    pub(super) fn count_step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// How often a sequence had to give its blocks back.
    pub(super) fn preemptions(&self) -> u64 {
        self.preemptions.load(Ordering::Relaxed)
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
