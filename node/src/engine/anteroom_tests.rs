//! Requests and their pictures over random histories, held against a plain model of what every rank has.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use protocol::picture::{PicturePlace, PictureSize};
use protocol::{PictureId, Rank};

use super::super::gallery::{Begin, GalleryLimits};
use super::super::picture::PictureDigest;
use super::*;

const DEPTH: u16 = 6;

/// A picture of the family of which there are many: what it shows, and so how large it is.
fn shows(what: u8) -> NewPicture<u8> {
    let tokens = 1 + u32::from(what) % 5;
    let size = PictureSize { height: 28, width: 28 * tokens };
    let digest = PictureDigest::of(size, &[what]);
    NewPicture { digest, place: PicturePlace { at: 0, size }, tokens, patches: 4 * tokens, levels: what }
}

/// What a rank's memory would hold.
#[derive(Default)]
struct Ranks {
    /// Whose tower, what it shows, blocks run.
    towers: BTreeMap<PictureId, (Rank, u8, u16)>,
    kept: BTreeMap<PictureId, u8>,
    encoded: u64,
}

impl Ranks {
    fn tokens(&self) -> u32 {
        let open = self.towers.values().map(|(_, what, _)| *what);
        open.chain(self.kept.values().copied()).map(|what| shows(what).tokens).sum()
    }

    fn work(&mut self, work: GalleryWork<u8>, ranks: u16) {
        for picture in work.forget {
            assert!(self.towers.remove(&picture).is_some() || self.kept.remove(&picture).is_some(), "never had it");
        }
        if let Some(Begin { picture, owner, levels }) = work.begin {
            assert!(owner.0 < ranks && !self.kept.contains_key(&picture));
            assert!(self.towers.values().all(|(busy, ..)| *busy != owner), "two pictures in one tower");
            assert!(self.towers.insert(picture, (owner, levels, 0)).is_none());
        }
        assert_eq!(work.blocks > 0, !self.towers.is_empty(), "towers wait for nothing, or nothing is in them");
        self.towers.values_mut().for_each(|(_, _, run)| *run += work.blocks);
        let through: Vec<PictureId> = self.towers.iter().filter(|(_, t)| t.2 >= DEPTH).map(|(id, _)| *id).collect();
        assert_eq!(work.finish, through);
        for picture in through {
            let (_, what, _) = self.towers.remove(&picture).expect("it is there");
            self.kept.insert(picture, what);
            self.encoded += 1;
        }
    }
}

/// A request and what its prompt shows, in order.
type Asks = (usize, Vec<u8>);

struct Harness {
    anteroom: Anteroom<Asks, u8>,
    ranks: Ranks,
    /// In the scheduler, with their claims.
    running: BTreeMap<usize, Vec<PictureClaim>>,
    waiting: BTreeSet<usize>,
    next: usize,
    /// Requests in the order in which they came in from the line.
    served: Vec<usize>,
    limits: GalleryLimits,
}

impl Harness {
    fn new(tokens_max: u32, ranks: u16) -> Self {
        let limits = GalleryLimits { tokens_max, depth: DEPTH, ranks };
        Self {
            anteroom: Anteroom::new(Gallery::new(limits)),
            ranks: Ranks::default(),
            running: BTreeMap::new(),
            waiting: BTreeSet::new(),
            next: 0,
            served: Vec::new(),
            limits,
        }
    }

    fn ask(&mut self, what: &[u8]) {
        let pictures: Vec<_> = what.iter().map(|what| shows(*what)).collect();
        if self.anteroom.check(&pictures).is_ok() {
            self.waiting.insert(self.next);
            self.anteroom.push((self.next, what.to_vec()), pictures);
            self.next += 1;
        }
    }

    fn leave(&mut self, nth: usize) {
        let Some(gone) = self.waiting.iter().copied().nth(nth % self.waiting.len().max(1)) else { return };
        self.waiting.remove(&gone);
        self.anteroom.retain(|(request, _)| *request != gone);
    }

    fn end(&mut self, nth: usize) {
        let Some(ended) = self.running.keys().copied().nth(nth % self.running.len().max(1)) else { return };
        self.running.remove(&ended);
    }

    fn step(&mut self, blocks: u16) {
        let (work, seeing) = self.anteroom.plan(|patches| {
            assert!(patches > 0);
            blocks
        });
        self.ranks.work(work, self.limits.ranks);
        for ((request, what), claims) in seeing {
            assert!(self.waiting.remove(&request), "{request} is gone");
            let seen: Vec<u8> = claims.iter().map(|claim| self.ranks.kept[&claim.id()]).collect();
            assert_eq!(seen, what, "sees another's pictures, or not in its order");
            self.running.insert(request, claims);
            self.served.push(request);
        }
        for claim in self.running.values().flatten() {
            assert!(self.ranks.kept.contains_key(&claim.id()), "a picture of a request that runs was forgotten");
        }
        let gallery = self.anteroom.gallery();
        assert!(gallery.tokens() <= u64::from(self.limits.tokens_max), "more is kept than there is room for");
        assert!(u64::from(self.ranks.tokens()) <= gallery.tokens());
        assert_eq!(gallery.counts().encoded, self.ranks.encoded);
    }

    /// Steps until nobody waits; those who run end one by one.
    fn finish(&mut self) {
        let mut steps = 0;
        while !self.anteroom.is_idle() {
            self.step(1);
            self.end(steps);
            steps += 1;
            assert!(steps < 20_000, "{} requests wait for ever", self.waiting.len());
        }
        self.running.clear();
        assert_eq!((self.waiting.len(), self.anteroom.gallery().tokens_claimed()), (0, 0));
        assert!(self.ranks.towers.is_empty());
    }
}

#[derive(Debug, Clone)]
enum Action {
    Ask(Vec<u8>),
    Leave(usize),
    End(usize),
    Step(u16),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => prop::collection::vec(0u8..12, 1..4).prop_map(Action::Ask),
        1 => any::<usize>().prop_map(Action::Leave),
        2 => any::<usize>().prop_map(Action::End),
        4 => (1u16..9).prop_map(Action::Step),
    ]
}

proptest! {
    #[test]
    fn any_history_keeps_room_towers_and_claims(
        actions in prop::collection::vec(action(), 1..120), tokens_max in 1u32..24, ranks in 1u16..4,
    ) {
        let mut harness = Harness::new(tokens_max, ranks);
        for action in actions {
            match action {
                Action::Ask(what) => harness.ask(&what),
                Action::Leave(nth) => harness.leave(nth),
                Action::End(nth) => harness.end(nth),
                Action::Step(blocks) => harness.step(blocks),
            }
        }
        harness.finish();
    }
}

#[test]
fn a_picture_that_many_want_is_encoded_once_also_for_a_retry() {
    let mut harness = Harness::new(20, 2);
    (0..4).for_each(|_| harness.ask(&[3]));
    harness.step(2);
    // Those who asked first are gone in the middle of it, and ask again before the next step.
    harness.leave(0);
    harness.leave(0);
    harness.ask(&[3]);
    harness.step(2);
    harness.step(2);
    assert_eq!((harness.served.len(), harness.ranks.encoded), (3, 1));
    harness.running.clear();
    harness.ask(&[3, 3]);
    harness.step(1);
    assert_eq!((harness.served.len(), harness.ranks.encoded), (4, 1), "kept for whoever comes later");
    let counts = harness.anteroom.gallery().counts();
    assert_eq!((counts.claims, counts.hits, counts.evictions), (7, 6, 0));
}

#[test]
fn what_nobody_wants_any_more_leaves_the_tower_half_way() {
    let mut harness = Harness::new(20, 1);
    harness.ask(&[1]);
    harness.ask(&[2]);
    harness.step(3);
    assert_eq!(harness.ranks.towers.len(), 1);
    harness.leave(0);
    harness.step(3);
    assert_eq!(harness.ranks.towers.values().map(|(_, what, _)| *what).collect::<Vec<_>>(), [2]);
    harness.leave(0);
    harness.step(3);
    assert!(harness.ranks.towers.is_empty() && harness.anteroom.is_idle());
    assert_eq!(harness.anteroom.gallery().tokens(), 0);
}

#[test]
fn ranks_share_pictures_out() {
    let mut harness = Harness::new(40, 3);
    harness.ask(&[0, 1, 2, 3]);
    (0..3).for_each(|_| harness.step(1));
    let owners: Vec<u16> = harness.ranks.towers.values().map(|(owner, ..)| owner.0).collect();
    assert_eq!(owners, [0, 1, 2]);
    // Whoever is done first takes the next; by then the second is done too.
    (0..4).for_each(|_| harness.step(1));
    assert_eq!(harness.ranks.towers.values().map(|(owner, ..)| owner.0).collect::<Vec<_>>(), [2, 0]);
}

#[test]
fn the_longest_not_claimed_gives_way() {
    let mut harness = Harness::new(6, 1);
    let mut see = |what: &[u8]| {
        harness.ask(what);
        harness.step(DEPTH);
        harness.step(DEPTH);
        harness.running.clear();
        harness.ranks.kept.values().copied().collect::<Vec<u8>>()
    };
    // Of 1, 2 and 3 tokens.
    see(&[0]);
    see(&[1]);
    assert_eq!(see(&[2]), [0, 1, 2]);
    assert_eq!(see(&[0]), [0, 1, 2], "used again");
    assert_eq!(see(&[6]), [0, 2, 6], "of 2 tokens, as the one that went");
    assert_eq!(harness.anteroom.gallery().counts().evictions, 1);
}

#[test]
fn pictures_that_never_fit_are_known_at_once() {
    let harness = Harness::new(6, 1);
    let pictures = vec![shows(3), shows(2)];
    assert_eq!(harness.anteroom.check(&pictures), Err(TooManyPictures { tokens: 7, max: 6 }));
    assert_eq!(harness.anteroom.check(&pictures[..1]), Ok(()));
}
