//! Entries that are kept, mostly for other coordinators. Pure: time is an argument.
//!
//! Invariants: bounded in entries and bytes; an entry that was not renewed for a while, or whose time is over, is gone.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use protocol::RequestId;
use protocol::journal::{JournalEntry, Taken};

use super::age;

/// Most entries.
const ENTRIES_MAX: usize = 4096;
/// Most memory, bytes.
const BYTES_MAX: u64 = 256 << 20;
/// How long an entry is kept after the last news of it: its gateway is dead, or its client gone.
const SILENT_MAX: Duration = Duration::from_secs(60);
/// How long it is kept after its end was told: the client may have lost the last events.
const ENDED_GRACE: Duration = Duration::from_secs(30);
/// Least time between two looks for what is to be forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Whether an entry was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shelved {
    /// It was, or a newer one is there.
    Kept,
    /// There is no room.
    Full,
}

#[derive(Debug, Default)]
pub(super) struct Shelf {
    kept: HashMap<RequestId, Kept>,
    bytes: u64,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Kept {
    entry: JournalEntry,
    deadline: Instant,
    forget_at: Instant,
    bytes: u64,
}

impl Shelf {
    /// An entry that comes late changes nothing: what was said since then, over other streams of a connection, is known already.
    pub(super) fn begin(&mut self, entry: JournalEntry, now: Instant) -> Shelved {
        self.sweep(now);
        let id = entry.id;
        if let Some(kept) = self.kept.get_mut(&id).filter(|kept| age(&kept.entry) >= age(&entry)) {
            if kept.entry.version == entry.version {
                kept.forget_at = kept.forget_at.max(now + SILENT_MAX);
            }
            return Shelved::Kept;
        }
        let bytes = entry.bytes() as u64;
        let freed = self.kept.get(&id).map_or(0, |kept| kept.bytes);
        let entries = self.kept.len() + usize::from(freed == 0);
        if entries > ENTRIES_MAX || self.bytes - freed + bytes > BYTES_MAX {
            return Shelved::Full;
        }
        let deadline = now + Duration::from_millis(u64::from(entry.left_ms));
        self.bytes = self.bytes - freed + bytes;
        self.kept.insert(id, Kept { entry, deadline, forget_at: now + SILENT_MAX, bytes });
        Shelved::Kept
    }

    /// Whether its entry is here. Ids that do not join those that are known, or for which there is no room, are left out.
    pub(super) fn take(&mut self, taken: &Taken, now: Instant) -> bool {
        self.sweep(now);
        let Some(kept) = self.kept.get_mut(&taken.id) else { return false };
        if kept.entry.version != taken.version {
            // An older one is not to be begun anew, a newer one is.
            return kept.entry.version > taken.version;
        }
        for part in &taken.choices {
            let Some(known) = kept.entry.taken.get_mut(usize::from(part.choice)) else { continue };
            let new = known.len().checked_sub(part.from as usize).and_then(|overlap| part.ids.get(overlap..));
            let grown = new.map_or(0, |new| size_of_val(new) as u64);
            if let Some(new) = new.filter(|_| self.bytes + grown <= BYTES_MAX) {
                known.extend_from_slice(new);
                (self.bytes, kept.bytes) = (self.bytes + grown, kept.bytes + grown);
            }
        }
        if taken.cached.len() == kept.entry.cached.len() {
            kept.entry.cached.clone_from(&taken.cached);
        }
        kept.forget_at = now + if taken.ended { ENDED_GRACE } else { SILENT_MAX };
        true
    }

    /// A copy of an entry, with the time that it has left. Somebody else's is none.
    pub(super) fn find(&mut self, id: RequestId, principal: &str, now: Instant) -> Option<JournalEntry> {
        self.sweep(now);
        let kept = self.kept.get(&id)?;
        if kept.entry.principal != principal || kept.forget_at <= now {
            return None;
        }
        let left = kept.deadline.saturating_duration_since(now).as_millis();
        Some(JournalEntry { left_ms: u32::try_from(left).unwrap_or(u32::MAX), ..kept.entry.clone() })
    }

    /// Number of entries and their bytes.
    pub(super) fn held(&mut self, now: Instant) -> (u64, u64) {
        self.sweep(now);
        (self.kept.len() as u64, self.bytes)
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|last| now < last + SWEEP_INTERVAL) {
            return;
        }
        self.swept = Some(now);
        self.kept.retain(|_, kept| {
            let keep = now < kept.forget_at && now < kept.deadline + ENDED_GRACE;
            if !keep {
                self.bytes -= kept.bytes;
            }
            keep
        });
    }
}

#[cfg(test)]
pub(super) mod tests {
    use protocol::Dtype;
    use protocol::generate::Priority;
    use protocol::journal::{AnswerFormat, TakenIds};

    use super::*;

    fn id(n: u8) -> RequestId {
        RequestId::from_bytes([n; 16])
    }

    pub(in crate::journal) fn entry(n: u8, version: u64, body: usize) -> JournalEntry {
        JournalEntry {
            id: id(n),
            version,
            format: AnswerFormat::Chat,
            principal: "me".to_owned(),
            body: vec![0; body],
            priority: Priority::Normal,
            timeout_ms: 600_000,
            left_ms: 500_000,
            created: 1,
            seed: 2,
            digest: "d".to_owned(),
            dtype: Dtype::F32,
            prompts: vec![vec![1, 2]],
            pictures: Vec::new(),
            taken: vec![Vec::new(), Vec::new()],
            cached: vec![None],
        }
    }

    fn taken(n: u8, version: u64, from: u32, ids: &[u32], ended: bool) -> Taken {
        let choices = vec![TakenIds { choice: 1, from, ids: ids.to_vec() }];
        Taken { id: id(n), version, cached: vec![Some(1)], choices, ended }
    }

    #[test]
    fn ids_join_what_is_known_and_no_gap_is_taken() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        assert_eq!(shelf.begin(entry(1, 5, 0), now), Shelved::Kept);
        assert!(shelf.take(&taken(1, 5, 0, &[7, 8], false), now));
        assert!(shelf.take(&taken(1, 5, 1, &[8, 9], false), now), "told twice, taken once");
        assert!(shelf.take(&taken(1, 5, 5, &[1], false), now), "after a gap");
        let found = shelf.find(id(1), "me", now + Duration::from_secs(1)).unwrap();
        assert_eq!((found.taken, found.cached, found.left_ms), (vec![vec![], vec![7, 8, 9]], vec![Some(1)], 499_000));
        assert_eq!(shelf.find(id(1), "somebody else", now), None);
        assert!(!shelf.take(&taken(2, 5, 0, &[], false), now), "never begun");
    }

    #[test]
    fn of_two_entries_of_an_id_the_newer_one_stays() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        shelf.begin(entry(1, 5, 10), now);
        shelf.begin(entry(1, 4, 99), now);
        assert_eq!(shelf.find(id(1), "me", now).unwrap().version, 5);
        assert!(shelf.take(&taken(1, 4, 0, &[1], false), now), "the old one's gateway is not to begin it again");
        assert!(!shelf.take(&taken(1, 6, 0, &[1], false), now), "the new one's is");
        shelf.begin(entry(1, 6, 20), now);
        assert_eq!(shelf.held(now), (1, entry(1, 6, 20).bytes() as u64));
    }

    #[test]
    fn an_opening_that_comes_late_takes_nothing_back() {
        let (mut shelf, start) = (Shelf::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        let again = JournalEntry { taken: vec![vec![], vec![7, 8]], ..entry(1, 5, 0) };
        shelf.begin(again, start);
        assert!(shelf.take(&taken(1, 5, 2, &[9], true), start));
        let held = shelf.held(start);
        assert_eq!(shelf.begin(entry(1, 5, 0), at(1)), Shelved::Kept);
        assert_eq!(shelf.find(id(1), "me", at(1)).unwrap().taken[1], [7, 8, 9]);
        assert_eq!(shelf.held(at(1)), held);
        assert!(shelf.find(id(1), "me", at(60)).is_some(), "somebody may still tell it");
        assert_eq!(shelf.held(at(63)), (0, 0));
    }

    #[test]
    fn what_nobody_renews_is_forgotten_and_bytes_are_given_back() {
        let (mut shelf, start) = (Shelf::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        shelf.begin(entry(1, 1, 0), start);
        shelf.begin(entry(2, 1, 0), start);
        assert!(shelf.take(&taken(1, 1, 0, &[1], false), at(50)));
        assert!(shelf.find(id(2), "me", at(59)).is_some() && shelf.find(id(2), "me", at(60)).is_none());
        assert!(shelf.take(&taken(1, 1, 1, &[2], true), at(61)));
        assert!(shelf.find(id(1), "me", at(90)).is_some() && shelf.find(id(1), "me", at(91)).is_none());
        assert_eq!(shelf.held(at(93)), (0, 0));
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        let mib = |n: u8| entry(n, 1, 16 << 20);
        let room = (0..16).filter(|n| shelf.begin(mib(*n), now) == Shelved::Kept).count();
        assert_eq!(room, 15, "the ids take a little too");
        assert_eq!(shelf.begin(entry(0, 2, 1), now), Shelved::Kept, "a smaller one in place of a larger one");
        assert_eq!(shelf.begin(mib(16), now), Shelved::Kept);
        let large = vec![0; (17 << 20) / 4];
        assert!(shelf.take(&taken(1, 1, 0, &large, false), now), "its entry is there");
        assert!(shelf.find(id(1), "me", now).unwrap().taken[1].is_empty(), "ids without room are left out");
    }
}
