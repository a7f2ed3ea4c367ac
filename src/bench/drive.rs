//! Makes the requests when they are due: closed loops, an open loop, or agents.
//!
//! Invariant: at most `in_flight_max` requests are in flight; what cannot be sent for that is recorded as dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::call::Caller;
use super::draw::Purpose;
use super::poisson::Poisson;
use super::record::{End, Record};
use super::settings::{Mode, Settings, Trace};
use super::trace::Conversation;
use super::workload::Workload;

/// Arrivals that wait for the runtime to take them.
const ARRIVALS_MAX: usize = 256;
/// Longest sleep of the arrivals' thread before it looks whether the run was stopped.
const STOP_LOOK: Duration = Duration::from_millis(50);

/// A run under way.
#[derive(Debug)]
pub(super) struct Drive {
    settings: Arc<Settings>,
    caller: Caller,
    workload: Workload,
    records: mpsc::Sender<Record>,
    stop: CancellationToken,
    started: Instant,
    issued: AtomicU64,
    conversations: AtomicU64,
}

impl Drive {
    pub(super) fn new(
        settings: Arc<Settings>,
        caller: Caller,
        records: mpsc::Sender<Record>,
        stop: CancellationToken,
    ) -> Self {
        let workload = Workload::new(Arc::clone(&settings), caller.dialect(), caller.lengths());
        let (issued, conversations) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { settings, caller, workload, records, stop, started: Instant::now(), issued, conversations }
    }

    /// Makes every request; returns when all of them are over.
    pub(super) async fn run(self) {
        let this = Arc::new(self);
        match this.settings.mode {
            Mode::Closed { loops } => this.side_by_side(loops, |d| d.closed_loop()).await,
            Mode::Agents(trace) => this.side_by_side(trace.conversations, move |d| d.agent(trace)).await,
            Mode::Open { rate } => this.open_loop(rate).await,
        }
    }

    /// The requests that are not counted, a few at a time.
    pub(super) async fn warm_up(caller: &Caller, settings: &Arc<Settings>, side_by_side: u32) {
        let workload = Arc::new(Workload::new(Arc::clone(settings), caller.dialect(), caller.lengths()));
        let next = Arc::new(AtomicU64::new(0));
        let num = u64::from(settings.warmup);
        let mut loops = JoinSet::new();
        for _ in 0..side_by_side.min(settings.warmup) {
            let (caller, workload, next) = (caller.clone(), Arc::clone(&workload), Arc::clone(&next));
            loops.spawn(async move {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= num {
                        return;
                    }
                    let ask = workload.ask(Purpose::Rehearsal, index, Instant::now());
                    drop(caller.call(ask).await);
                }
            });
        }
        loops.join_all().await;
    }

    async fn side_by_side<F: Future<Output = ()> + Send + 'static>(
        self: Arc<Self>,
        num: u32,
        one: impl Fn(Arc<Self>) -> F,
    ) {
        let mut loops = JoinSet::new();
        for _ in 0..num {
            loops.spawn(one(Arc::clone(&self)));
        }
        loops.join_all().await;
    }

    /// The next request's number; `None` when there are to be no more.
    fn ticket(&self) -> Option<u64> {
        let over = self.settings.stop.duration.is_some_and(|d| self.started.elapsed() >= d);
        if over || self.stop.is_cancelled() {
            return None;
        }
        let index = self.issued.fetch_add(1, Ordering::Relaxed);
        self.settings.stop.requests.is_none_or(|max| index < max).then_some(index)
    }

    async fn record(&self, record: Record) {
        // The tally is there until every sender is gone.
        let _ = self.records.send(record).await;
    }

    async fn closed_loop(self: Arc<Self>) {
        while let Some(index) = self.ticket() {
            let (record, _) = self.caller.call(self.workload.ask(Purpose::Words, index, Instant::now())).await;
            self.record(record).await;
        }
    }

    async fn agent(self: Arc<Self>, trace: Trace) {
        let bounded = self.settings.stop.requests.is_some() || self.settings.stop.duration.is_some();
        loop {
            let number = self.conversations.fetch_add(1, Ordering::Relaxed);
            let talk = Conversation::new(&self.settings, trace, self.caller.lengths(), number);
            if !self.converse(talk).await || !bounded {
                return;
            }
        }
    }

    /// Says whether there may be another conversation after it.
    async fn converse(&self, mut talk: Conversation) -> bool {
        while let Some(pause) = talk.next_pause() {
            let due = Instant::now() + pause;
            tokio::select! {
                () = self.stop.cancelled() => return false,
                () = tokio::time::sleep_until(due) => {}
            }
            if self.ticket().is_none() {
                return false;
            }
            let (record, answer) = self.caller.call(talk.ask(due)).await;
            let done = record.end == End::Done;
            self.record(record).await;
            if !done {
                // An agent that lost its turn starts anew.
                return true;
            }
            talk.answered(answer);
        }
        true
    }

    async fn open_loop(self: Arc<Self>, rate: f64) {
        let (arrivals, mut due) = mpsc::channel(ARRIVALS_MAX);
        let mut calls = JoinSet::new();
        let this = Arc::clone(&self);
        calls.spawn_blocking(move || this.arrive(rate, &arrivals));
        let places = Arc::new(Semaphore::new(self.settings.in_flight_max as usize));
        while let Some((index, at)) = due.recv().await {
            while calls.try_join_next().is_some() {}
            let (this, place) = (Arc::clone(&self), Arc::clone(&places).try_acquire_owned());
            let Ok(place) = place else {
                let class = self.workload.shape(index).class;
                self.record(Record::new(class, End::Dropped)).await;
                continue;
            };
            calls.spawn(async move {
                let (record, _) = this.caller.call(this.workload.ask(Purpose::Words, index, at)).await;
                drop(place);
                this.record(record).await;
            });
        }
        calls.join_all().await;
    }

    /// Says when each request is due, on a thread of its own: the runtime's timer would round each up to a millisecond.
    fn arrive(&self, rate: f64, arrivals: &mpsc::Sender<(u64, Instant)>) {
        for offset in Poisson::new(self.settings.seed, rate) {
            let over = self.settings.stop.duration.is_some_and(|d| offset >= d);
            let due = self.started + offset;
            loop {
                let left = due.saturating_duration_since(Instant::now());
                if self.stop.is_cancelled() || left.is_zero() || over {
                    break;
                }
                std::thread::sleep(left.min(STOP_LOOK));
            }
            let Some(index) = self.ticket().filter(|_| !over) else { return };
            if arrivals.blocking_send((index, due)).is_err() {
                return;
            }
        }
    }
}
