//! Streams that are told here, and how far their keepers know of them. Pure: time is an argument.
//!
//! ```text
//!  open ──▶ Opening: one keeper is asked ──acknowledged──▶ Kept ──ended or gone, and its keeper knows all──▶ removed
//!             ▲  │ ▲                                        │ │ ▲
//!             │  └─┘ none acknowledges: one more each       │ └─┘ news; and now and then none, so that it is not forgotten
//!             │      HEDGE_AFTER; full, silent: the next    │
//!             └──────────── full, silent, gone ─────────────┘
//! ```
//! Invariants: who acknowledges an opening first is the one keeper, and what others say of it later is of no matter; of one
//! stream a keeper is told in order; bounded in bytes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use protocol::journal::{JOURNAL_BATCH_MAX, JOURNAL_BODY_BYTES_MAX, JournalEntry, Taken, TakenIds};
use protocol::{CoordinatorId, RequestId};
use tokio_util::sync::CancellationToken;

/// Most memory of all streams, bytes.
const BYTES_MAX: u64 = 256 << 20;
/// Most memory of one stream, bytes: what fits a frame with ease. Ids beyond it are not kept.
const STREAM_BYTES_MAX: usize = 32 << 20;
/// Most entries that one batch begins.
const BEGINS_MAX: usize = 8;
/// A keeper hears of a stream at least so often; a fraction of how long it waits.
const RENEW_INTERVAL: Duration = Duration::from_secs(15);
/// How long an opening waits for one keeper before another one is asked too. A keeper that lives answers in milliseconds, one
/// that was just killed looks connected for seconds: until another one has the request, the stream ends with this gateway. Long
/// enough that a keeper which is merely busy is seldom asked for nothing.
pub(super) const HEDGE_AFTER: Duration = Duration::from_millis(150);
/// How long a keeper that was full or silent is left alone.
const AVOID: Duration = Duration::from_secs(2);
/// How long a stream that is told no more waits for a keeper.
const GONE_MAX: Duration = Duration::from_secs(10);

/// Who keeps a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Keeper {
    /// For want of others: it survives its client's connection, not this coordinator.
    Here,
    /// Another coordinator.
    Peer(CoordinatorId),
}

/// What one keeper is told at once.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) begins: Vec<JournalEntry>,
    pub(super) taken: Vec<Taken>,
}

/// What became of one stream's part of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    Kept,
    /// The keeper does not know of the stream any more.
    Unknown,
    /// It has no room.
    Refused,
    /// It did not answer, or was not asked because it did not answer just before.
    Silent,
}

#[derive(Debug, Default)]
pub(super) struct Desk {
    told: HashMap<RequestId, Told>,
    bytes: u64,
    /// Of which a keeper should hear.
    news: BTreeSet<RequestId>,
    /// Those that are [`Keeping::Opening`].
    opening: BTreeSet<RequestId>,
    /// Keepers that are left alone, and until when.
    avoided: BTreeMap<Keeper, Instant>,
}

#[derive(Debug)]
struct Told {
    entry: JournalEntry,
    bytes: u64,
    deadline: Instant,
    keeping: Keeping,
    renewed: Instant,
    ended: bool,
    gone: Option<Instant>,
    taken_over: CancellationToken,
}

/// Whether somebody keeps a stream. `sent`: by choice, how many ids that keeper has been told.
#[derive(Debug)]
enum Keeping {
    /// Nobody has acknowledged it.
    Opening {
        /// When it became due, or the last keeper was asked.
        since: Instant,
        /// Who has not answered yet.
        asked: Vec<(Keeper, Vec<usize>)>,
    },
    Kept {
        keeper: Keeper,
        sent: Vec<usize>,
    },
}

impl Desk {
    /// `None` where there is no room. Of two streams of one id the later one is kept.
    pub(super) fn open(&mut self, entry: JournalEntry, deadline: Instant, now: Instant) -> Option<CancellationToken> {
        let (id, bytes) = (entry.id, entry.bytes());
        if entry.body.len() > JOURNAL_BODY_BYTES_MAX
            || bytes > STREAM_BYTES_MAX
            || self.bytes + bytes as u64 > BYTES_MAX
            || self.told.get(&id).is_some_and(|t| t.entry.version >= entry.version)
        {
            return None;
        }
        self.remove(id);
        let taken_over = CancellationToken::new();
        let told = Told {
            entry,
            bytes: bytes as u64,
            deadline,
            keeping: Keeping::opening(now),
            renewed: now,
            ended: false,
            gone: None,
            taken_over: taken_over.clone(),
        };
        self.bytes += told.bytes;
        self.told.insert(id, told);
        self.opening.insert(id);
        Some(taken_over)
    }

    pub(super) fn opened(&mut self, id: RequestId, version: u64, prompt: usize, cached: u32) {
        let Some(told) = self.of(id, version) else { return };
        if let Some(known) = told.entry.cached.get_mut(prompt) {
            *known = Some(cached);
        }
        self.news.insert(id);
    }

    pub(super) fn took(
        &mut self,
        id: RequestId,
        version: u64,
        choice: usize,
        from: usize,
        ids: impl Iterator<Item = u32>,
    ) {
        let room = BYTES_MAX.saturating_sub(self.bytes);
        let Some(told) = self.of(id, version) else { return };
        let room = room.min((STREAM_BYTES_MAX as u64).saturating_sub(told.bytes)) / size_of::<u32>() as u64;
        let Some(known) = told.entry.taken.get_mut(choice) else { return };
        let before = known.len();
        if let Some(overlap) = before.checked_sub(from) {
            known.extend(ids.skip(overlap).take(usize::try_from(room).unwrap_or(usize::MAX)));
        }
        let grown = ((known.len() - before) * size_of::<u32>()) as u64;
        told.bytes += grown;
        self.bytes += grown;
        if grown > 0 {
            self.news.insert(id);
        }
    }

    pub(super) fn ended(&mut self, id: RequestId, version: u64) {
        if let Some(told) = self.of(id, version) {
            told.ended = true;
            self.news.insert(id);
        }
    }

    pub(super) fn gone(&mut self, id: RequestId, version: u64, now: Instant) {
        if let Some(told) = self.of(id, version) {
            told.gone = Some(now);
            self.news.insert(id);
        }
    }

    /// What is known of a stream, which is told here no more. Somebody else's is none.
    pub(super) fn give_up(&mut self, id: RequestId, principal: &str, now: Instant) -> Option<JournalEntry> {
        self.told.get(&id).filter(|t| t.entry.principal == principal)?;
        let told = self.remove(id)?;
        told.taken_over.cancel();
        Some(told.snapshot(now))
    }

    /// What each keeper that is not busy should hear now; `busy` since when. It counts as told until [`Self::delivered`] says
    /// otherwise.
    pub(super) fn due(
        &mut self,
        up: &BTreeSet<CoordinatorId>,
        busy: &BTreeMap<Keeper, Instant>,
        now: Instant,
    ) -> BTreeMap<Keeper, Batch> {
        self.avoided.retain(|_, until| now < *until);
        let mut batches = BTreeMap::new();
        self.tell_news(up, busy, now, &mut batches);
        self.tell_openings(up, busy, now, &mut batches);
        batches
    }

    fn tell_news(
        &mut self,
        up: &BTreeSet<CoordinatorId>,
        busy: &BTreeMap<Keeper, Instant>,
        now: Instant,
        batches: &mut BTreeMap<Keeper, Batch>,
    ) {
        let mut later = BTreeSet::new();
        for id in std::mem::take(&mut self.news) {
            let Some(told) = self.told.get_mut(&id) else { continue };
            let stays = match &told.keeping {
                Keeping::Opening { .. } => true,
                Keeping::Kept { keeper: Keeper::Peer(peer), .. } => up.contains(peer),
                Keeping::Kept { keeper: Keeper::Here, .. } => {
                    up.iter().all(|peer| self.avoided.contains_key(&Keeper::Peer(*peer)))
                }
            };
            if !stays {
                told.keeping = Keeping::opening(now);
                self.opening.insert(id);
            }
            let Keeping::Kept { keeper, sent } = &mut told.keeping else {
                later.insert(id);
                continue;
            };
            if busy.contains_key(keeper) {
                later.insert(id);
                continue;
            }
            let batch: &mut Batch = batches.entry(*keeper).or_default();
            if batch.taken.len() == JOURNAL_BATCH_MAX {
                later.insert(id);
                continue;
            }
            told.renewed = now;
            batch.taken.push(since(&told.entry, sent, told.ended));
        }
        self.news = later;
    }

    fn tell_openings(
        &mut self,
        up: &BTreeSet<CoordinatorId>,
        busy: &BTreeMap<Keeper, Instant>,
        now: Instant,
        batches: &mut BTreeMap<Keeper, Batch>,
    ) {
        let slow = |keeper: &Keeper| busy.get(keeper).is_some_and(|since| is_overdue(*since, now));
        for id in &self.opening {
            let Some(told) = self.told.get_mut(id) else { continue };
            let Keeping::Opening { since, asked } = &told.keeping else { continue };
            let ranked = ranked(*id, up, &self.avoided, slow);
            let may = |keeper: &&Keeper| !busy.contains_key(keeper) && !asked.iter().any(|(other, _)| other == *keeper);
            let next = match (is_overdue(*since, now), asked.is_empty()) {
                (true, _) => ranked.iter().find(may),
                (false, true) => ranked.first().filter(may),
                (false, false) => None,
            };
            let Some(keeper) = next.copied() else { continue };
            let batch = batches.entry(keeper).or_default();
            if batch.begins.len() == BEGINS_MAX {
                continue;
            }
            let entry = told.snapshot(now);
            let sent = entry.taken.iter().map(Vec::len).collect();
            batch.begins.push(entry);
            told.renewed = now;
            if let Keeping::Opening { since, asked } = &mut told.keeping {
                *since = now;
                asked.push((keeper, sent));
            }
        }
    }

    /// When an opening that is on its way should be told to another keeper too.
    pub(super) fn hedge_at(&self, now: Instant) -> Option<Instant> {
        let since = |id| match &self.told.get(id)?.keeping {
            Keeping::Opening { since, .. } => Some(*since + HEDGE_AFTER),
            Keeping::Kept { .. } => None,
        };
        self.opening.iter().filter_map(since).filter(|at| *at > now).min()
    }

    /// What became of one stream's part of a batch. A keeper that is silent keeps nothing any more: all that it has is told anew
    /// to others.
    pub(super) fn delivered(
        &mut self,
        keeper: Keeper,
        (id, version): (RequestId, u64),
        delivery: Delivery,
        now: Instant,
    ) {
        if matches!(delivery, Delivery::Refused | Delivery::Silent) {
            self.avoided.insert(keeper, now + AVOID);
        }
        if delivery == Delivery::Silent {
            self.leave(keeper, now);
        }
        let Some(told) = self.of(id, version) else { return };
        match &mut told.keeping {
            Keeping::Opening { asked, .. } => {
                // What it was told before that is of no matter now.
                let Some(at) = asked.iter().position(|(other, _)| *other == keeper) else { return };
                let (_, sent) = asked.swap_remove(at);
                if delivery != Delivery::Kept {
                    return;
                }
                told.keeping = Keeping::Kept { keeper, sent };
            }
            // By now it has another keeper, which knows more.
            Keeping::Kept { keeper: other, .. } if *other != keeper => return,
            Keeping::Kept { .. } if delivery == Delivery::Kept => {}
            Keeping::Kept { .. } => {
                told.keeping = Keeping::opening(now);
                self.opening.insert(id);
                return;
            }
        }
        let over = told.ended || told.gone.is_some();
        self.opening.remove(&id);
        if over && !self.news.contains(&id) {
            self.remove(id);
        }
    }

    fn leave(&mut self, silent: Keeper, now: Instant) {
        for (id, told) in &mut self.told {
            if matches!(&told.keeping, Keeping::Kept { keeper, .. } if *keeper == silent) {
                told.keeping = Keeping::opening(now);
                self.opening.insert(*id);
            }
        }
    }

    /// Looks at all streams: which have a keeper that is gone or was told nothing for long, which are over.
    pub(super) fn look(&mut self, up: &BTreeSet<CoordinatorId>, now: Instant) {
        let over =
            |t: &Told| t.deadline <= now || t.gone.is_some_and(|since| now.saturating_duration_since(since) > GONE_MAX);
        let over: Vec<RequestId> = self.told.iter().filter(|(_, t)| over(t)).map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| drop(self.remove(id)));
        for (id, told) in &self.told {
            let well = match &told.keeping {
                Keeping::Kept { keeper: Keeper::Peer(peer), .. } => up.contains(peer),
                Keeping::Kept { keeper: Keeper::Here, .. } => up.is_empty(),
                Keeping::Opening { .. } => true,
            };
            if !well || now.saturating_duration_since(told.renewed) >= RENEW_INTERVAL {
                self.news.insert(*id);
            }
        }
    }

    /// Whether nothing is told here that somebody should hear of.
    pub(super) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// Number of streams and their bytes.
    pub(super) fn held(&self) -> (u64, u64) {
        (self.told.len() as u64, self.bytes)
    }

    fn of(&mut self, id: RequestId, version: u64) -> Option<&mut Told> {
        self.told.get_mut(&id).filter(|t| t.entry.version == version)
    }

    fn remove(&mut self, id: RequestId) -> Option<Told> {
        self.news.remove(&id);
        self.opening.remove(&id);
        let told = self.told.remove(&id)?;
        self.bytes -= told.bytes;
        Some(told)
    }
}

impl Keeping {
    /// From the start.
    fn opening(now: Instant) -> Self {
        Self::Opening { since: now, asked: Vec::new() }
    }
}

impl Told {
    fn snapshot(&self, now: Instant) -> JournalEntry {
        let left = self.deadline.saturating_duration_since(now).as_millis();
        JournalEntry { left_ms: u32::try_from(left).unwrap_or(u32::MAX), ..self.entry.clone() }
    }
}

/// What comes after the ids that were sent; they count as sent from then on.
fn since(entry: &JournalEntry, sent: &mut [usize], ended: bool) -> Taken {
    let mut choices = Vec::new();
    for (choice, (ids, sent)) in (0..).zip(entry.taken.iter().zip(sent)) {
        if ids.len() > *sent {
            let from = u32::try_from(*sent).unwrap_or(u32::MAX);
            choices.push(TakenIds { choice, from, ids: ids[*sent..].to_vec() });
            *sent = ids.len();
        }
    }
    Taken { id: entry.id, version: entry.version, cached: entry.cached.clone(), choices, ended }
}

/// Whom a stream may be told to, best first: of the peers the one that its id and theirs weigh most for, so that streams are
/// spread evenly, but those that are `slow` after all others; this coordinator where there is no peer.
fn ranked(
    id: RequestId,
    up: &BTreeSet<CoordinatorId>,
    avoided: &BTreeMap<Keeper, Instant>,
    slow: impl Fn(&Keeper) -> bool,
) -> Vec<Keeper> {
    let weight = |keeper: &Keeper| {
        let mut hasher = DefaultHasher::new();
        if let Keeper::Peer(peer) = keeper {
            (id, peer.0).hash(&mut hasher);
        }
        (slow(keeper), Reverse(hasher.finish()))
    };
    let free = |keeper: &Keeper| !avoided.contains_key(keeper);
    let mut ranked: Vec<Keeper> = up.iter().map(|peer| Keeper::Peer(*peer)).filter(free).collect();
    ranked.sort_by_cached_key(weight);
    if ranked.is_empty() && free(&Keeper::Here) {
        ranked.push(Keeper::Here);
    }
    ranked
}

fn is_overdue(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) >= HEDGE_AFTER
}

#[cfg(test)]
mod tests;
