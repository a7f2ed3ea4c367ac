//! Streams that are told here, and how far their keepers know of them. Pure: time is an argument.
//!
//! ```text
//!  open ──▶ no keeper ──due──▶ begun at a keeper ──ended or gone, and its keeper knows all──▶ removed
//!               ▲                     │ │ ▲
//!               └─ full, silent, gone ┘ └─┘ news; and now and then none, so that it is not forgotten
//! ```
//! Invariants: one keeper at a time; of one stream a keeper is told in order; bounded in bytes.

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
    /// It has no room, or did not answer.
    Refused,
}

#[derive(Debug, Default)]
pub(super) struct Desk {
    told: HashMap<RequestId, Told>,
    bytes: u64,
    /// Of which a keeper should hear.
    news: BTreeSet<RequestId>,
    /// Keepers that are left alone, and until when.
    avoided: BTreeMap<Keeper, Instant>,
}

#[derive(Debug)]
struct Told {
    entry: JournalEntry,
    bytes: u64,
    deadline: Instant,
    keeper: Option<Keeper>,
    /// By choice, how many ids the keeper has been told; `None` until it was told of the stream.
    sent: Option<Vec<usize>>,
    renewed: Instant,
    ended: bool,
    gone: Option<Instant>,
    taken_over: CancellationToken,
}

impl Desk {
    /// `None` where there is no room. Of two streams of one id the later one is kept.
    pub(super) fn open(&mut self, entry: JournalEntry, deadline: Instant) -> Option<CancellationToken> {
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
            keeper: None,
            sent: None,
            renewed: Instant::now(),
            ended: false,
            gone: None,
            taken_over: taken_over.clone(),
        };
        self.bytes += told.bytes;
        self.told.insert(id, told);
        self.news.insert(id);
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

    pub(super) fn gone(&mut self, id: RequestId, version: u64) {
        if let Some(told) = self.of(id, version) {
            told.gone = Some(Instant::now());
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

    /// What each keeper that is not busy should hear now. It counts as told until [`Self::delivered`] says otherwise.
    pub(super) fn due(
        &mut self,
        up: &BTreeSet<CoordinatorId>,
        busy: &BTreeSet<Keeper>,
        now: Instant,
    ) -> BTreeMap<Keeper, Batch> {
        self.avoided.retain(|_, until| now < *until);
        let mut batches: BTreeMap<Keeper, Batch> = BTreeMap::new();
        let mut later = BTreeSet::new();
        for id in std::mem::take(&mut self.news) {
            let Some(told) = self.told.get_mut(&id) else { continue };
            let best = || choose(id, up, &self.avoided);
            let keep = match told.keeper {
                Some(Keeper::Peer(peer)) => up.contains(&peer),
                Some(Keeper::Here) => best().is_none_or(|k| k == Keeper::Here),
                None => false,
            };
            if !keep {
                (told.keeper, told.sent) = (best(), None);
            }
            let Some(keeper) = told.keeper else {
                later.insert(id);
                continue;
            };
            let batch = batches.entry(keeper).or_default();
            let full = batch.begins.len() == BEGINS_MAX || batch.taken.len() == JOURNAL_BATCH_MAX;
            if busy.contains(&keeper) || full {
                later.insert(id);
                continue;
            }
            told.renewed = now;
            if let Some(sent) = &mut told.sent {
                batch.taken.push(since(&told.entry, sent, told.ended));
            } else {
                let entry = told.snapshot(now);
                told.sent = Some(entry.taken.iter().map(Vec::len).collect());
                batch.begins.push(entry);
                if told.ended || told.gone.is_some() {
                    later.insert(id);
                }
            }
        }
        self.news = later;
        batches.retain(|_, batch| !batch.begins.is_empty() || !batch.taken.is_empty());
        batches
    }

    /// What became of it.
    pub(super) fn delivered(&mut self, keeper: Keeper, deliveries: &[(RequestId, u64, Delivery)], now: Instant) {
        for (id, version, delivery) in deliveries {
            if *delivery == Delivery::Refused {
                self.avoided.insert(keeper, now + AVOID);
            }
            // By now it may have another keeper, which knows more.
            let Some(told) = self.of(*id, *version).filter(|t| t.keeper == Some(keeper)) else { continue };
            match delivery {
                Delivery::Kept => {
                    let over = told.ended || told.gone.is_some();
                    if over && !self.news.contains(id) {
                        self.remove(*id);
                    }
                    continue;
                }
                Delivery::Unknown => told.sent = None,
                Delivery::Refused => (told.keeper, told.sent) = (None, None),
            }
            self.news.insert(*id);
        }
    }

    /// Looks at all streams: which have a keeper that is gone or was told nothing for long, which are over.
    pub(super) fn look(&mut self, up: &BTreeSet<CoordinatorId>, now: Instant) {
        let over =
            |t: &Told| t.deadline <= now || t.gone.is_some_and(|since| now.saturating_duration_since(since) > GONE_MAX);
        let over: Vec<RequestId> = self.told.iter().filter(|(_, t)| over(t)).map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| drop(self.remove(id)));
        for (id, told) in &self.told {
            let well = match told.keeper {
                Some(Keeper::Peer(peer)) => up.contains(&peer),
                Some(Keeper::Here) => up.is_empty(),
                None => false,
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
        let told = self.told.remove(&id)?;
        self.bytes -= told.bytes;
        Some(told)
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

/// The peer that a stream's id and its own weigh most for, so that streams are spread evenly; this one where there is none.
fn choose(id: RequestId, up: &BTreeSet<CoordinatorId>, avoided: &BTreeMap<Keeper, Instant>) -> Option<Keeper> {
    let weight = |peer: &CoordinatorId| {
        let mut hasher = DefaultHasher::new();
        (id, peer.0).hash(&mut hasher);
        hasher.finish()
    };
    let free = up.iter().filter(|peer| !avoided.contains_key(&Keeper::Peer(**peer)));
    let peer = free.max_by_key(|peer| weight(peer)).map(|peer| Keeper::Peer(*peer));
    peer.or_else(|| (!avoided.contains_key(&Keeper::Here)).then_some(Keeper::Here))
}

#[cfg(test)]
mod tests {
    use super::super::shelf::tests::entry;
    use super::*;

    const PEERS: [CoordinatorId; 2] = [CoordinatorId(2), CoordinatorId(3)];

    fn later(now: Instant) -> Instant {
        now + Duration::from_secs(600)
    }

    /// The one batch that is due, and for whom.
    fn one(desk: &mut Desk, up: &BTreeSet<CoordinatorId>, now: Instant) -> (Keeper, Batch) {
        let mut due = desk.due(up, &BTreeSet::new(), now);
        assert_eq!(due.len(), 1, "{due:?}");
        due.pop_first().expect("one")
    }

    #[test]
    fn a_keeper_hears_each_id_once_and_the_stream_is_forgotten_when_it_has_heard_the_end() {
        let (mut desk, now, up) = (Desk::default(), Instant::now(), BTreeSet::from(PEERS));
        let id = entry(1, 5, 0).id;
        desk.open(entry(1, 5, 0), later(now)).expect("room");
        let (keeper, batch) = one(&mut desk, &up, now);
        assert_eq!((batch.begins.len(), batch.taken.len()), (1, 0));
        assert!(matches!(keeper, Keeper::Peer(_)));
        desk.took(id, 5, 1, 0, [7, 8].into_iter());
        let busy = BTreeSet::from([keeper]);
        assert!(desk.due(&up, &busy, now).is_empty(), "one batch at a time");
        desk.delivered(keeper, &[(id, 5, Delivery::Kept)], now);
        desk.took(id, 5, 1, 1, [8, 9].into_iter());
        let (again, batch) = one(&mut desk, &up, now);
        assert_eq!(again, keeper);
        assert_eq!(batch.taken[0].choices, [TakenIds { choice: 1, from: 0, ids: vec![7, 8, 9] }]);
        desk.ended(id, 5);
        desk.delivered(keeper, &[(id, 5, Delivery::Kept)], now);
        assert!(!desk.is_empty(), "it has not heard of the end");
        let (_, batch) = one(&mut desk, &up, now);
        assert!(batch.taken[0].ended && batch.taken[0].choices.is_empty());
        desk.delivered(keeper, &[(id, 5, Delivery::Kept)], now);
        assert!(desk.is_empty() && desk.held() == (0, 0) && desk.due(&up, &BTreeSet::new(), now).is_empty());
    }

    #[test]
    fn a_keeper_that_refuses_forgets_or_goes_is_told_anew_or_replaced() {
        let (mut desk, now, up) = (Desk::default(), Instant::now(), BTreeSet::from(PEERS));
        let id = entry(1, 5, 0).id;
        desk.open(entry(1, 5, 0), later(now)).expect("room");
        let (first, _) = one(&mut desk, &up, now);
        desk.delivered(first, &[(id, 5, Delivery::Kept)], now);
        desk.took(id, 5, 0, 0, [1].into_iter());
        one(&mut desk, &up, now);
        desk.delivered(first, &[(id, 5, Delivery::Unknown)], now);
        let (again, batch) = one(&mut desk, &up, now);
        assert_eq!((again, batch.begins[0].taken[0].as_slice()), (first, &[1][..]), "all of it anew");
        desk.delivered(first, &[(id, 5, Delivery::Refused)], now);
        let (second, batch) = one(&mut desk, &up, now);
        assert!(second != first && batch.begins.len() == 1);
        desk.delivered(first, &[(id, 5, Delivery::Refused)], now);
        assert!(desk.due(&up, &BTreeSet::new(), now).is_empty(), "what the first one says now is of no matter");
        desk.delivered(second, &[(id, 5, Delivery::Kept)], now);
        desk.look(&BTreeSet::new(), now);
        let (third, batch) = one(&mut desk, &BTreeSet::new(), now);
        assert_eq!((third, batch.begins.len()), (Keeper::Here, 1), "without others, here");
        desk.delivered(third, &[(id, 5, Delivery::Kept)], now);
        let up_again = now + AVOID;
        desk.look(&up, up_again);
        assert!(matches!(one(&mut desk, &up, up_again).0, Keeper::Peer(_)), "with others again, there");
    }

    #[test]
    fn what_is_given_up_ends_and_is_no_elses() {
        let (mut desk, now) = (Desk::default(), Instant::now());
        let id = entry(1, 5, 0).id;
        let taken_over = desk.open(entry(1, 5, 0), later(now)).expect("room");
        assert!(desk.open(entry(1, 4, 0), later(now)).is_none(), "an older one of the same id");
        assert_eq!(desk.give_up(id, "somebody else", now), None);
        assert!(!taken_over.is_cancelled());
        assert_eq!(desk.give_up(id, "me", now).expect("mine").version, 5);
        assert!(taken_over.is_cancelled() && desk.is_empty());
    }

    #[test]
    fn streams_are_bounded_in_bytes_and_gone_ones_in_time() {
        let (mut desk, now) = (Desk::default(), Instant::now());
        assert!(desk.open(entry(1, 1, JOURNAL_BODY_BYTES_MAX + 1), later(now)).is_none());
        let opened = (0..20).filter(|n| desk.open(entry(*n, 1, JOURNAL_BODY_BYTES_MAX), later(now)).is_some()).count();
        assert_eq!(opened, 15);
        let id = entry(3, 1, 0).id;
        let room = BTreeSet::from(PEERS);
        desk.took(id, 1, 0, 0, 0..u32::try_from(STREAM_BYTES_MAX).expect("fits"));
        assert!(desk.held().1 <= BYTES_MAX, "ids without room are left out");
        desk.gone(id, 1);
        desk.look(&room, Instant::now() + GONE_MAX + Duration::from_secs(1));
        assert_eq!(desk.held().0, 14);
    }
}
