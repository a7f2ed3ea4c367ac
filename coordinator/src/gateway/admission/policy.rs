//! Decides which prompt is taken, refused, or left waiting, and which replica gets it.
//!
//! Pure: `(state, event, now)` to decisions; no clock, socket, task or randomness. A prompt *costs* its own tokens and, for each
//! of its choices, as many as answers have had of late, at most what was asked for. It *waits* while no replica has room for
//! it; of those that wait, the most urgent goes first, then whoever came first, and nobody overtakes it (or a large prompt
//! would starve). While no replica stands and one is to come, all wait, and newcomers are judged as if the last ones stood, idle.
//! How long a newcomer would wait is what must be given back before it has room, over the rate at which
//! replicas serve; how long its answer would then take, running ones show. While neither is known nobody is refused for the
//! time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::generate::Priority;

use super::lane::{Cost, Lane};
use crate::view::{Group, ReadyReplica, ServedDeployment};

/// After this, a refused client may try again where the queue gives no better estimate.
const RETRY_UNKNOWN: Duration = Duration::from_secs(1);
/// The most that a refused client is told to wait: the estimate behind it is worth no more.
const RETRY_MAX: Duration = Duration::from_secs(600);

/// Bounds of what waits, over all deployments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) struct Bounds {
    /// KV tokens that waiting prompts will take up.
    pub(in crate::gateway) tokens: u64,
    /// Memory that waiting requests hold, bytes.
    pub(in crate::gateway) bytes: u64,
    /// Longest that a prompt waits while no replica stands and one is to come.
    pub(in crate::gateway) replica_wait: Duration,
}

/// One prompt that wants to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) struct Demand {
    /// Its length, tokens.
    pub(in crate::gateway) prompt: u32,
    /// Longest that each answer may be, tokens.
    pub(in crate::gateway) answer_max: u32,
    /// How many answers.
    pub(in crate::gateway) choices: u16,
    /// Memory that it holds while it waits, bytes.
    pub(in crate::gateway) bytes: u64,
}

/// A prompt that was taken; in the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(u64);

/// Why a request is not taken. Nothing was done for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum No {
    /// What waits would take up more KV tokens than may wait.
    QueueTokens {
        /// With this request.
        found: u64,
        /// The bound.
        max: u64,
        /// When there may be room.
        retry: Duration,
    },
    /// What waits would hold more memory than may be held.
    QueueBytes {
        /// With this request.
        found: u64,
        /// The bound.
        max: u64,
        /// When there may be room.
        retry: Duration,
    },
    /// It would not be answered before its deadline.
    TooLate {
        /// How long it would take: its wait for a replica, and then its answer.
        needed: Duration,
        /// How much time it has left.
        left: Duration,
        /// When there may be time enough.
        retry: Duration,
    },
}

/// What becomes of a prompt that waited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Grant {
    /// It goes here.
    Placed(ReadyReplica),
    /// No replica that is ready has the context for it, or none is ready or to come.
    NoReplica,
}

/// What waits and what is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Snapshot {
    /// Prompts that wait.
    pub(super) waiting: u64,
    /// KV tokens that they will take up.
    pub(super) waiting_tokens: u64,
    /// Memory that they hold, bytes.
    pub(super) waiting_bytes: u64,
    /// Prompts at a replica.
    pub(super) in_flight: u64,
}

/// The state.
#[derive(Debug)]
pub(super) struct Policy {
    bounds: Bounds,
    /// By deployment.
    lanes: BTreeMap<String, Lane>,
    tickets: BTreeMap<Ticket, Entry>,
    next: Ticket,
    waiting_tokens: u64,
    waiting_bytes: u64,
}

/// One ticket's life: `Waiting ─▶ Placed ─▶ (gone)`; it may go from either.
#[derive(Debug)]
struct Entry {
    lane: String,
    demand: Demand,
    cost: Cost,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Waiting {
        priority: Priority,
        since: Instant,
    },
    Placed {
        replica: ReadyReplica,
        /// Whether its prompt was counted as served.
        begun: bool,
        /// Tokens of its answers so far.
        answered: u64,
        /// When the last of them came.
        last: Instant,
    },
}

impl Policy {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            lanes: BTreeMap::new(),
            tickets: BTreeMap::new(),
            next: Ticket(0),
            waiting_tokens: 0,
            waiting_bytes: 0,
        }
    }

    /// Takes over what is served now.
    pub(super) fn view(&mut self, deployments: &[Arc<ServedDeployment>]) {
        let named = |name: &str| deployments.iter().find(|d| d.spec.name == name).map(AsRef::as_ref);
        for deployment in deployments {
            self.lanes.entry(deployment.spec.name.clone()).or_insert_with(Lane::new);
        }
        self.lanes.iter_mut().for_each(|(name, lane)| lane.view(named(name)));
        for entry in self.tickets.values() {
            let Phase::Placed { replica, .. } = &entry.phase else { continue };
            if let Some(lane) = self.lanes.get_mut(&entry.lane) {
                lane.resume(replica.replica, replica.epoch, entry.cost);
            }
        }
        // A lane that nobody is in and that serves nothing is forgotten.
        let in_use: std::collections::BTreeSet<&str> = self.tickets.values().map(|e| e.lane.as_str()).collect();
        self.lanes.retain(|name, _| named(name).is_some() || in_use.contains(name.as_str()));
    }

    /// A request for a deployment: all of its prompts are taken, or none.
    ///
    /// # Errors
    /// [`No`].
    pub(super) fn arrive(
        &mut self,
        deployment: &str,
        demands: &[Demand],
        priority: Priority,
        deadline: Instant,
        now: Instant,
    ) -> Result<Vec<Ticket>, No> {
        let lane = self.lanes.entry(deployment.to_owned()).or_insert_with(Lane::new);
        let costs: Vec<Cost> = demands.iter().map(|d| lane.cost(d)).collect();
        let cost: Cost = costs.iter().copied().sum();
        let bytes = demands.iter().map(|d| d.bytes).sum();
        let due = lane.due_before(priority, cost);
        let at_once = lane.ahead(priority) == Cost::default()
            && lane.place_all(demands.iter().map(Demand::context_tokens).zip(costs.iter().copied()));
        let wait = if at_once { Duration::ZERO } else { lane.time_for(due).unwrap_or_default() };
        let longest = demands.iter().map(|d| lane.lengths.long(d.answer_max)).max().unwrap_or(0);
        let side_by_side = lane.side_by_side(cost.seqs).min(lane.side_by_side_max());
        let needed = wait.saturating_add(lane.pace.answering(longest, side_by_side));
        if !at_once {
            self.may_wait(deployment, cost, bytes)?;
        }
        let left = deadline.saturating_duration_since(now);
        if needed > left {
            return Err(No::TooLate { needed, left, retry: retry(Some(needed - left)) });
        }
        let lane = self.lanes.get_mut(deployment).expect("entered above");
        let mut tickets = Vec::with_capacity(demands.len());
        for (demand, cost) in demands.iter().zip(costs) {
            let ticket = self.next;
            self.next = Ticket(ticket.0 + 1);
            lane.enqueue(priority, ticket, cost);
            self.waiting_tokens += cost.tokens;
            self.waiting_bytes += demand.bytes;
            let phase = Phase::Waiting { priority, since: now };
            self.tickets.insert(ticket, Entry { lane: deployment.to_owned(), demand: *demand, cost, phase });
            tickets.push(ticket);
        }
        Ok(tickets)
    }

    /// Whether there is room in the queue.
    fn may_wait(&self, deployment: &str, cost: Cost, bytes: u64) -> Result<(), No> {
        let lane = &self.lanes[deployment];
        let (tokens, bytes) = (self.waiting_tokens + cost.tokens, self.waiting_bytes + bytes);
        if tokens > self.bounds.tokens {
            let max = self.bounds.tokens;
            return Err(No::QueueTokens { found: tokens, max, retry: retry(lane.time_for(tokens - max)) });
        }
        if bytes > self.bounds.bytes {
            // How much memory comes with how many tokens is not known: the time for as much as this one brings.
            let max = self.bounds.bytes;
            return Err(No::QueueBytes { found: bytes, max, retry: retry(lane.time_for(cost.tokens)) });
        }
        Ok(())
    }

    /// Everything that can be decided of what waits; each ticket once, with how long it waited.
    pub(super) fn grants(&mut self, now: Instant) -> Vec<(Ticket, Grant, Duration)> {
        let mut grants = Vec::new();
        for lane in self.lanes.values_mut() {
            lane.look(now);
            let awaited = lane.is_awaited() && !self.bounds.replica_wait.is_zero();
            while let Some(ticket) = lane.next() {
                let entry = self.tickets.get_mut(&ticket).expect("whoever waits has an entry");
                let Phase::Waiting { priority, since } = entry.phase else {
                    unreachable!("whoever stands in a queue is waiting");
                };
                let context = entry.demand.context_tokens();
                let site = lane.free_site(entry.cost, context);
                if site.is_none() && (awaited || lane.has_context(context)) {
                    break;
                }
                lane.dequeue(priority, ticket, entry.cost);
                self.waiting_tokens -= entry.cost.tokens;
                self.waiting_bytes -= entry.demand.bytes;
                let waited = now.saturating_duration_since(since);
                let grant = match site {
                    Some(site) => {
                        let replica = lane.occupy(site, entry.cost, now);
                        entry.phase = Phase::Placed { replica: replica.clone(), begun: false, answered: 0, last: now };
                        Grant::Placed(replica)
                    }
                    None => {
                        self.tickets.remove(&ticket);
                        Grant::NoReplica
                    }
                };
                grants.push((ticket, grant, waited));
            }
        }
        grants
    }

    /// Until when a prompt waits that waits because no replica stands; `None` while one does.
    pub(super) fn patience(&self, ticket: Ticket) -> Option<Instant> {
        let entry = self.tickets.get(&ticket)?;
        let Phase::Waiting { since, .. } = entry.phase else { return None };
        let unserved = self.lanes.get(&entry.lane)?.unserved_since()?;
        Some(unserved.max(since) + self.bounds.replica_wait)
    }

    /// Longest context that the last replicas of a deployment took, while none stands.
    pub(super) fn context_before(&self, deployment: &str) -> Option<u32> {
        self.lanes.get(deployment)?.context_before()
    }

    /// A prompt is over, or its client is gone.
    pub(super) fn leave(&mut self, ticket: Ticket, now: Instant) {
        let Some(entry) = self.tickets.remove(&ticket) else { return };
        let Some(lane) = self.lanes.get_mut(&entry.lane) else { return };
        match entry.phase {
            Phase::Waiting { priority, .. } => {
                lane.dequeue(priority, ticket, entry.cost);
                self.waiting_tokens -= entry.cost.tokens;
                self.waiting_bytes -= entry.demand.bytes;
            }
            Phase::Placed { replica, .. } => lane.vacate(replica.replica, replica.epoch, entry.cost, now),
        }
    }

    /// Its replica could not answer, or not to the end: a group that is not among `avoid`, where there is one. It was taken
    /// once, so it does not wait again. What it has of its answers goes with it and will be computed there once more.
    pub(super) fn elsewhere(&mut self, ticket: Ticket, avoid: &[Group], now: Instant) -> Option<ReadyReplica> {
        let entry = self.tickets.get_mut(&ticket)?;
        let Phase::Placed { replica, begun, last, .. } = &mut entry.phase else { return None };
        let lane = self.lanes.get_mut(&entry.lane)?;
        let site = lane.other_site(entry.demand.context_tokens(), avoid)?;
        lane.vacate(replica.replica, replica.epoch, entry.cost, now);
        *replica = lane.occupy(site, entry.cost, now);
        (*begun, *last) = (false, now);
        Some(replica.clone())
    }

    /// A replica brought so many tokens of a prompt's answers; the first time, its prompt was computed too, and what an
    /// earlier replica had brought. `running`: how many answers it was working on.
    pub(super) fn served(&mut self, ticket: Ticket, tokens: u32, running: u16, now: Instant) {
        let Some(entry) = self.tickets.get_mut(&ticket) else { return };
        let Phase::Placed { replica, begun, answered, last } = &mut entry.phase else { return };
        let Some(lane) = self.lanes.get_mut(&entry.lane) else { return };
        let between = now.saturating_duration_since(*last);
        let prompt = if std::mem::replace(begun, true) { 0 } else { u64::from(entry.demand.prompt) + *answered };
        let side_by_side = lane.side_by_side(0);
        if prompt > 0 {
            lane.pace.first(between, side_by_side);
        } else {
            lane.pace.tokens(between * u32::from(running.max(1)), tokens, side_by_side, now);
        }
        *last = now;
        *answered += u64::from(tokens);
        let in_use = u64::from(entry.demand.prompt) + *answered;
        let grown = Cost { tokens: in_use.saturating_sub(entry.cost.tokens), seqs: 0 };
        entry.cost.tokens += grown.tokens;
        lane.served(replica.replica, replica.epoch, prompt + u64::from(tokens), grown, now);
    }

    /// One answer has ended by itself after so many tokens.
    pub(super) fn answered(&mut self, ticket: Ticket, tokens: u32) {
        let lane = self.tickets.get(&ticket).and_then(|e| self.lanes.get_mut(&e.lane));
        if let Some(lane) = lane {
            lane.lengths.ended(tokens);
        }
    }

    /// One answer was cut off after so many tokens.
    pub(super) fn cut_off(&mut self, ticket: Ticket, tokens: u32) {
        let lane = self.tickets.get(&ticket).and_then(|e| self.lanes.get_mut(&e.lane));
        if let Some(lane) = lane {
            lane.lengths.cut_off(tokens);
        }
    }

    /// When one of the prompts here will be over, on the average; for whoever finds every place taken.
    pub(super) fn one_is_over_in(&self) -> Duration {
        let rate = self.lanes.values().filter_map(Lane::rate).reduce(|a, b| a + b);
        let tokens: u64 = self.tickets.values().map(|e| e.cost.tokens).sum();
        let one = tokens / (self.tickets.len() as u64).max(1);
        retry(rate.and_then(|rate| time_for(one, rate)))
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let waiting = self.tickets.values().filter(|e| matches!(e.phase, Phase::Waiting { .. })).count() as u64;
        Snapshot {
            waiting,
            waiting_tokens: self.waiting_tokens,
            waiting_bytes: self.waiting_bytes,
            in_flight: self.tickets.len() as u64 - waiting,
        }
    }

    #[cfg(test)]
    fn placed(&self, ticket: Ticket) -> Option<Group> {
        match &self.tickets.get(&ticket)?.phase {
            Phase::Placed { replica, .. } => Some(replica.group()),
            Phase::Waiting { .. } => None,
        }
    }
}

impl Demand {
    /// What a replica's context must hold: the prompt and its longest answer.
    fn context_tokens(&self) -> u64 {
        u64::from(self.prompt) + u64::from(self.answer_max)
    }
}

impl Lane {
    fn cost(&self, demand: &Demand) -> Cost {
        let seqs = u64::from(demand.choices);
        let answers = seqs * u64::from(self.lengths.typical(demand.answer_max));
        Cost { tokens: u64::from(demand.prompt) + answers, seqs }
    }

    /// How long replicas take to serve so many tokens; `None` while no rate is known.
    fn time_for(&self, tokens: u64) -> Option<Duration> {
        time_for(tokens, self.rate()?)
    }
}

fn time_for(tokens: u64, rate: f64) -> Option<Duration> {
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let seconds = tokens as f64 / rate.max(f64::MIN_POSITIVE);
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

fn retry(estimate: Option<Duration>) -> Duration {
    estimate.unwrap_or(RETRY_UNKNOWN).clamp(Duration::from_millis(1), RETRY_MAX)
}

#[cfg(test)]
mod tests;
