//! The scheduler on loan: while the compute thread is in a step, a thread of its own plans the next one.
//!
//! ```text
//!  compute thread:  schedule ─┬─ compute step k ────────────────┬─ sample, complete k, schedule k+1 by the draft
//!                             └▶ planner thread: draft of k+1 ─▶┘
//! ```
//! Not here: what a draft is (the engine). Invariant: outside of [`Planner::during`] the scheduler is here.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::engine::{Draft, Scheduler};

/// The scheduler, and the thread that it is lent to.
pub(super) struct Planner {
    scheduler: Option<Box<Scheduler>>,
    thread: Option<PlannerThread>,
}

struct PlannerThread {
    lend: SyncSender<Box<Scheduler>>,
    planned: Receiver<(Box<Scheduler>, Draft)>,
    handle: JoinHandle<()>,
}

impl PlannerThread {
    fn start() -> std::io::Result<Self> {
        let (lend, lent) = sync_channel::<Box<Scheduler>>(1);
        let (give_back, planned) = sync_channel(1);
        let plan = move || {
            while let Ok(mut scheduler) = lent.recv() {
                let draft = scheduler.schedule_ahead();
                if give_back.send((scheduler, draft)).is_err() {
                    return;
                }
            }
        };
        let handle = std::thread::Builder::new().name("planner".to_owned()).spawn(plan)?;
        Ok(Self { lend, planned, handle })
    }
}

impl Planner {
    /// Keeps `scheduler`. Without a thread, which the system may refuse, nothing is ever planned ahead.
    pub(super) fn new(scheduler: Scheduler) -> Self {
        let thread = PlannerThread::start().inspect_err(|e| tracing::warn!(error = %e, "no thread to plan ahead with"));
        Self { scheduler: Some(Box::new(scheduler)), thread: thread.ok() }
    }

    /// The scheduler.
    pub(super) fn scheduler(&mut self) -> &mut Scheduler {
        self.scheduler.as_mut().expect("it is lent for the time of a call only")
    }

    /// Computes, and plans the next step meanwhile where `ahead` says so.
    pub(super) fn during<R>(&mut self, ahead: bool, compute: impl FnOnce() -> R) -> (R, Draft) {
        let Some(thread) = self.thread.as_ref().filter(|_| ahead) else { return (compute(), Draft::default()) };
        let scheduler = self.scheduler.take().expect("it is lent for the time of a call only");
        thread.lend.send(scheduler).expect("the planner waits for it until it is dropped");
        let computed = compute();
        // A panic of the planner is one of this thread: the scheduler is lost with it.
        let (scheduler, draft) = thread.planned.recv().expect("the planner gives back what it was lent");
        self.scheduler = Some(scheduler);
        (computed, draft)
    }
}

impl Drop for Planner {
    fn drop(&mut self) {
        if let Some(PlannerThread { lend, planned, handle }) = self.thread.take() {
            drop((lend, planned));
            // It has panicked already or ends now.
            let _ = handle.join();
        }
    }
}
