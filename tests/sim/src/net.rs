//! The simulated network: every message between two processes, and what the weather does to it.
//!
//! ```text
//!  call ──▶ cut? lost? ──▶ in flight (delay) ──▶ the process that it was sent to still there? ──▶ served ──▶ answer, likewise
//! ```
//! Not here: what messages mean. Invariants: a message arrives only at the start of a process that it was sent to (its
//! connection dies with it); a call that was never sent is told from one that may have been acted on; only calls that are
//! idempotent by design arrive twice, since a stream of QUIC never does that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use protocol::raft::RaftCall;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot;

use crate::fact::Recorder;
use crate::host::HostId;
use crate::message::{Answer, Request};

/// Usual delay of a message, ms.
const DELAY_MS: std::ops::RangeInclusive<u64> = 1..=8;
/// From the loss of a way to its being known: QUIC's idle time-out, ms.
const NOTICE_MS: u64 = 1_000;

/// What happens to messages everywhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weather {
    /// Messages lost, per mille.
    pub lost: u32,
    /// Idempotent calls that arrive twice, per mille.
    pub doubled: u32,
    /// Longest delay on top of the usual, ms: later messages overtake earlier ones.
    pub delay_ms: u64,
}

/// Why a call has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallFailed {
    /// It was not sent.
    Down,
    /// It may have been acted on.
    Deadline,
}

/// A call that has arrived.
#[derive(Debug)]
pub struct Arrived {
    /// Who calls.
    pub from: HostId,
    /// Who is called.
    pub to: HostId,
    /// What.
    pub request: Request,
    /// Where its answer goes.
    pub reply: Reply,
}

/// The way back of one call's answer.
#[derive(Debug)]
pub struct Reply {
    net: Net,
    call: u64,
    from: Party,
    to: Party,
}

impl Reply {
    /// Sends the answer.
    pub fn send(self, answer: Answer) {
        let kind = answer.kind();
        let sent = Envelope { from: self.from, to: self.to, content: Content::Answer { call: self.call, answer } };
        self.net.lock().post(sent, kind, false);
    }
}

/// One start of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Party {
    host: HostId,
    start: u64,
}

#[derive(Debug, Clone)]
struct Envelope {
    from: Party,
    to: Party,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Call { call: u64, request: Request },
    Answer { call: u64, answer: Answer },
}

/// The network. Clones share it.
#[derive(Debug, Clone)]
pub struct Net {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    now_ms: u64,
    rng: StdRng,
    recorder: Recorder,
    weather: Weather,
    /// By arrival, ms, and then in the order of sending.
    in_flight: BTreeMap<(u64, u64), Envelope>,
    num_sent: u64,
    num_calls: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Answer>>,
    /// How often each direction is cut now.
    cuts: BTreeMap<(HostId, HostId), u32>,
    /// The running process of each host.
    running: BTreeMap<HostId, u64>,
    num_starts: u64,
    /// Since when a pair, in order, has no connection.
    apart_since: BTreeMap<(HostId, HostId), u64>,
}

impl Net {
    /// A fair day.
    #[must_use]
    pub fn new(seed: u64, recorder: Recorder) -> Self {
        let state = State {
            now_ms: 0,
            rng: StdRng::seed_from_u64(seed),
            recorder,
            weather: Weather::default(),
            in_flight: BTreeMap::new(),
            num_sent: 0,
            num_calls: 0,
            waiting: BTreeMap::new(),
            cuts: BTreeMap::new(),
            running: BTreeMap::new(),
            num_starts: 0,
            apart_since: BTreeMap::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the network")
    }

    /// Sets the weather.
    pub fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// The weather.
    #[must_use]
    pub fn weather(&self) -> Weather {
        self.lock().weather
    }

    /// Nothing goes this way until it is mended as often as it was cut.
    pub fn cut(&self, from: HostId, to: HostId) {
        *self.lock().cuts.entry((from, to)).or_default() += 1;
    }

    /// Undoes one cut.
    pub fn mend(&self, from: HostId, to: HostId) {
        if let Some(n) = self.lock().cuts.get_mut(&(from, to)) {
            *n = n.saturating_sub(1);
        }
    }

    /// A process starts on `host`; its number, higher than any before.
    pub fn started(&self, host: HostId) -> u64 {
        let mut state = self.lock();
        state.num_starts += 1;
        let start = state.num_starts;
        state.running.insert(host, start);
        start
    }

    /// The process on `host` is gone.
    pub fn killed(&self, host: HostId) {
        self.lock().running.remove(&host);
    }

    /// The hosts of `others` to which `from` has, as far as it knows, a connection.
    #[must_use]
    pub fn connected(&self, from: HostId, others: impl IntoIterator<Item = HostId>) -> BTreeSet<HostId> {
        let mut state = self.lock();
        others.into_iter().filter(|to| *to != from && !state.known_apart(from, *to)).collect()
    }

    /// Calls `to` from the running process of `from`, on whose runtime this is awaited.
    ///
    /// # Errors
    /// [`CallFailed`].
    pub async fn call(
        &self,
        from: HostId,
        to: HostId,
        request: Request,
        deadline: Duration,
    ) -> Result<Answer, CallFailed> {
        let (call, answer) = self.lock().begin(from, to, request).ok_or(CallFailed::Down)?;
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(CallFailed::Deadline),
            Err(_) => {
                self.lock().waiting.remove(&call);
                Err(CallFailed::Deadline)
            }
        }
    }

    /// Goes on to `now_ms`: answers reach who waits for them, calls are returned in the order of their arrival.
    pub fn deliver(&self, now_ms: u64) -> Vec<Arrived> {
        let mut state = self.lock();
        state.now_ms = now_ms;
        state.notice();
        let later = state.in_flight.split_off(&(now_ms + 1, 0));
        let due = std::mem::replace(&mut state.in_flight, later);
        let mut arrived = Vec::new();
        for envelope in due.into_values() {
            let Envelope { from, to, content } = envelope;
            if !state.is_there(to) || !state.is_there(from) || state.is_cut(from.host, to.host) {
                continue;
            }
            match content {
                Content::Call { call, request } => {
                    let reply = Reply { net: self.clone(), call, from: to, to: from };
                    arrived.push(Arrived { from: from.host, to: to.host, request, reply });
                }
                Content::Answer { call, answer } => {
                    if let Some(waiting) = state.waiting.remove(&call) {
                        // Who has stopped waiting needs no answer.
                        let _ = waiting.send(answer);
                    }
                }
            }
        }
        arrived
    }
}

impl State {
    fn is_cut(&self, from: HostId, to: HostId) -> bool {
        self.cuts.get(&(from, to)).is_some_and(|n| *n > 0)
    }

    fn is_there(&self, party: Party) -> bool {
        self.running.get(&party.host) == Some(&party.start)
    }

    fn apart(&self, a: HostId, b: HostId) -> bool {
        self.is_cut(a, b) || self.is_cut(b, a) || !self.running.contains_key(&b) || !self.running.contains_key(&a)
    }

    fn known_apart(&mut self, from: HostId, to: HostId) -> bool {
        if !self.apart(from, to) {
            self.apart_since.remove(&(from, to));
            return false;
        }
        let now = self.now_ms;
        let since = *self.apart_since.entry((from, to)).or_insert(now);
        // A process that never ran cannot be connected to.
        now >= since + NOTICE_MS || now < NOTICE_MS
    }

    /// Connections that are whole again are so from now on.
    fn notice(&mut self) {
        let mut apart = std::mem::take(&mut self.apart_since);
        apart.retain(|(a, b), _| self.apart(*a, *b));
        self.apart_since = apart;
    }

    fn begin(&mut self, from: HostId, to: HostId, request: Request) -> Option<(u64, oneshot::Receiver<Answer>)> {
        if self.known_apart(from, to) {
            return None;
        }
        let party = |state: &Self, host| state.running.get(&host).map(|start| Party { host, start: *start });
        let (waiting, answer) = oneshot::channel();
        self.num_calls += 1;
        let call = self.num_calls;
        self.waiting.insert(call, waiting);
        // To a process that is gone, and not yet known to be: it is sent and never heard.
        if let (Some(from), Some(to)) = (party(self, from), party(self, to)) {
            let kind = request.kind();
            let twice = matches!(&request, Request::Raft(r) if matches!(r.call, RaftCall::AppendEntries | RaftCall::Vote | RaftCall::MayStand));
            self.post(Envelope { from, to, content: Content::Call { call, request } }, kind, twice);
        }
        Some((call, answer))
    }

    fn post(&mut self, envelope: Envelope, kind: &'static str, may_double: bool) {
        let (from, to) = (envelope.from.host, envelope.to.host);
        let Weather { lost, doubled, delay_ms } = self.weather;
        let is_lost = self.rng.gen_range(0..1000) < lost;
        let copies = if may_double && self.rng.gen_range(0..1000) < doubled { 2 } else { 1 };
        if is_lost || self.is_cut(from, to) {
            self.recorder.event(format_args!("{from} -> {to} {kind}: lost"));
            return;
        }
        for _ in 0..copies {
            let at = self.now_ms + self.rng.gen_range(DELAY_MS) + self.rng.gen_range(0..=delay_ms);
            self.num_sent += 1;
            self.recorder.event(format_args!("{from} -> {to} {kind}, arrives {at}"));
            self.in_flight.insert((at, self.num_sent), envelope.clone());
        }
    }
}
