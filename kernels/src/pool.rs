//! The threads that a rank computes with. Not a scheduler: one call at a time, items handed out by a counter.
//!
//! The caller works too, so a pool of 1 has no thread of its own and never leaves the calling stack. Which thread runs
//! an item never changes a result: items write disjoint outputs and share nothing else.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::KernelError;
use crate::simd::Isa;

/// Most threads in a pool.
pub const THREADS_MAX: usize = 512;

/// Multiply-adds below which waking another thread (some 20 µs) costs more than it saves.
const PARALLEL_WORK_MIN: u64 = 1 << 20;

/// Compute threads and the instruction set they use. Cheap to clone; the threads end with the last clone.
#[derive(Debug, Clone)]
pub struct Pool {
    isa: Isa,
    threads: NonZeroUsize,
    /// `threads - 1` workers; the caller is the last one.
    workers: Option<Arc<rayon::ThreadPool>>,
}

impl Pool {
    /// A pool of `threads` threads, the caller among them, on the widest instruction set the machine has.
    ///
    /// # Errors
    /// [`KernelError::Threads`] past [`THREADS_MAX`]; [`KernelError::Spawn`] when the system refuses them.
    pub fn new(threads: NonZeroUsize) -> Result<Self, KernelError> {
        Self::with_isa(threads, Isa::best())
    }

    /// As [`Self::new`] on a given instruction set; every one gives the same bits.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_isa(threads: NonZeroUsize, isa: Isa) -> Result<Self, KernelError> {
        let n = threads.get();
        if n > THREADS_MAX {
            return Err(KernelError::Threads { threads: n, max: THREADS_MAX });
        }
        let workers = match n {
            1 => None,
            _ => {
                let built = rayon::ThreadPoolBuilder::new()
                    .num_threads(n - 1)
                    .thread_name(|i| format!("kernels-{}", i + 1))
                    .build()
                    .map_err(|e| KernelError::Spawn { threads: n, reason: e.to_string() })?;
                Some(Arc::new(built))
            }
        };
        Ok(Self { isa, threads, workers })
    }

    /// One thread, the caller's, on the widest instruction set.
    #[must_use]
    pub fn inline() -> Self {
        Self { isa: Isa::best(), threads: NonZeroUsize::MIN, workers: None }
    }

    /// How many threads work, the caller among them.
    #[must_use]
    pub fn threads(&self) -> NonZeroUsize {
        self.threads
    }

    /// The instruction set in use.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// How many pieces to cut work of `work` multiply-adds into: 1 where it is too small to share.
    pub(crate) fn pieces(&self, work: u64) -> usize {
        if self.workers.is_none() || work < PARALLEL_WORK_MIN { 1 } else { self.threads.get() * 4 }
    }

    /// Runs `f(0), …, f(items - 1)`, each once, in any order, and returns when all are done.
    pub(crate) fn run(&self, items: usize, f: impl Fn(usize) + Sync) {
        let Some(workers) = self.workers.as_ref().filter(|_| items > 1) else {
            (0..items).for_each(f);
            return;
        };
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let item = next.fetch_add(1, Ordering::Relaxed);
                if item >= items {
                    return;
                }
                f(item);
            }
        };
        workers.in_place_scope(|scope| {
            for _ in 1..self.threads.get().min(items) {
                scope.spawn(|_| work());
            }
            work();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_runs_once_at_any_number_of_threads() {
        for threads in 1..=3 {
            let pool = Pool::new(NonZeroUsize::new(threads).expect("not 0")).expect("threads start");
            for items in [0, 1, 2, 7, 100] {
                let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
                pool.run(items, |i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn more_threads_than_the_bound_are_refused() {
        let asked = NonZeroUsize::new(THREADS_MAX + 1).expect("not 0");
        assert!(matches!(Pool::new(asked), Err(KernelError::Threads { threads: 513, max: 512 })));
    }
}
