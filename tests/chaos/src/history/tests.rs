//! The checker against histories that are right, histories that are broken, and an independent search over orders
//! (Wing and Gong, by `todc-utils`).

use proptest::prelude::*;
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};
use todc_utils::specifications::Specification;

use super::*;

const START: Version = Version { revision: Revision(0), value: 0 };

fn at(called: u64, returned: u64, what: What) -> Operation {
    Operation { client: 0, called: Moment(called), returned: Moment(returned), what }
}

fn version(revision: u64, value: u16) -> Version {
    Version { revision: Revision(revision), value }
}

fn read(called: u64, returned: u64, revision: u64, value: u16) -> Operation {
    at(called, returned, What::Read(version(revision, value)))
}

fn wrote(called: u64, returned: u64, revision: u64, value: u16) -> Operation {
    at(called, returned, What::Wrote { expected: None, version: version(revision, value) })
}

fn cas(called: u64, returned: u64, revision: u64, value: u16) -> Operation {
    let expected = Some(Revision(revision - 1));
    at(called, returned, What::Wrote { expected, version: version(revision, value) })
}

fn refused(called: u64, returned: u64, expected: u64, found: u64) -> Operation {
    at(called, returned, What::Refused { expected: Revision(expected), found: Revision(found) })
}

fn unknown(called: u64, expected: Option<u64>, value: u16) -> Operation {
    at(called, called + 1, What::Unknown { expected: expected.map(Revision), value })
}

#[test]
fn what_happened_one_after_the_other_or_at_once_is_explained() {
    let history = [
        read(0, 1, 0, 0),
        wrote(2, 8, 2, 7),
        cas(3, 6, 1, 5),
        // Both at once with the write of 7.
        read(4, 7, 1, 5),
        read(4, 7, 2, 7),
        refused(9, 10, 1, 2),
        read(11, 12, 2, 7),
    ];
    let explained = check(START, &history).expect("an order exists");
    assert_eq!(explained, Explained { last: (Revision(2), Some(7)), unknown: 0, unknown_in_effect: 0 });
    assert!(check(START, &[]).is_ok());
}

#[test]
fn an_unknown_write_may_take_effect_late_or_never_but_not_before_it_was_asked_for() {
    let asked = unknown(2, None, 9);
    let never = check(START, &[read(0, 1, 0, 0), asked, read(100, 101, 0, 0)]).expect("never");
    assert_eq!((never.unknown, never.unknown_in_effect), (1, 0));
    let late = check(START, &[asked, read(100, 101, 0, 0), read(102, 103, 1, 9)]).expect("long after it was given up");
    assert_eq!((late.unknown, late.unknown_in_effect), (1, 1));
    // An acknowledged write stands on a revision that nobody saw.
    assert!(check(START, &[asked, wrote(5, 6, 2, 3)]).is_ok());
    let early = check(START, &[read(0, 1, 1, 9), asked]);
    assert!(matches!(early, Err(Violation::Unwritten(_))), "{early:?}");
}

#[test]
fn a_stale_read_is_rejected() {
    let stale = check(START, &[wrote(0, 1, 1, 5), read(2, 3, 0, 0)]);
    assert!(matches!(stale, Err(Violation::OutOfOrder { .. })), "{stale:?}");
    // Also against another read, and a refusal that knew of what a later read does not.
    let stale = check(START, &[unknown(0, None, 5), read(2, 3, 1, 5), read(4, 5, 0, 0)]);
    assert!(matches!(stale, Err(Violation::OutOfOrder { .. })), "{stale:?}");
    let stale = check(START, &[wrote(0, 9, 1, 5), refused(1, 2, 0, 1), read(3, 4, 0, 0)]);
    assert!(matches!(stale, Err(Violation::OutOfOrder { .. })), "{stale:?}");
}

#[test]
fn an_acknowledged_write_that_is_lost_is_rejected() {
    // The next write gets its revision again: a leader that did not have it.
    let lost = check(START, &[wrote(0, 1, 1, 5), wrote(2, 3, 1, 6)]);
    assert!(matches!(lost, Err(Violation::WonTwice { .. })), "{lost:?}");
    let lost = check(START, &[wrote(0, 1, 1, 5), read(2, 3, 1, 6)]);
    assert!(matches!(lost, Err(Violation::OtherValue { .. })), "{lost:?}");
    let lost = check(START, &[wrote(0, 1, 1, 5), wrote(2, 3, 2, 6), read(4, 5, 1, 5)]);
    assert!(matches!(lost, Err(Violation::OutOfOrder { .. })), "{lost:?}");
}

#[test]
fn a_compare_and_set_that_won_twice_is_rejected() {
    let twice = check(START, &[cas(0, 5, 1, 5), cas(1, 6, 1, 6)]);
    assert!(matches!(twice, Err(Violation::WonTwice { .. })), "{twice:?}");
    // Acknowledged as the revision after another than it was planned against.
    let what = What::Wrote { expected: Some(Revision(0)), version: version(2, 6) };
    let twice = check(START, &[cas(0, 5, 1, 5), at(1, 6, what)]);
    assert!(matches!(twice, Err(Violation::Precondition(_))), "{twice:?}");
    let refused = check(START, &[refused(0, 1, 0, 0)]);
    assert!(matches!(refused, Err(Violation::Precondition(_))), "{refused:?}");
}

#[test]
fn an_unknown_write_that_is_seen_and_then_unseen_is_rejected() {
    let unseen = check(START, &[unknown(0, None, 9), read(5, 6, 1, 9), read(7, 8, 0, 0)]);
    assert!(matches!(unseen, Err(Violation::OutOfOrder { .. })), "{unseen:?}");
    // One unknown write cannot have made two revisions, nor one of another value, nor one that it was not planned for.
    for history in [
        vec![unknown(0, None, 9), read(5, 6, 1, 9), read(7, 8, 2, 9)],
        vec![unknown(0, None, 9), read(5, 6, 1, 8)],
        vec![unknown(0, Some(3), 9), read(5, 6, 1, 9)],
        vec![unknown(0, None, 9), wrote(5, 6, 9_000_000_000, 9)],
    ] {
        let verdict = check(START, &history);
        assert!(matches!(verdict, Err(Violation::Unwritten(_))), "{verdict:?}");
    }
    // Two writes, of which one fits only the first revision.
    let fits = check(START, &[unknown(0, None, 9), unknown(0, Some(0), 9), read(5, 6, 1, 9), read(7, 8, 2, 9)]);
    assert_eq!(fits.map(|e| e.unknown_in_effect), Ok(2));
}

#[test]
fn nothing_is_from_before_the_beginning() {
    for history in [[read(0, 1, 3, 0)], [wrote(0, 1, 4, 1)], [refused(0, 1, 9, 2)]] {
        let verdict = check(version(4, 1), &history);
        assert!(matches!(verdict, Err(Violation::BeforeTheBeginning { .. })), "{verdict:?}");
    }
    let other = check(version(4, 1), &[read(0, 1, 4, 0)]);
    assert!(matches!(other, Err(Violation::OtherValue { .. })), "{other:?}");
}

/// The register's sequential behaviour, for the search over orders. An operation that comes to nothing is one of unknown
/// outcome that is put after all others.
struct Register;

impl Specification for Register {
    type State = Version;
    type Operation = What;

    fn init() -> Version {
        START
    }

    fn apply(operation: &What, state: &Version) -> (bool, Version) {
        let planned = |expected: Expected| expected.is_none_or(|e| e == state.revision);
        let next = |value| Version { revision: state.revision.next(), value };
        match *operation {
            What::Read(version) => (version == *state, *state),
            What::Refused { expected, found } => (found == state.revision && expected != found, *state),
            What::Wrote { expected, version } => {
                (planned(expected) && version.revision == state.revision.next(), next(version.value))
            }
            What::Unknown { expected, value } if planned(expected) => (true, next(value)),
            What::Unknown { .. } => (true, *state),
        }
    }
}

/// By Wing and Gong. Each operation is a process of its own, so that one of unknown outcome holds up no other.
fn by_search(operations: &[Operation]) -> bool {
    let mut events: Vec<(Moment, bool, usize)> = Vec::new();
    for (i, operation) in operations.iter().enumerate() {
        events.push((operation.called, false, i));
        events.push((operation.until(), true, i));
    }
    // What touches counts as at once: calls before returns.
    events.sort_unstable();
    let action = |(_, returns, i): (Moment, bool, usize)| {
        let what = operations[i].what;
        (i, if returns { Action::Response(what) } else { Action::Call(what) })
    };
    WGLChecker::<Register>::is_linearizable(History::from_actions(events.into_iter().map(action).collect()))
}

/// An operation as a register would answer it, when it takes effect, and whether its outcome is lost on the way.
#[derive(Debug, Clone)]
struct Asked {
    called: u64,
    effect: u64,
    answer: u64,
    write: Option<(u16, Option<u64>)>,
    lost: Option<bool>,
}

fn asked() -> impl Strategy<Value = Asked> {
    let write = prop::option::weighted(0.7, (0..3u16, prop::option::of(0..4u64)));
    let lost = prop::option::weighted(0.3, any::<bool>());
    (0..40u64, 0..10u64, 0..10u64, write, lost).prop_map(|(called, effect, answer, write, lost)| Asked {
        called,
        effect,
        answer,
        write,
        lost,
    })
}

/// What the clients of a correct register saw.
fn play(mut asked: Vec<Asked>) -> Vec<Operation> {
    asked.sort_by_key(|a| a.called + a.effect);
    let mut state = START;
    let mut history = Vec::new();
    for a in asked {
        let (called, returned) = (Moment(a.called), Moment(a.called + a.effect + a.answer));
        let what = match (a.write, a.lost) {
            (None, _) => What::Read(state),
            (Some((value, expected)), lost) => {
                let expected = expected.map(Revision);
                let takes_effect = expected.is_none_or(|e| e == state.revision) && lost != Some(false);
                let found = state.revision;
                if takes_effect {
                    state = Version { revision: found.next(), value };
                }
                match (lost, expected) {
                    (Some(_), _) => What::Unknown { expected, value },
                    (None, Some(expected)) if !takes_effect => What::Refused { expected, found },
                    (None, _) => What::Wrote { expected, version: state },
                }
            }
        };
        history.push(Operation { client: 0, called, returned, what });
    }
    history
}

/// Changes one answer, which may break the history or not.
fn spoil(history: &mut [Operation], which: prop::sample::Index, revision: u64, value: u16) {
    if history.is_empty() {
        return;
    }
    let operation = &mut history[which.index(history.len())];
    match &mut operation.what {
        What::Read(seen) => *seen = version(revision, value),
        What::Wrote { version: seen, .. } => *seen = version(revision, value),
        What::Refused { found, .. } => *found = Revision(revision),
        What::Unknown { value: told, .. } => *told = value,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn what_a_correct_register_answers_is_always_explained(asked in prop::collection::vec(asked(), 0..60)) {
        let history = play(asked);
        prop_assert!(check(START, &history).is_ok(), "{:?} of {history:#?}", check(START, &history));
    }

    #[test]
    fn it_says_what_a_search_over_all_orders_says(
        asked in prop::collection::vec(asked(), 1..9),
        spoilt in prop::collection::vec((any::<prop::sample::Index>(), 0..5u64, 0..3u16), 0..3),
    ) {
        let mut history = play(asked);
        for (which, revision, value) in spoilt {
            spoil(&mut history, which, revision, value);
        }
        let verdict = check(START, &history);
        prop_assert_eq!(verdict.is_ok(), by_search(&history), "{:?} of {:#?}", verdict, history);
    }
}
