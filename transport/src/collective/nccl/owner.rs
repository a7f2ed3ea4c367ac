//! The thread that owns one communicator, and what others say to it.
//!
//! ```text
//!   spawn ──▶ Opening ── answer ──▶ Idle ── order ──▶ Gathering ── answer ──▶ Idle ── dropped ──▶ closed
//!                └────── error, stop ──────────┴───────────┴───────────────────────────▶ aborted
//! ```
//! Not here: deadlines. Whoever waits for an answer drops the [`Owner`] when its patience ends, which stops the thread.
//! Invariants: the device is made, used and dropped on this one thread; at most one order is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::NcclError;

/// How long the thread looks at the device without a pause; a gather within a host is done by then.
const SPIN: Duration = Duration::from_micros(200);
/// Pause between two looks after that.
const PAUSE: Duration = Duration::from_micros(50);
/// How long a dropped owner waits for its thread. A library call that hangs must not hang the rank's end too.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// What a group needs of a device: operations that are begun and looked at, never waited for.
pub(super) trait Device {
    /// Whether what was begun last (opening, or a gather) is done.
    fn poll(&mut self) -> Result<bool, NcclError>;

    /// Begins to gather `width` values of each rank; `mine` may be shorter, what follows it is then of no meaning.
    fn start(&mut self, mine: &[f32], width: usize) -> Result<(), NcclError>;

    /// Copies what a gather that is done has brought: `[world, width]`.
    fn read(&mut self, received: &mut [f32]) -> Result<(), NcclError>;

    /// Ends the communicator in peace, within [`END_TIMEOUT`] unless the library hangs.
    fn close(self);

    /// Ends what is under way, and the communicator.
    fn abort(self);
}

/// One gather, on its way to the thread and back; a group keeps it for its memory.
#[derive(Default)]
pub(super) struct Gather {
    /// At most `width` values.
    pub(super) mine: Vec<f32>,
    /// Values of each rank.
    pub(super) width: usize,
    /// `[world, width]`
    pub(super) received: Vec<f32>,
}

type Answer = Result<Gather, NcclError>;

/// The other threads' end. Dropping it while an answer is due aborts the communicator.
pub(super) struct Owner {
    orders: Option<SyncSender<Gather>>,
    answers: mpsc::Receiver<Answer>,
    /// Never carries anything: it is disconnected when the thread has ended.
    ended: Receiver<()>,
    stop: Arc<AtomicBool>,
    /// An answer is due, or an error was given.
    busy: bool,
    thread: Option<JoinHandle<()>>,
}

impl Owner {
    /// Starts the thread, which opens the device; the first answer tells that it is up.
    pub(super) fn spawn<D: Device>(
        name: String,
        open: impl FnOnce() -> Result<D, NcclError> + Send + 'static,
    ) -> Result<Self, NcclError> {
        let (orders, taken) = sync_channel(1);
        let (answer, answers) = mpsc::channel(1);
        let (alive, ended) = sync_channel(0);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let body = move || {
            let _alive: SyncSender<()> = alive;
            serve(open, &taken, &answer, &stopped);
        };
        let thread =
            thread::Builder::new().name(name).spawn(body).map_err(|e| NcclError::NoThread { reason: e.to_string() })?;
        Ok(Self { orders: Some(orders), answers, ended, stop, busy: true, thread: Some(thread) })
    }

    /// Gives an order. The answer to the one before must have been taken.
    pub(super) fn order(&mut self, gather: Gather) -> Result<(), NcclError> {
        debug_assert!(!self.busy, "one order at a time");
        self.busy = true;
        let orders = self.orders.as_ref().ok_or(NcclError::ThreadEnded)?;
        orders.try_send(gather).map_err(|_| NcclError::ThreadEnded)
    }

    /// The answer to the last order, or to the start.
    ///
    /// Cancel safety: an answer that came meanwhile stays for the next call.
    pub(super) async fn answer(&mut self) -> Answer {
        let answer = self.answers.recv().await.unwrap_or(Err(NcclError::ThreadEnded));
        self.busy = answer.is_err();
        answer
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if self.busy {
            self.stop.store(true, Ordering::Release);
        }
        self.orders = None;
        if self.ended.recv_timeout(END_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            tracing::error!("the thread of an NCCL communicator hangs in a library call and is left behind");
            return;
        }
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread of an NCCL communicator has panicked");
        }
    }
}

/// The thread's life.
fn serve<D: Device>(
    open: impl FnOnce() -> Result<D, NcclError>,
    orders: &Receiver<Gather>,
    answers: &mpsc::Sender<Answer>,
    stop: &AtomicBool,
) {
    // There is room: the answer before was taken when the next order came. A failure is a group that is gone.
    let answer = |answer| drop(answers.try_send(answer));
    let mut device = match open() {
        Ok(device) => device,
        Err(e) => return answer(Err(e)),
    };
    let mut done = wait(&mut device, stop).map(|()| Gather::default());
    loop {
        let failed = done.is_err();
        answer(done);
        if failed || stop.load(Ordering::Acquire) {
            return device.abort();
        }
        // No deadline: it ends when the group's end is dropped.
        let Ok(order) = orders.recv() else { return device.close() };
        done = gather(&mut device, order, stop);
    }
}

fn gather(device: &mut impl Device, mut order: Gather, stop: &AtomicBool) -> Answer {
    device.start(&order.mine, order.width)?;
    wait(device, stop)?;
    device.read(&mut order.received)?;
    Ok(order)
}

fn wait(device: &mut impl Device, stop: &AtomicBool) -> Result<(), NcclError> {
    let since = Instant::now();
    while !device.poll()? {
        if stop.load(Ordering::Acquire) {
            return Err(NcclError::ThreadEnded);
        }
        if since.elapsed() < SPIN {
            thread::yield_now();
        } else {
            thread::sleep(PAUSE);
        }
    }
    Ok(())
}
