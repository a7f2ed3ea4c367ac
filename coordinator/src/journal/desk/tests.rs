//! Streams, keepers and moments as a test wants them.

use super::super::shelf::tests::entry;
use super::*;

const PEERS: [CoordinatorId; 2] = [CoordinatorId(2), CoordinatorId(3)];

fn later(now: Instant) -> Instant {
    now + Duration::from_secs(600)
}

/// The one batch that is due, and for whom.
fn one(desk: &mut Desk, up: &BTreeSet<CoordinatorId>, now: Instant) -> (Keeper, Batch) {
    let mut due = desk.due(up, &BTreeMap::new(), now);
    assert_eq!(due.len(), 1, "{due:?}");
    due.pop_first().expect("one")
}

#[test]
fn a_keeper_hears_each_id_once_and_the_stream_is_forgotten_when_it_has_heard_the_end() {
    let (mut desk, now, up) = (Desk::default(), Instant::now(), BTreeSet::from(PEERS));
    let id = entry(1, 5, 0).id;
    desk.open(entry(1, 5, 0), later(now), now).expect("room");
    let (keeper, batch) = one(&mut desk, &up, now);
    assert_eq!((batch.begins.len(), batch.taken.len()), (1, 0));
    assert!(matches!(keeper, Keeper::Peer(_)));
    desk.took(id, 5, 1, 0, [7, 8].into_iter());
    let busy = BTreeMap::from([(keeper, now)]);
    assert!(desk.due(&up, &busy, now).is_empty(), "one batch at a time");
    desk.delivered(keeper, (id, 5), Delivery::Kept, now);
    desk.took(id, 5, 1, 1, [8, 9].into_iter());
    let (again, batch) = one(&mut desk, &up, now);
    assert_eq!(again, keeper);
    assert_eq!(batch.taken[0].choices, [TakenIds { choice: 1, from: 0, ids: vec![7, 8, 9] }]);
    desk.ended(id, 5);
    desk.delivered(keeper, (id, 5), Delivery::Kept, now);
    assert!(!desk.is_empty(), "it has not heard of the end");
    let (_, batch) = one(&mut desk, &up, now);
    assert!(batch.taken[0].ended && batch.taken[0].choices.is_empty());
    desk.delivered(keeper, (id, 5), Delivery::Kept, now);
    assert!(desk.is_empty() && desk.held() == (0, 0) && desk.due(&up, &BTreeMap::new(), now).is_empty());
}

#[test]
fn a_keeper_that_refuses_forgets_or_goes_is_told_anew_or_replaced() {
    let (mut desk, now, up) = (Desk::default(), Instant::now(), BTreeSet::from(PEERS));
    let id = entry(1, 5, 0).id;
    desk.open(entry(1, 5, 0), later(now), now).expect("room");
    let (first, _) = one(&mut desk, &up, now);
    desk.delivered(first, (id, 5), Delivery::Kept, now);
    desk.took(id, 5, 0, 0, [1].into_iter());
    one(&mut desk, &up, now);
    desk.delivered(first, (id, 5), Delivery::Unknown, now);
    let (again, batch) = one(&mut desk, &up, now);
    assert_eq!((again, batch.begins[0].taken[0].as_slice()), (first, &[1][..]), "all of it anew");
    desk.delivered(first, (id, 5), Delivery::Refused, now);
    let (second, batch) = one(&mut desk, &up, now);
    assert!(second != first && batch.begins.len() == 1);
    desk.delivered(first, (id, 5), Delivery::Refused, now);
    assert!(desk.due(&up, &BTreeMap::new(), now).is_empty(), "what the first one says now is of no matter");
    desk.delivered(second, (id, 5), Delivery::Kept, now);
    desk.look(&BTreeSet::new(), now);
    let (third, batch) = one(&mut desk, &BTreeSet::new(), now);
    assert_eq!((third, batch.begins.len()), (Keeper::Here, 1), "without others, here");
    desk.delivered(third, (id, 5), Delivery::Kept, now);
    let up_again = now + AVOID;
    desk.look(&up, up_again);
    assert!(matches!(one(&mut desk, &up, up_again).0, Keeper::Peer(_)), "with others again, there");
}

#[test]
fn an_opening_that_nobody_acknowledges_is_told_to_another_one_and_the_first_to_answer_keeps_it() {
    let (mut desk, start, up) = (Desk::default(), Instant::now(), BTreeSet::from(PEERS));
    let (id, at) = (entry(1, 5, 0).id, |ms| start + Duration::from_millis(ms));
    desk.open(entry(1, 5, 0), later(start), start).expect("room");
    let (first, _) = one(&mut desk, &up, start);
    let mut busy = BTreeMap::from([(first, start)]);
    desk.took(id, 5, 0, 0, [1].into_iter());
    assert!(desk.due(&up, &busy, at(149)).is_empty());
    assert_eq!(desk.hedge_at(at(149)), Some(at(150)));
    let (second, batch) = desk.due(&up, &busy, at(150)).pop_first().expect("due");
    assert!(second != first && batch.taken.is_empty());
    assert_eq!(batch.begins[0].taken[0], [1], "as it is now");
    busy.insert(second, at(150));
    assert!(desk.due(&up, &busy, at(400)).is_empty(), "there is nobody else");
    busy.remove(&second);
    desk.delivered(second, (id, 5), Delivery::Kept, at(400));
    assert_eq!(desk.hedge_at(at(400)), None);
    for (from, late) in [(1, Delivery::Kept), (2, Delivery::Silent)] {
        desk.delivered(first, (id, 5), late, at(500));
        busy.clear();
        desk.took(id, 5, 0, from, [2].into_iter());
        let (keeper, _) = one(&mut desk, &up, at(500));
        assert_eq!(keeper, second, "of the two who know of it one hears the rest");
        desk.delivered(second, (id, 5), Delivery::Kept, at(500));
    }
    desk.ended(id, 5);
    one(&mut desk, &up, at(600));
    desk.delivered(second, (id, 5), Delivery::Kept, at(600));
    assert!(desk.is_empty() && desk.due(&up, &BTreeMap::new(), at(700)).is_empty());
}

#[test]
fn a_keeper_that_hangs_holds_up_no_opening_and_loses_what_it_had() {
    let (mut desk, start, up) = (Desk::default(), Instant::now(), BTreeSet::from(PEERS));
    let at = |ms| start + Duration::from_millis(ms);
    let mut kept = Vec::new();
    for n in 0..8 {
        desk.open(entry(n, 5, 0), later(start), start).expect("room");
    }
    for (keeper, batch) in desk.due(&up, &BTreeMap::new(), start) {
        for begun in batch.begins {
            desk.delivered(keeper, (begun.id, 5), Delivery::Kept, start);
            kept.push((keeper, begun.id));
        }
    }
    let hangs = kept[0].0;
    let of_it: Vec<RequestId> = kept.iter().filter(|(keeper, _)| *keeper == hangs).map(|(_, id)| *id).collect();
    assert!(of_it.len() > 1 && of_it.len() < kept.len(), "{kept:?}");
    let busy = BTreeMap::from([(hangs, start)]);
    let begun_elsewhere = |desk: &mut Desk, ms| {
        let due = desk.due(&up, &busy, at(ms));
        assert!(!due.contains_key(&hangs));
        due.into_values().map(|batch| batch.begins.len()).sum::<usize>()
    };
    let openings = 8..24;
    openings.clone().for_each(|n| drop(desk.open(entry(n, 5, 0), later(start), start).expect("room")));
    let at_once = begun_elsewhere(&mut desk, 1);
    assert!((1..16).contains(&at_once), "{at_once}");
    assert_eq!(begun_elsewhere(&mut desk, 151), BEGINS_MAX.min(16 - at_once), "those that waited for it");
    desk.open(entry(30, 5, 0), later(start), at(160)).expect("room");
    let ids: Vec<_> = desk.opening.iter().copied().collect();
    for id in ids {
        let keeper = PEERS.map(Keeper::Peer).into_iter().find(|k| *k != hangs).expect("two");
        desk.delivered(keeper, (id, 5), Delivery::Kept, at(160));
    }
    assert!(begun_elsewhere(&mut desk, 161) >= 1, "a new one does not even try it");
    desk.delivered(hangs, (of_it[0], 5), Delivery::Silent, at(1000));
    assert!(of_it.iter().all(|id| desk.opening.contains(id)), "all that it had, not that batch alone");
}

#[test]
fn what_is_given_up_ends_and_is_no_elses() {
    let (mut desk, now) = (Desk::default(), Instant::now());
    let id = entry(1, 5, 0).id;
    let taken_over = desk.open(entry(1, 5, 0), later(now), now).expect("room");
    assert!(desk.open(entry(1, 4, 0), later(now), now).is_none(), "an older one of the same id");
    assert_eq!(desk.give_up(id, "somebody else", now), None);
    assert!(!taken_over.is_cancelled());
    assert_eq!(desk.give_up(id, "me", now).expect("mine").version, 5);
    assert!(taken_over.is_cancelled() && desk.is_empty());
}

#[test]
fn streams_are_bounded_in_bytes_and_gone_ones_in_time() {
    let (mut desk, now) = (Desk::default(), Instant::now());
    assert!(desk.open(entry(1, 1, JOURNAL_BODY_BYTES_MAX + 1), later(now), now).is_none());
    let opened = (0..20).filter(|n| desk.open(entry(*n, 1, JOURNAL_BODY_BYTES_MAX), later(now), now).is_some()).count();
    assert_eq!(opened, 15);
    let id = entry(3, 1, 0).id;
    let room = BTreeSet::from(PEERS);
    desk.took(id, 1, 0, 0, 0..u32::try_from(STREAM_BYTES_MAX).expect("fits"));
    assert!(desk.held().1 <= BYTES_MAX, "ids without room are left out");
    desk.gone(id, 1, now);
    desk.look(&room, now + GONE_MAX + Duration::from_secs(1));
    assert_eq!(desk.held().0, 14);
}
