//! Which coordinator to dial next, and how long to wait before: each in turn, a leader's address first where a follower
//! named one, and the one whose lease was just lost last: where it was stopped, asking it again costs the whole wait for a
//! connection. Pure.
//!
//! A node never stops trying: its budget is a pace, doubling up to [`PAUSE_MAX`] while nobody grants the lease. Invariant:
//! while nobody does, no answers keep a coordinator from being asked; the turn goes on by one with at most [`HINTS_MAX`]
//! hints between.

use std::net::SocketAddr;
use std::time::Duration;

/// Pause after the first failure.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause between two attempts.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Hints followed one after another without a pause: two followers that name each other must not spin.
const HINTS_MAX: u32 = 3;

/// How an attempt ended without the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Miss {
    /// A follower answered, and knows the leader or not.
    NotLeader(Option<SocketAddr>),
    /// Nobody answered, or the stream broke.
    Lost,
}

/// The dialling order of one node.
#[derive(Debug)]
pub(super) struct Dialer {
    coordinators: Vec<SocketAddr>,
    /// Whose turn it is; hints are followed beside it.
    next: usize,
    /// Who was dialled last.
    dialled: Option<SocketAddr>,
    /// It granted the lease.
    has_granted: bool,
    hint: Option<SocketAddr>,
    hints: u32,
    misses: u32,
}

impl Dialer {
    /// Starts with the first of `coordinators`, which is not empty.
    pub(super) fn new(coordinators: Vec<SocketAddr>) -> Self {
        Self { coordinators, next: 0, dialled: None, has_granted: false, hint: None, hints: 0, misses: 0 }
    }

    /// Dials these from now on, from the first; not empty.
    pub(super) fn dial(&mut self, coordinators: Vec<SocketAddr>) {
        self.coordinators = coordinators;
        self.next = 0;
    }

    /// Whom to dial now.
    pub(super) fn target(&mut self) -> SocketAddr {
        let addr = self.hint.take().unwrap_or_else(|| self.coordinators[self.next % self.coordinators.len()]);
        self.dialled = Some(addr);
        self.has_granted = false;
        addr
    }

    /// The lease was granted: start from short pauses again.
    pub(super) fn granted(&mut self) {
        self.has_granted = true;
        self.hints = 0;
        self.misses = 0;
    }

    /// The attempt, or the lease, ended. How long to wait before [`Self::target`].
    pub(super) fn missed(&mut self, miss: Miss) -> Duration {
        if let Miss::NotLeader(Some(leader)) = miss
            && self.hints < HINTS_MAX
        {
            self.hints += 1;
            self.hint = Some(leader);
            return Duration::ZERO;
        }
        self.hints = 0;
        self.next = self.following();
        let pause = PAUSE_MIN.saturating_mul(1 << self.misses.min(16)).min(PAUSE_MAX);
        self.misses += 1;
        pause
    }

    /// Whose turn it is after this one: the one after the lost leader's, so that its own comes last, and nobody's twice in a
    /// row. From an address that was only named the turn must not go on: a leader that is none any more, and a follower
    /// beside it that goes on naming it, would keep it between them.
    fn following(&self) -> usize {
        let after = |index: usize| (index + 1) % self.coordinators.len();
        let lost = self.coordinators.iter().position(|addr| self.has_granted && Some(*addr) == self.dialled);
        let next = after(lost.unwrap_or(self.next));
        if Some(self.coordinators[next]) == self.dialled { after(next) } else { next }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn addr(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn coordinators_are_dialled_in_turn_at_a_growing_pace() {
        let mut dialer = Dialer::new(vec![addr(1), addr(2), addr(3)]);
        let mut pauses = Vec::new();
        let mut targets = Vec::new();
        for _ in 0..8 {
            targets.push(dialer.target().port());
            pauses.push(dialer.missed(Miss::Lost).as_millis());
        }
        assert_eq!(targets, [1, 2, 3, 1, 2, 3, 1, 2]);
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        dialer.granted();
        assert_eq!(dialer.missed(Miss::Lost), PAUSE_MIN);
    }

    #[test]
    fn a_hint_is_followed_at_once_but_not_for_ever() {
        let mut dialer = Dialer::new(vec![addr(1), addr(2)]);
        for _ in 0..HINTS_MAX {
            assert_eq!(dialer.missed(Miss::NotLeader(Some(addr(9)))), Duration::ZERO);
            assert_eq!(dialer.target(), addr(9));
        }
        assert_ne!(dialer.missed(Miss::NotLeader(Some(addr(9)))), Duration::ZERO);
        assert_eq!(dialer.target(), addr(2));
        assert_ne!(dialer.missed(Miss::NotLeader(None)), Duration::ZERO);
    }

    #[test]
    fn a_leader_that_is_lost_is_asked_again_after_all_others() {
        let mut dialer = Dialer::new(vec![addr(1), addr(2), addr(3)]);
        for leader in [2, 3, 1, 3, 2] {
            let follower = dialer.target();
            if follower != addr(leader) {
                dialer.missed(Miss::NotLeader(Some(addr(leader))));
                assert_eq!(dialer.target(), addr(leader));
            }
            dialer.granted();
            dialer.missed(Miss::Lost);
            let mut asked = Vec::new();
            for _ in 0..3 {
                asked.push(dialer.target().port());
                dialer.missed(Miss::Lost);
            }
            asked[..2].sort_unstable();
            let others: Vec<u16> = (1..=3).filter(|port| *port != leader).collect();
            assert_eq!((&asked[..2], asked[2]), (&others[..], leader));
        }
    }

    #[test]
    fn a_follower_that_goes_on_naming_who_leads_no_more_does_not_keep_a_node_from_the_others() {
        // 2 has lost its majority and knows, 3 still hears it, 5 leads: {2, 3} | {1, 4, 5}.
        let mut dialer = Dialer::new((1..=5).map(addr).collect());
        let mut asked = Vec::new();
        loop {
            asked.push(dialer.target().port());
            assert!(asked.len() <= 20, "{asked:?}");
            match asked.last() {
                Some(3) => dialer.missed(Miss::NotLeader(Some(addr(2)))),
                Some(4) => dialer.missed(Miss::NotLeader(Some(addr(5)))),
                Some(5) => break,
                _ => dialer.missed(Miss::NotLeader(None)),
            };
        }
        assert_eq!(asked, [1, 2, 3, 2, 4, 5]);
    }

    #[test]
    fn who_was_named_and_not_reached_is_not_dialled_twice_in_a_row() {
        let mut dialer = Dialer::new(vec![addr(1), addr(2), addr(3)]);
        dialer.target();
        dialer.missed(Miss::NotLeader(Some(addr(2))));
        assert_eq!(dialer.target(), addr(2));
        dialer.missed(Miss::Lost);
        assert_eq!(dialer.target(), addr(3));
    }

    /// What comes of an attempt: a lease first or not, and its end.
    fn attempt() -> impl Strategy<Value = (bool, Miss)> {
        let miss = prop_oneof![
            2 => Just(Miss::Lost),
            1 => Just(Miss::NotLeader(None)),
            4 => (1..9u16).prop_map(|port| Miss::NotLeader(Some(addr(port)))),
        ];
        (any::<bool>(), miss)
    }

    proptest! {
        #[test]
        fn without_a_lease_every_coordinator_is_asked_whatever_they_answer(
            coordinators in 1..8u16,
            before in prop::collection::vec(attempt(), 0..20),
            answers in prop::collection::vec(attempt(), 8),
        ) {
            let mut dialer = Dialer::new((1..=coordinators).map(addr).collect());
            for (granted, miss) in before {
                dialer.target();
                if granted {
                    dialer.granted();
                }
                dialer.missed(miss);
            }
            // One turn each, with the hints that follow, after those of the turn that is going on.
            let dials_max = usize::from(coordinators + 1) * (1 + HINTS_MAX as usize);
            let mut asked = BTreeSet::new();
            for _ in 0..dials_max {
                let port = dialer.target().port();
                asked.insert(port);
                // Who goes on saying the same can keep a node busy; who says now this, now that, hardly.
                dialer.missed(answers[usize::from(port) - 1].1);
            }
            prop_assert!((1..=coordinators).all(|port| asked.contains(&port)), "{asked:?} of {coordinators}");
        }
    }

    #[test]
    fn coordinators_that_moved_are_dialled_where_they_are() {
        let mut dialer = Dialer::new(vec![addr(1), addr(2)]);
        dialer.missed(Miss::Lost);
        dialer.dial(vec![addr(7)]);
        assert_eq!(dialer.target(), addr(7));
        dialer.missed(Miss::Lost);
        assert_eq!(dialer.target(), addr(7));
    }
}
