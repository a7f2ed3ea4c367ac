//! The worker's control thread: one `wait() → Event`, one `apply(Event)`.
//!
//! Not here: computing and serving, which have threads of their own; this one never blocks for longer than a tick, so
//! that the agent hears a sign of life every second whatever a step costs.

use std::any::Any;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use protocol::lease::WorkerPhase;
use protocol::worker::{ToWorker, WorkerSpec};
use protocol::{Epoch, Rank};
use sharding::ModelSpec;
use tokio::sync::mpsc;
use transport::{AbortHandle, NodeIdentity};

use super::compute::{ComputeRank, Order};
use super::constraints::Constraints;
use super::error::WorkerError;
use super::gauge::Gauge;
use super::picture_inbox::PictureInbox;
use super::reporter::Reporter;
use super::serve::{Front, ServeSide};
use super::submission::SUBMISSIONS_MAX;
use crate::grammar::Grammars;
use crate::pipe::{self, PipeError};

/// How often the agent hears that the worker is alive; the least bound of silence that it can be configured to is twice that.
const ALIVE_INTERVAL: Duration = Duration::from_millis(250);
/// How long an aborted step loop may take to end, and the streams' last frames to arrive.
const FLUSH_DEADLINE: Duration = Duration::from_millis(700);
/// Orders that may wait for the compute thread: each comes once.
const ORDERS_MAX: usize = 8;
/// Events that may wait for the control thread.
const EVENTS_MAX: usize = 16;

/// Runs this process as a worker, on its stdin and stdout, until it is drained or its agent goes.
///
/// # Errors
/// [`WorkerError`]; the agent has been told by then.
pub fn run() -> Result<(), WorkerError> {
    run_on(std::io::stdin(), std::io::stdout())
}

/// As [`run`], on other pipes.
///
/// # Errors
/// [`WorkerError`].
pub(crate) fn run_on(
    mut stdin: impl Read + Send + 'static,
    stdout: impl Write + Send + 'static,
) -> Result<(), WorkerError> {
    let Some((epoch, first)) = pipe::read::<ToWorker>(&mut stdin)? else { return Ok(()) };
    let spec = match first {
        ToWorker::Start(spec) if spec.epoch == epoch => *spec,
        ToWorker::Start(spec) => return Err(PipeError::WrongEpoch { found: epoch, expected: spec.epoch }.into()),
        other => return Err(WorkerError::NotStarted { found: name_of(&other) }),
    };
    let reporter = Reporter::new(stdout, spec.epoch);
    // Every line that any thread of this process logs for the rank stands under these fields.
    let span = tracing::info_span!(
        "worker",
        replica_id = spec.replica.0,
        epoch = spec.epoch.0,
        rank = spec.rank.0,
        node_id = %spec.node,
    );
    let _entered = span.enter();
    reporter.phase(WorkerPhase::Starting);
    let control = Control::start(spec, stdin, reporter.clone()).inspect_err(|e| tell_failed(&reporter, e))?;
    control.run()
}

fn tell_failed(reporter: &Reporter, e: &WorkerError) {
    tracing::warn!(error = %e, retryable = e.retryable(), "worker failed");
    reporter.phase(e.phase());
}

enum Event {
    Told(ToWorker),
    /// The agent is gone.
    StdinEnded,
    StdinBroken(PipeError),
    /// The compute thread ended.
    Computed(Result<(), WorkerError>),
    /// Nothing happened for a while.
    Tick,
}

/// How the worker stands towards its end.
///
/// ```text
///  Up ── Drain ─▶ Draining ── deadline ─▶ Ending ── compute ended, or FLUSH_DEADLINE ─▶ (returned)
///   └── stdin ends ─────────────────────────┘
/// ```
enum Life {
    Up,
    Draining { until: Instant },
    Ending { until: Instant },
}

/// The control thread and what it holds of the others.
struct Control {
    events: Receiver<Event>,
    orders: mpsc::Sender<Order>,
    front: Option<ServeSide>,
    abort: Arc<OnceLock<AbortHandle>>,
    gauge: Arc<Gauge>,
    reporter: Reporter,
    life: Life,
    serves: bool,
    alive_at: Instant,
}

impl Control {
    /// Checks the spec, binds the front, starts the threads.
    fn start(spec: WorkerSpec, stdin: impl Read + Send + 'static, reporter: Reporter) -> Result<Self, WorkerError> {
        spec.plan.validate().map_err(|reason| WorkerError::BadPlan { reason })?;
        if spec.rank.index() >= spec.plan.ranks.len() {
            let reason = format!("rank {} of a world of {}", spec.rank, spec.plan.world_size);
            return Err(WorkerError::BadPlan { reason });
        }
        let listen_ip: IpAddr =
            spec.listen_ip.parse().map_err(|_| WorkerError::ListenIp { found: spec.listen_ip.clone() })?;
        let model_spec = ModelSpec::from_config_json(&spec.deployment.model.config_json)?;
        let identity = NodeIdentity::load(spec.identity_dir.as_ref())?;
        let (submissions_tx, submissions) = mpsc::channel(SUBMISSIONS_MAX);
        let front = (spec.rank == Rank(0)).then(|| Front {
            replica: spec.replica,
            epoch: spec.epoch,
            vocab: model_spec.vocab_size,
            context_tokens: spec.plan.context_tokens,
            pictures: PictureInbox::new(model_spec.vision.as_ref(), spec.plan.context_tokens),
            constraints: Constraints::new(Grammars::new(
                spec.deployment.model.dir.clone().into(),
                model_spec.vocab_size,
            )),
            submissions: submissions_tx,
            open: AtomicBool::new(false),
        });
        let serve_at = match &spec.addr {
            Some(addr) => addr.serve().map_err(|found| WorkerError::Address { found })?,
            None => SocketAddr::new(listen_ip, 0),
        };
        let front = front.map(|front| ServeSide::start(serve_at, &identity, front)).transpose()?;
        let epoch = spec.epoch;
        let (orders, orders_rx) = mpsc::channel(ORDERS_MAX);
        let (events_tx, events) = sync_channel(EVENTS_MAX);
        let (gauge, abort) = (Arc::new(Gauge::default()), Arc::new(OnceLock::new()));
        let rank = ComputeRank {
            model_spec,
            identity,
            listen_ip,
            serve_addr: front.as_ref().map(ServeSide::addr),
            orders: orders_rx,
            submissions,
            reporter: reporter.clone(),
            gauge: gauge.clone(),
            abort: abort.clone(),
            spec,
        };
        spawn(format!("rank-{}", rank.spec.rank), compute(rank, events_tx.clone()))?;
        spawn("stdin".to_owned(), move || read_stdin(epoch, stdin, &events_tx))?;
        let alive_at = Instant::now() + ALIVE_INTERVAL;
        Ok(Self { events, orders, front, abort, gauge, reporter, life: Life::Up, serves: false, alive_at })
    }

    fn run(mut self) -> Result<(), WorkerError> {
        let outcome = loop {
            let event = self.wait();
            if let Some(outcome) = self.apply(event) {
                break outcome;
            }
        };
        // The others of its group must not wait until its streams' ends have arrived.
        if let Err(e) = &outcome {
            tell_failed(&self.reporter, e);
        }
        if let Some(front) = self.front {
            front.close(FLUSH_DEADLINE);
        }
        tracing::info!(steps = self.gauge.load().steps, preemptions = self.gauge.stats().preemptions, "worker ends");
        outcome
    }

    /// The one place where this thread waits.
    fn wait(&self) -> Event {
        let until = match self.life {
            Life::Up => self.alive_at,
            Life::Draining { until } | Life::Ending { until } => until.min(self.alive_at),
        };
        match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => Event::Tick,
            // Both threads are gone without a word: the compute thread's panic hook failed.
            Err(RecvTimeoutError::Disconnected) => Event::StdinEnded,
        }
    }

    /// What an event leads to; `Some` ends the worker.
    fn apply(&mut self, event: Event) -> Option<Result<(), WorkerError>> {
        match event {
            Event::Told(message) => self.obey(message),
            Event::StdinEnded => self.end(),
            Event::StdinBroken(e) => Some(Err(e.into())),
            Event::Computed(outcome) => Some(match (outcome, &self.life) {
                (outcome, Life::Up) => outcome,
                // Its peers are leaving too: how the group came apart is of no interest.
                (outcome, _) => {
                    if let Err(e) = outcome {
                        tracing::info!(reason = %e, "the group ended while draining");
                    }
                    Ok(())
                }
            }),
            Event::Tick => self.tick(Instant::now()),
        }
    }

    fn obey(&mut self, message: ToWorker) -> Option<Result<(), WorkerError>> {
        match message {
            ToWorker::Start(_) => tracing::warn!("a second Start is ignored"),
            ToWorker::Connect { peers } => self.order(Order::Connect(peers)),
            ToWorker::Serve => {
                self.serves = true;
                self.order(Order::Serve);
                if let Some(front) = &self.front {
                    front.open();
                }
            }
            ToWorker::Drain { deadline_ms } => {
                self.reporter.phase(WorkerPhase::Draining);
                // Nothing runs before it serves, and loading cannot be interrupted.
                if !self.serves {
                    return Some(Ok(()));
                }
                self.order(Order::Drain);
                let until = Instant::now() + Duration::from_millis(u64::from(deadline_ms));
                self.life = Life::Draining { until };
            }
        }
        None
    }

    /// Each order comes once, so there is room; a compute thread that is gone says so by its own event.
    fn order(&self, order: Order) {
        if let Err(e) = self.orders.try_send(order) {
            tracing::warn!(reason = %e, "an order did not reach the compute thread");
        }
    }

    fn tick(&mut self, now: Instant) -> Option<Result<(), WorkerError>> {
        if now >= self.alive_at {
            let stats = self.front.is_some().then(|| self.gauge.stats());
            self.reporter.alive(self.gauge.load(), stats, self.gauge.progress().proof(now));
            self.alive_at = now + ALIVE_INTERVAL;
            if let (Life::Up, Some(stuck)) = (&self.life, self.gauge.progress().stuck(now)) {
                return Some(Err(stuck.into()));
            }
        }
        match self.life {
            Life::Draining { until } if now >= until => self.end(),
            Life::Ending { until } if now >= until => Some(Ok(())),
            _ => None,
        }
    }

    /// Cuts the step loop short; its streams are told that they may be resumed elsewhere.
    fn end(&mut self) -> Option<Result<(), WorkerError>> {
        let Some(abort) = self.abort.get() else { return Some(Ok(())) };
        abort.abort();
        self.life = Life::Ending { until: Instant::now() + FLUSH_DEADLINE };
        None
    }
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> Result<(), WorkerError> {
    let span = tracing::Span::current();
    let started = std::thread::Builder::new().name(name.clone()).spawn(move || span.in_scope(body));
    // Not joined: a stuck step must not keep the process; its end comes as an event.
    started.map(drop).map_err(|source| WorkerError::Thread { name, source })
}

fn compute(rank: ComputeRank, events: SyncSender<Event>) -> impl FnOnce() + Send + 'static {
    move || {
        let outcome = catch_unwind(AssertUnwindSafe(|| rank.run()))
            .unwrap_or_else(|panic| Err(WorkerError::Panicked { reason: panic_text(&*panic) }));
        // The control thread may have returned already.
        let _ = events.send(Event::Computed(outcome));
    }
}

fn read_stdin(epoch: Epoch, mut stdin: impl Read, events: &SyncSender<Event>) {
    loop {
        let (event, last) = match pipe::read_of::<ToWorker>(epoch, &mut stdin) {
            Ok(Some(message)) => (Event::Told(message), false),
            Ok(None) => (Event::StdinEnded, true),
            Err(e) => (Event::StdinBroken(e), true),
        };
        if events.send(event).is_err() || last {
            return;
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

fn name_of(message: &ToWorker) -> &'static str {
    match message {
        ToWorker::Start(_) => "Start",
        ToWorker::Connect { .. } => "Connect",
        ToWorker::Serve => "Serve",
        ToWorker::Drain { .. } => "Drain",
    }
}
