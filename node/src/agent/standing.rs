//! Where a node stands without a lease: whether somebody leads, as far as it can tell, and what it may do by itself. Pure.
//!
//! ```text
//!            the lease ran out           every coordinator was asked, none names a leader
//!   Led ───────────────────────▶ Seeking ──────────────────────────────────────────▶ Alone
//!    ▲                            │   ▲                                               │
//!    │                            │   └──────────────── one names a leader ───────────┤
//!    │     the same leader named  │                                                   │
//!    │     for a lease, and none, │                                                   │ nobody reached
//!    │     or nobody reached      ▼        one is reached, none names a leader        ▼ for orphan_ms
//!    └─ granted, from each ── Orphaned ◀─────────────────────────────────────▶ (Alone, Orphaned)
//! ```
//! A leader is the same while its term is. A new term begins the count anew, and so does a leader that says itself that it does
//! not lead: who has just begun to lead declares no node lost that it has not heard before two leases are over
//! (coordinator/src/reconcile/nodes.rs), so that leaders which follow each other faster have declared no node lost.
//!
//! Not here: what is asked of whom (`dialer`), what becomes of ranks (`supervisor`). Invariants: while a coordinator's last
//! answer names a leader the node is never Alone; while one is reached and none names a leader it is never Orphaned; while
//! each lease brings a leader of a newer term it is never Orphaned; when one coordinator has named one leader, of the newest
//! term that the node knows, in each of its answers of a whole lease, and that leader has not said otherwise, it is.
//! Two nodes may judge differently, and both may be wrong: what keeps a wrong one harmless is the epoch.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use protocol::Term;
use protocol::lease::LeaderNamed;

/// Most addresses whose answers are remembered: the configured ones, and those that were only named.
const ADDRS_MAX: usize = 32;

/// What a coordinator did when it was asked for the lease and did not grant it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// Nobody leads, as far as it knows.
    NoLeader,
    /// This one leads. Without a term where it is of an earlier version, or leads itself and refuses this node.
    LeaderIs(LeaderNamed),
    /// Nothing: it was not reached, or broke off.
    Nothing,
}

/// What a node may do by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// The lease runs: as ordered. So it is taken to be at the start, for as long as a lease runs.
    #[default]
    Led,
    /// The lease ran out, and it is not known yet whether anybody leads: what runs goes on, nothing is started.
    Seeking,
    /// Nobody leads: what runs goes on, and what died is started again from the last orders.
    Alone,
    /// Its ranks' groups may have been formed anew without it: what runs is stopped.
    Orphaned(Cut),
}

/// Why a node is orphaned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// One and the same leader leads, and does not grant the lease.
    LeaderOutOfReach,
    /// No coordinator was reached for too long.
    NobodyReached,
}

/// What is remembered of one coordinator since the lease was last granted.
#[derive(Debug, Clone, Copy)]
struct Answers {
    last: Said,
    at: Instant,
    /// Since when each of its answers has been this one; for a leader that says itself that it does not lead, since then.
    since: Instant,
}

impl Answers {
    fn leader(&self) -> Option<LeaderNamed> {
        match self.last {
            Said::LeaderIs(leader) => Some(leader),
            Said::NoLeader | Said::Nothing => None,
        }
    }
}

/// What a node has heard, and what follows from it.
#[derive(Debug)]
pub struct Lookout {
    coordinators: Vec<SocketAddr>,
    orphan: Duration,
    lease: Duration,
    lease_until: Instant,
    /// When a coordinator last said anything; before that, the start.
    heard_at: Instant,
    /// The newest term of which a leader was named, or granted the lease.
    newest: Term,
    answers: BTreeMap<SocketAddr, Answers>,
}

impl Lookout {
    /// At the agent's start: no lease, and `lease` is how long the last one ran, or a usual one does. `orphan`: how long a
    /// node that reaches nobody keeps its ranks.
    #[must_use]
    pub fn new(coordinators: &[SocketAddr], lease: Duration, orphan: Duration, now: Instant) -> Self {
        let coordinators = coordinators.to_vec();
        let (newest, answers) = (Term(0), BTreeMap::new());
        Self { coordinators, orphan, lease, lease_until: now + lease, heard_at: now, newest, answers }
    }

    /// The leader of `term` grants the lease for `lease` from now: whatever was said before is old.
    pub fn granted(&mut self, term: Term, lease: Duration, now: Instant) {
        (self.lease, self.lease_until, self.heard_at) = (lease, now + lease, now);
        self.newest = self.newest.max(term);
        self.answers.clear();
    }

    /// These are the coordinators from now on.
    pub fn follow(&mut self, coordinators: Vec<SocketAddr>) {
        self.coordinators = coordinators;
    }

    /// One coordinator was asked and did not grant it.
    pub fn refused(&mut self, addr: SocketAddr, said: Said, now: Instant) {
        if said != Said::Nothing {
            self.heard_at = now;
        }
        if self.answers.len() >= ADDRS_MAX && !self.answers.contains_key(&addr) {
            let oldest = self.answers.iter().min_by_key(|(_, a)| a.at).map(|(addr, _)| *addr);
            oldest.map(|addr| self.answers.remove(&addr));
        }
        match said {
            Said::LeaderIs(leader) => self.newest = self.newest.max(leader.term.unwrap_or(self.newest)),
            // Whoever still names it has not heard yet.
            Said::NoLeader => {
                let named = self.answers.values_mut().filter(|a| a.leader().is_some_and(|leader| leader.addr == addr));
                named.for_each(|a| a.since = now);
            }
            Said::Nothing => {}
        }
        let since = self.answers.get(&addr).filter(|a| a.last == said).map_or(now, |a| a.since);
        self.answers.insert(addr, Answers { last: said, at: now, since });
    }

    /// Where the node stands at `now`.
    #[must_use]
    pub fn standing(&self, now: Instant) -> Standing {
        if now < self.lease_until {
            return Standing::Led;
        }
        let mut answers = self.answers.values();
        if answers.clone().any(|a| self.insists(a)) {
            return Standing::Orphaned(Cut::LeaderOutOfReach);
        }
        if answers.clone().any(|a| a.leader().is_some()) {
            return Standing::Seeking;
        }
        if !answers.any(|a| a.last == Said::NoLeader) && now >= self.heard_at + self.orphan {
            return Standing::Orphaned(Cut::NobodyReached);
        }
        let asked = self.coordinators.iter().all(|addr| self.answers.contains_key(addr));
        if asked { Standing::Alone } else { Standing::Seeking }
    }

    /// Whether a coordinator has named one leader for a whole lease, and nobody a newer one. Only an answer that came a lease after
    /// the first one counts: it may have named a leader that has just died.
    fn insists(&self, answers: &Answers) -> bool {
        let is_newest = |leader: LeaderNamed| leader.term.is_none_or(|term| term >= self.newest);
        answers.leader().is_some_and(is_newest) && answers.at.saturating_duration_since(answers.since) >= self.lease
    }

    /// When time alone may change [`Self::standing`] next.
    #[must_use]
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        [self.lease_until, self.heard_at + self.orphan].into_iter().filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Said::{LeaderIs, NoLeader, Nothing};
    use super::*;

    const OUT_OF_REACH: Standing = Standing::Orphaned(Cut::LeaderOutOfReach);

    const LEASE: Duration = Duration::from_secs(3);
    const ORPHAN: Duration = Duration::from_secs(30);

    fn addr(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    /// The leader of `term` that listens at coordinator 2.
    fn leader(term: u64) -> Said {
        LeaderIs(LeaderNamed { addr: addr(2), term: Some(Term(term)) })
    }

    struct Case {
        lookout: Lookout,
        start: Instant,
    }

    impl Case {
        /// Three coordinators, a lease that was granted at second 0.
        fn new() -> Self {
            let start = Instant::now();
            let mut lookout = Lookout::new(&[addr(1), addr(2), addr(3)], LEASE, ORPHAN, start);
            lookout.granted(Term(1), LEASE, start);
            Self { lookout, start }
        }

        fn at(&self, second: u64) -> Instant {
            self.start + Duration::from_secs(second)
        }

        fn say(&mut self, second: u64, said: [Said; 3]) {
            for (port, said) in (1..).zip(said) {
                self.lookout.refused(addr(port), said, self.at(second));
            }
        }

        fn standing(&self, second: u64) -> Standing {
            self.lookout.standing(self.at(second))
        }
    }

    #[test]
    fn a_lease_runs_out_and_then_nothing_is_known_until_all_were_asked() {
        let mut case = Case::new();
        assert_eq!(case.standing(2), Standing::Led);
        assert_eq!(case.lookout.next_change(case.at(0)), Some(case.at(3)));
        assert_eq!(case.standing(3), Standing::Seeking);
        case.lookout.refused(addr(1), NoLeader, case.at(4));
        case.lookout.refused(addr(2), Nothing, case.at(4));
        assert_eq!(case.standing(4), Standing::Seeking, "the third may lead");
        case.lookout.refused(addr(3), Nothing, case.at(4));
        assert_eq!(case.standing(4), Standing::Alone);
    }

    #[test]
    fn what_is_said_while_the_lease_runs_changes_nothing_before_it_ends() {
        let mut case = Case::new();
        case.say(1, [NoLeader, NoLeader, NoLeader]);
        assert_eq!(case.standing(2), Standing::Led);
        assert_eq!(case.standing(3), Standing::Alone);
    }

    #[test]
    fn coordinators_without_a_leader_keep_a_node_alone_for_ever() {
        let mut case = Case::new();
        case.say(4, [NoLeader, Nothing, Nothing]);
        assert_eq!(case.standing(4), Standing::Alone);
        assert_eq!(case.standing(1_000_000), Standing::Alone);
    }

    #[test]
    fn a_node_that_reaches_nobody_is_alone_and_then_orphaned() {
        let mut case = Case::new();
        case.say(4, [Nothing, Nothing, Nothing]);
        assert_eq!(case.standing(4), Standing::Alone);
        assert_eq!(case.lookout.next_change(case.at(4)), Some(case.at(30)), "counted from what was heard last");
        assert_eq!(case.standing(29), Standing::Alone);
        assert_eq!(case.standing(30), Standing::Orphaned(Cut::NobodyReached));
        case.lookout.refused(addr(2), NoLeader, case.at(40));
        assert_eq!(case.standing(40), Standing::Alone, "somebody is there, and nobody leads");
        case.lookout.refused(addr(2), Nothing, case.at(41));
        assert_eq!(case.standing(69), Standing::Alone);
        assert_eq!(case.standing(70), Standing::Orphaned(Cut::NobodyReached));
    }

    #[test]
    fn a_leader_that_is_named_for_a_lease_and_does_not_grant_it_orphans_a_node() {
        let mut case = Case::new();
        case.say(4, [leader(1), Nothing, NoLeader]);
        assert_eq!(case.standing(4), Standing::Seeking);
        assert_eq!(case.standing(20), Standing::Seeking, "an old answer may name a leader that died since");
        case.lookout.refused(addr(1), leader(1), case.at(6));
        assert_eq!(case.standing(6), Standing::Seeking);
        case.lookout.refused(addr(1), leader(1), case.at(7));
        assert_eq!(case.standing(7), OUT_OF_REACH, "whatever the others say");
    }

    #[test]
    fn leaders_that_follow_each_other_within_a_lease_orphan_nobody_and_the_one_that_stays_does() {
        let mut case = Case::new();
        for term in 2..60 {
            case.say(2 * term, [leader(term), Nothing, leader(term - 1)]);
            assert_eq!(case.standing(2 * term), Standing::Seeking);
            assert_eq!(case.standing(2 * term + 1), Standing::Seeking);
        }
        case.say(120, [leader(59), Nothing, Nothing]);
        assert_eq!(case.standing(120), Standing::Seeking, "named for two seconds");
        case.say(121, [leader(59), Nothing, Nothing]);
        assert_eq!(case.standing(121), OUT_OF_REACH);
        case.say(122, [leader(60), Nothing, Nothing]);
        assert_eq!(case.standing(122), Standing::Seeking, "another one, that may still grant it");
    }

    #[test]
    fn a_leader_that_was_overtaken_says_nothing_about_the_one_that_came_after() {
        let mut case = Case::new();
        case.lookout.refused(addr(1), leader(2), case.at(4));
        case.lookout.refused(addr(3), leader(3), case.at(6));
        case.lookout.refused(addr(1), leader(2), case.at(8));
        assert_eq!(case.standing(8), Standing::Seeking, "coordinator 1 has not heard of term 3 yet");
        case.lookout.refused(addr(3), leader(3), case.at(9));
        assert_eq!(case.standing(9), OUT_OF_REACH);
        // The one that granted the last lease is none of the past.
        case.lookout.granted(Term(4), LEASE, case.at(10));
        case.say(13, [leader(3), Nothing, Nothing]);
        case.say(16, [leader(3), Nothing, Nothing]);
        assert_eq!(case.standing(16), Standing::Seeking);
        case.say(17, [leader(4), Nothing, Nothing]);
        case.say(20, [leader(4), Nothing, Nothing]);
        assert_eq!(case.standing(20), OUT_OF_REACH);
    }

    #[test]
    fn a_leader_that_says_itself_that_it_does_not_lead_is_given_another_lease() {
        let mut case = Case::new();
        case.say(4, [leader(2), NoLeader, Nothing]);
        case.say(7, [leader(2), Nothing, Nothing]);
        assert_eq!(case.standing(7), OUT_OF_REACH, "it did not say so before it was named");
        case.say(8, [leader(2), NoLeader, Nothing]);
        assert_eq!(case.standing(8), Standing::Seeking);
        case.say(10, [leader(2), Nothing, Nothing]);
        assert_eq!(case.standing(10), Standing::Seeking);
        case.say(11, [leader(2), Nothing, Nothing]);
        assert_eq!(case.standing(11), OUT_OF_REACH);
    }

    #[test]
    fn a_coordinator_that_says_no_term_is_taken_at_its_word_for_a_lease() {
        for addr_named in [addr(1), addr(2)] {
            let mut case = Case::new();
            let said = LeaderIs(LeaderNamed { addr: addr_named, term: None });
            case.say(4, [said, Nothing, leader(5)]);
            case.say(6, [said, Nothing, leader(6)]);
            assert_eq!(case.standing(6), Standing::Seeking);
            case.say(7, [said, Nothing, leader(7)]);
            assert_eq!(case.standing(7), OUT_OF_REACH);
        }
    }

    #[test]
    fn a_leader_that_is_named_no_longer_is_forgotten() {
        let mut case = Case::new();
        case.say(4, [leader(1), Nothing, Nothing]);
        case.say(8, [NoLeader, Nothing, Nothing]);
        assert_eq!(case.standing(8), Standing::Alone);
        case.lookout.refused(addr(1), leader(1), case.at(9));
        assert_eq!(case.standing(9), Standing::Seeking, "counted anew");
        case.lookout.refused(addr(1), leader(1), case.at(13));
        assert_eq!(case.standing(13), OUT_OF_REACH);
        case.lookout.refused(addr(1), NoLeader, case.at(14));
        assert_eq!(case.standing(14), Standing::Alone);
    }

    #[test]
    fn a_granted_lease_ends_every_standing_and_forgets_what_was_said() {
        for said in [[NoLeader; 3], [Nothing; 3], [leader(1); 3]] {
            let mut case = Case::new();
            case.say(4, said);
            case.say(40, said);
            assert_ne!(case.standing(40), Standing::Led);
            case.lookout.granted(Term(1), LEASE, case.at(41));
            assert_eq!(case.standing(43), Standing::Led);
            assert_eq!(case.standing(44), Standing::Seeking);
        }
    }

    #[test]
    fn an_agent_that_starts_waits_for_a_lease_first() {
        let start = Instant::now();
        let mut lookout = Lookout::new(&[addr(1)], LEASE, ORPHAN, start);
        lookout.refused(addr(1), NoLeader, start);
        assert_eq!(lookout.standing(start), Standing::Led, "nothing is done by itself yet");
        assert_eq!(lookout.standing(start + LEASE), Standing::Alone);
    }

    #[test]
    fn a_coordinator_that_was_only_named_is_not_waited_for_and_memory_is_bounded() {
        let mut case = Case::new();
        for port in 10..200 {
            case.lookout.refused(addr(port), Nothing, case.at(4));
        }
        case.say(5, [NoLeader, Nothing, Nothing]);
        assert_eq!(case.standing(5), Standing::Alone);
        assert!(case.lookout.answers.len() <= ADDRS_MAX);
    }

    /// What a coordinator may say, leaders of three terms among it; `None`: a lease is granted.
    fn said_of(what: u8) -> Option<Said> {
        match what {
            0 => Some(NoLeader),
            1 => Some(Nothing),
            2 => Some(LeaderIs(LeaderNamed { addr: addr(1), term: None })),
            term @ 3..6 => Some(leader(u64::from(term) - 2)),
            _ => None,
        }
    }

    proptest! {
        /// The first two sentences of the invariant, over any history.
        #[test]
        fn never_alone_against_a_named_leader_and_never_orphaned_among_the_leaderless(
            steps in prop::collection::vec((0_u64..20, 1_u16..=3, 0_u8..7), 1..60)
        ) {
            let mut case = Case::new();
            let mut last = BTreeMap::new();
            let mut now = 0;
            for (pause, port, what) in steps {
                now += pause;
                let Some(said) = said_of(what) else {
                    case.lookout.granted(Term(1), LEASE, case.at(now));
                    last.clear();
                    continue;
                };
                case.lookout.refused(addr(port), said, case.at(now));
                last.insert(port, said);
                let named = last.values().any(|s| matches!(s, LeaderIs(_)));
                let reached = last.values().any(|s| *s == NoLeader);
                for later in [0, 1, 5, 100] {
                    let standing = case.standing(now + later);
                    prop_assert!(!(named && standing == Standing::Alone));
                    prop_assert!(named || !reached || !matches!(standing, Standing::Orphaned(_)), "{:?}", standing);
                    prop_assert!(last.len() == 3 || standing != Standing::Alone);
                }
            }
        }

        /// The third: whatever else is said, also of leaders before.
        #[test]
        fn never_orphaned_while_each_lease_brings_a_newer_leader(
            before in prop::collection::vec((0_u64..3, 1_u16..=3, prop::sample::select(vec![0, 1, 3, 4, 5])), 0..20),
            terms in prop::collection::vec(prop::collection::vec((0_u64..3, 1_u16..=3, 0_u64..4), 1..6), 1..20)
        ) {
            let mut case = Case::new();
            let mut now = 3;
            for (pause, port, what) in before {
                now += pause;
                said_of(what).into_iter().for_each(|said| case.lookout.refused(addr(port), said, case.at(now)));
            }
            for (term, answers) in (10..).zip(terms) {
                let begins = now + 1;
                case.lookout.refused(addr(1), leader(term), case.at(begins));
                for (pause, port, behind) in answers {
                    now = (now + pause).clamp(begins, begins + 2);
                    case.lookout.refused(addr(port), leader(term - behind), case.at(now));
                    prop_assert_eq!(case.standing(now), Standing::Seeking);
                    prop_assert_eq!(case.standing(now + 100), Standing::Seeking, "time alone proves nothing");
                }
            }
        }

        /// The fourth: whatever was said before.
        #[test]
        fn a_leader_that_stays_and_grants_nothing_orphans_a_node(
            before in prop::collection::vec((0_u64..20, 1_u16..=3, 0_u8..7), 0..30),
            during in prop::collection::vec((0_u64..=3, 1_u16..=3, 0_u8..5), 0..10)
        ) {
            let mut case = Case::new();
            let mut now = 3;
            for (pause, port, what) in before {
                now += pause;
                match said_of(what) {
                    Some(said) => case.lookout.refused(addr(port), said, case.at(now)),
                    None => case.lookout.granted(Term(1), LEASE, case.at(now)),
                }
            }
            let from = now + LEASE.as_secs();
            let stays = LeaderIs(LeaderNamed { addr: addr(9), term: Some(Term(10)) });
            case.lookout.refused(addr(1), stays, case.at(from));
            let mut during: Vec<_> = during.into_iter().filter(|(_, port, _)| *port != 1).collect();
            during.sort_unstable();
            for (after, port, what) in during {
                said_of(what).into_iter().for_each(|said| case.lookout.refused(addr(port), said, case.at(from + after)));
            }
            case.lookout.refused(addr(1), stays, case.at(from + LEASE.as_secs()));
            prop_assert_eq!(case.standing(from + LEASE.as_secs()), OUT_OF_REACH);
        }
    }
}
