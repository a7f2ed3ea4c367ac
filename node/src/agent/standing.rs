//! Where a node stands without a lease: whether somebody leads, as far as it can tell, and what it may do by itself. Pure.
//!
//! ```text
//!            the lease ran out           every coordinator was asked, none names a leader
//!   Led ───────────────────────▶ Seeking ──────────────────────────────────────────▶ Alone
//!    ▲                            │   ▲                                               │
//!    │                            │   └──────────────── one names a leader ───────────┤
//!    │        named for a lease   │                                                   │
//!    │        and still no lease, │                                                   │ nobody reached
//!    │        or nobody reached   ▼        one is reached, none names a leader        ▼ for orphan_ms
//!    └─ granted, from each ── Orphaned ◀─────────────────────────────────────▶ (Alone, Orphaned)
//! ```
//! Not here: what is asked of whom (`dialer`), what becomes of ranks (`supervisor`). Invariants: while a coordinator's last
//! answer names a leader the node is never Alone; while one is reached and none names a leader it is never Orphaned.
//! Two nodes may judge differently, and both may be wrong: what keeps a wrong one harmless is the epoch.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Most addresses whose answers are remembered: the configured ones, and those that were only named.
const ADDRS_MAX: usize = 32;

/// What a coordinator did when it was asked for the lease and did not grant it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// Nobody leads, as far as it knows.
    NoLeader,
    /// Another one leads, or it leads itself and refuses this node.
    LeaderIs,
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
    /// Somebody leads and does not grant the lease.
    LeaderOutOfReach,
    /// No coordinator was reached for too long.
    NobodyReached,
}

/// What is remembered of one coordinator since the lease was last granted.
#[derive(Debug, Clone, Copy)]
struct Answers {
    last: Said,
    at: Instant,
    /// Since when each of its answers has named a leader.
    named_since: Option<Instant>,
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
    answers: BTreeMap<SocketAddr, Answers>,
}

impl Lookout {
    /// At the agent's start: no lease, and `lease` is how long the last one ran, or a usual one does. `orphan`: how long a
    /// node that reaches nobody keeps its ranks.
    #[must_use]
    pub fn new(coordinators: &[SocketAddr], lease: Duration, orphan: Duration, now: Instant) -> Self {
        let coordinators = coordinators.to_vec();
        Self { coordinators, orphan, lease, lease_until: now + lease, heard_at: now, answers: BTreeMap::new() }
    }

    /// A leader grants the lease for `lease` from now: whatever was said before is old.
    pub fn granted(&mut self, lease: Duration, now: Instant) {
        (self.lease, self.lease_until, self.heard_at) = (lease, now + lease, now);
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
        let before = self.answers.get(&addr).and_then(|a| a.named_since);
        let named_since = (said == Said::LeaderIs).then(|| before.unwrap_or(now));
        self.answers.insert(addr, Answers { last: said, at: now, named_since });
    }

    /// Where the node stands at `now`.
    #[must_use]
    pub fn standing(&self, now: Instant) -> Standing {
        if now < self.lease_until {
            return Standing::Led;
        }
        // Only an answer that came a lease after the first one counts: a coordinator may name a leader that has just died.
        let insists =
            |a: &Answers| a.named_since.is_some_and(|since| a.at.saturating_duration_since(since) >= self.lease);
        let mut answers = self.answers.values();
        if answers.clone().any(insists) {
            return Standing::Orphaned(Cut::LeaderOutOfReach);
        }
        if answers.clone().any(|a| a.last == Said::LeaderIs) {
            return Standing::Seeking;
        }
        if !answers.any(|a| a.last == Said::NoLeader) && now >= self.heard_at + self.orphan {
            return Standing::Orphaned(Cut::NobodyReached);
        }
        let asked = self.coordinators.iter().all(|addr| self.answers.contains_key(addr));
        if asked { Standing::Alone } else { Standing::Seeking }
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

    const LEASE: Duration = Duration::from_secs(3);
    const ORPHAN: Duration = Duration::from_secs(30);

    fn addr(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
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
            lookout.granted(LEASE, start);
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
        case.say(4, [LeaderIs, Nothing, NoLeader]);
        assert_eq!(case.standing(4), Standing::Seeking);
        assert_eq!(case.standing(20), Standing::Seeking, "an old answer may name a leader that died since");
        case.lookout.refused(addr(1), LeaderIs, case.at(6));
        assert_eq!(case.standing(6), Standing::Seeking);
        case.lookout.refused(addr(1), LeaderIs, case.at(7));
        assert_eq!(case.standing(7), Standing::Orphaned(Cut::LeaderOutOfReach), "whatever the others say");
    }

    #[test]
    fn a_leader_that_is_named_no_longer_is_forgotten() {
        let mut case = Case::new();
        case.say(4, [LeaderIs, Nothing, Nothing]);
        case.say(8, [NoLeader, Nothing, Nothing]);
        assert_eq!(case.standing(8), Standing::Alone);
        case.lookout.refused(addr(1), LeaderIs, case.at(9));
        assert_eq!(case.standing(9), Standing::Seeking, "counted anew");
        case.lookout.refused(addr(1), LeaderIs, case.at(13));
        assert_eq!(case.standing(13), Standing::Orphaned(Cut::LeaderOutOfReach));
        case.lookout.refused(addr(1), NoLeader, case.at(14));
        assert_eq!(case.standing(14), Standing::Alone);
    }

    #[test]
    fn a_granted_lease_ends_every_standing_and_forgets_what_was_said() {
        for said in [[NoLeader; 3], [Nothing; 3], [LeaderIs; 3]] {
            let mut case = Case::new();
            case.say(4, said);
            case.say(40, said);
            assert_ne!(case.standing(40), Standing::Led);
            case.lookout.granted(LEASE, case.at(41));
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

    proptest! {
        /// The two sentences of the invariant, over any history.
        #[test]
        fn never_alone_against_a_named_leader_and_never_orphaned_among_the_leaderless(
            steps in prop::collection::vec((0_u64..20, 1_u16..=3, 0_u8..4), 1..60)
        ) {
            let mut case = Case::new();
            let mut last = BTreeMap::new();
            let mut now = 0;
            for (pause, port, what) in steps {
                now += pause;
                let said = match what {
                    0 => NoLeader,
                    1 => LeaderIs,
                    2 => Nothing,
                    _ => {
                        case.lookout.granted(LEASE, case.at(now));
                        last.clear();
                        continue;
                    }
                };
                case.lookout.refused(addr(port), said, case.at(now));
                last.insert(port, said);
                let named = last.values().any(|s| *s == LeaderIs);
                let reached = last.values().any(|s| *s == NoLeader);
                for later in [0, 1, 5, 100] {
                    let standing = case.standing(now + later);
                    prop_assert!(!(named && standing == Standing::Alone));
                    prop_assert!(named || !reached || !matches!(standing, Standing::Orphaned(_)), "{:?}", standing);
                    prop_assert!(last.len() == 3 || standing != Standing::Alone);
                }
            }
        }
    }
}
