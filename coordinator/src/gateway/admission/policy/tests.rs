//! The policy by tables and by properties over random events.

use proptest::prelude::*;
use protocol::plan::RankAddr;
use protocol::{Epoch, NodeId, Rank, ReplicaId};

use super::*;
use crate::state::fixtures::spec;
use crate::view::Coming;

const CONTEXT: u32 = 2000;
/// What a replica below takes of KV tokens and sequences: a quarter over what it has.
const ROOM: u64 = 1250;
const SEQS: u64 = 5;

/// A deployment whose replicas each have 1000 tokens of KV cache and four sequences.
fn served(name: &str, replicas: &[(u64, u64)]) -> Arc<ServedDeployment> {
    let addr = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let ready = |(id, epoch): &(u64, u64)| ReadyReplica {
        replica: ReplicaId(*id),
        epoch: Epoch(*epoch),
        context_tokens: CONTEXT,
        kv_tokens: 1000,
        leader: RankAddr::new(Rank(0), NodeId::new("node-1").unwrap(), addr, addr),
    };
    let mut spec = spec(1, 1);
    (spec.name, spec.max_seqs) = (name.to_owned(), 4);
    Arc::new(ServedDeployment { spec, replicas: replicas.iter().map(ready).collect(), coming: Coming::No })
}

/// Of the queue; a replica is waited for a second.
fn bounds(tokens: u64, bytes: u64) -> Bounds {
    Bounds { tokens, bytes, replica_wait: Duration::from_secs(1) }
}

/// No replica of a deployment, and whether one is to come.
fn unserved(name: &str, coming: Coming) -> Arc<ServedDeployment> {
    Arc::new(ServedDeployment { coming, ..ServedDeployment::clone(&served(name, &[])) })
}

/// A policy with a clock that the test sets.
struct Case {
    policy: Policy,
    now: Instant,
}

impl Case {
    fn new(replicas: &[(u64, u64)]) -> Self {
        Self::bounded(replicas, bounds(10_000, 10_000))
    }

    fn bounded(replicas: &[(u64, u64)], bounds: Bounds) -> Self {
        let mut policy = Policy::new(bounds);
        policy.view(&[served("main", replicas)]);
        Self { policy, now: Instant::now() }
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }

    /// One prompt of so many tokens with one answer of 50.
    fn arrive(&mut self, priority: Priority, prompt: u32, timeout_ms: u64) -> Result<Ticket, No> {
        let demand = Demand { prompt, answer_max: 50, choices: 1, bytes: 100 };
        let deadline = self.now + Duration::from_millis(timeout_ms);
        self.policy.arrive("main", &[demand], priority, deadline, self.now).map(|tickets| tickets[0])
    }

    fn normal(&mut self, prompt: u32) -> Ticket {
        self.arrive(Priority::Normal, prompt, 600_000).unwrap()
    }

    fn granted(&mut self) -> Vec<Ticket> {
        self.policy.grants(self.now).into_iter().map(|(ticket, ..)| ticket).collect()
    }

    /// One replica with 1100 of its 1250 tokens in flight, that was seen to serve 1000 tokens a second while somebody
    /// waited, and the first tokens of answers after 150 ms in the middle; and the two prompts that run.
    fn busy() -> (Self, [Ticket; 2]) {
        let mut case = Self::new(&[(1, 1)]);
        let running = [case.normal(500), case.normal(500)];
        assert_eq!(case.granted(), running);
        let waits = case.normal(150);
        for (ms, ticket, tokens) in [(150, 0, 0), (0, 1, 0), (850, 0, 0)] {
            case.pass(ms);
            case.policy.served(running[ticket], tokens, 1, case.now);
        }
        case.policy.leave(waits, case.now);
        assert!(case.granted().is_empty());
        assert_eq!(case.policy.lanes["main"].rate(), Some(1000.0));
        (case, running)
    }
}

#[test]
fn who_finds_room_goes_on_at_once_and_the_least_loaded_replica_takes_it() {
    let mut case = Case::new(&[(1, 1), (2, 1), (3, 1)]);
    let tickets: Vec<Ticket> = [100, 50, 60, 10].map(|prompt| case.normal(prompt)).to_vec();
    assert_eq!(case.granted(), tickets);
    let placed = tickets.iter().map(|t| case.policy.placed(*t).unwrap().0.0);
    assert_eq!(placed.collect::<Vec<_>>(), [1, 2, 3, 2]);
    assert_eq!(case.policy.snapshot(), Snapshot { in_flight: 4, ..Snapshot::default() });
}

#[test]
fn a_replica_is_full_by_tokens_or_by_sequences() {
    let mut case = Case::new(&[(1, 1)]);
    let large: Vec<Ticket> = (0..3).map(|_| case.normal(550)).collect();
    assert_eq!(case.granted(), large[..2], "600 each of 1250");
    case.policy.leave(large[0], case.now);
    assert_eq!(case.granted(), large[2..]);

    let mut case = Case::new(&[(1, 1)]);
    let small: Vec<Ticket> = (0..6).map(|_| case.normal(1)).collect();
    assert_eq!(case.granted(), small[..5], "a quarter over the four that run at once");
}

#[test]
fn the_urgent_go_first_and_then_whoever_came_first() {
    let mut case = Case::new(&[(1, 1)]);
    let running = [case.normal(600), case.normal(500)];
    assert_eq!(case.granted(), running);
    let mut wait = |priority| case.arrive(priority, 400, 600_000).unwrap();
    let low = wait(Priority::Low);
    let normal = [wait(Priority::Normal), wait(Priority::Normal)];
    let high = [wait(Priority::High), wait(Priority::High)];
    case.policy.leave(running[0], case.now);
    assert_eq!(case.granted(), high[..1]);
    case.policy.leave(running[1], case.now);
    assert_eq!(case.granted(), high[1..]);
    case.policy.leave(high[0], case.now);
    case.policy.leave(high[1], case.now);
    assert_eq!(case.granted(), normal);
    case.policy.leave(normal[0], case.now);
    assert_eq!(case.granted(), [low]);
}

#[test]
fn a_large_prompt_is_not_overtaken_by_small_ones() {
    let mut case = Case::new(&[(1, 1)]);
    let running = [case.normal(700), case.normal(300)];
    case.granted();
    let large = case.normal(900);
    let small = case.normal(10);
    assert!(case.granted().is_empty(), "150 tokens are free, but the small one came later");
    case.policy.leave(running[0], case.now);
    assert!(case.granted().is_empty());
    case.policy.leave(running[1], case.now);
    assert_eq!(case.granted(), [large, small]);
}

#[test]
fn what_is_larger_than_a_replica_has_it_alone() {
    let mut case = Case::new(&[(1, 1)]);
    let first = case.normal(10);
    case.granted();
    let demand = Demand { prompt: 100, answer_max: 50, choices: 60, bytes: 1 };
    let deadline = case.now + Duration::from_secs(600);
    let many = case.policy.arrive("main", &[demand], Priority::Normal, deadline, case.now).unwrap()[0];
    assert!(case.granted().is_empty());
    case.policy.leave(first, case.now);
    assert_eq!(case.granted(), [many]);
    let next = case.normal(10);
    assert!(case.granted().is_empty());
    case.policy.leave(many, case.now);
    assert_eq!(case.granted(), [next]);
}

#[test]
fn a_full_queue_refuses_with_a_time_to_come_back() {
    let mut case = Case::bounded(&[(1, 1)], bounds(500, 250));
    case.normal(1000);
    case.granted();
    let mut ask = |prompt| case.arrive(Priority::Normal, prompt, 600_000).map(drop);
    assert_eq!(ask(400), Ok(()), "450 tokens wait");
    let unknown = Duration::from_secs(1);
    assert_eq!(ask(1), Err(No::QueueTokens { found: 501, max: 500, retry: unknown }));
    let demand = Demand { prompt: 1, answer_max: 1, choices: 1, bytes: 151 };
    let deadline = case.now + Duration::from_secs(600);
    let no = case.policy.arrive("main", &[demand], Priority::Normal, deadline, case.now).unwrap_err();
    assert_eq!(no, No::QueueBytes { found: 251, max: 250, retry: unknown });
    assert_eq!(case.policy.snapshot(), Snapshot { waiting: 1, waiting_tokens: 450, waiting_bytes: 100, in_flight: 1 });

    let (mut case, _) = Case::busy();
    case.policy.bounds.tokens = 100;
    let no = case.arrive(Priority::Normal, 1050, 600_000).unwrap_err();
    assert_eq!(no, No::QueueTokens { found: 1100, max: 100, retry: Duration::from_secs(1) }, "1000 over, at 1000/s");
}

#[test]
fn a_queue_of_nothing_still_lets_pass_what_need_not_wait() {
    let mut case = Case::bounded(&[(1, 1)], bounds(0, 0));
    let demand = Demand { prompt: 100, answer_max: 50, choices: 1, bytes: 100 };
    let deadline = case.now + Duration::from_secs(600);
    let both = case.policy.arrive("main", &[demand; 2], Priority::Low, deadline, case.now).unwrap();
    assert_eq!(case.granted(), both);
    assert!(case.arrive(Priority::Low, 950, 600_000).is_err());
}

#[test]
fn a_request_is_taken_whole_or_not_at_all() {
    let mut case = Case::bounded(&[(1, 1)], bounds(2000, 10_000));
    let demand = Demand { prompt: 450, answer_max: 50, choices: 1, bytes: 100 };
    let deadline = case.now + Duration::from_secs(600);
    let mut ask = |n| case.policy.arrive("main", &vec![demand; n], Priority::Normal, deadline, case.now);
    let taken = ask(4).unwrap();
    assert_eq!(taken.len(), 4);
    assert!(matches!(ask(1), Err(No::QueueTokens { found: 2500, .. })));
    assert_eq!(case.granted(), taken[..2]);
}

#[test]
fn who_would_come_too_late_is_refused_at_once() {
    // 600 tokens where 150 are free: 450 must be given back first.
    let (mut case, _) = Case::busy();
    assert!(case.arrive(Priority::Normal, 550, 2_000).is_ok());
    let (mut case, _) = Case::busy();
    let no = case.arrive(Priority::Normal, 550, 400).unwrap_err();
    let No::TooLate { needed, left, retry } = no else { panic!("{no:?}") };
    // 150 ms with two side by side; with a third, half as much again.
    let answer = Duration::from_millis(225).mul_f64(1.25);
    assert_eq!((needed, left.as_millis()), (Duration::from_millis(450) + answer, 400));
    assert_eq!(retry, needed - left);
    assert!(case.arrive(Priority::Normal, 550, 500).is_err(), "it would be begun in time and not ended");
    assert!(case.arrive(Priority::Normal, 50, 200).is_err(), "neither would one that need not wait");
    assert!(case.arrive(Priority::Normal, 50, 300).is_ok());
    let (mut case, _) = Case::busy();
    assert_eq!(case.policy.snapshot().waiting, 0);
    // Whoever is ahead counts, by priority.
    let waits = case.arrive(Priority::Normal, 550, 600_000).unwrap();
    let late = |case: &mut Case, priority| match case.arrive(priority, 550, 1) {
        Err(No::TooLate { needed, .. }) => (needed - answer).as_millis(),
        other => panic!("{other:?}"),
    };
    assert_eq!(late(&mut case, Priority::Low), 1050);
    assert_eq!(late(&mut case, Priority::Normal), 1050);
    assert_eq!(late(&mut case, Priority::High), 450, "it goes before those that wait");
    case.policy.leave(waits, case.now);
    assert_eq!(late(&mut case, Priority::Normal), 450);
}

#[test]
fn sequences_that_are_due_count_as_much_as_the_tokens_they_hold() {
    let mut case = Case::new(&[(1, 1)]);
    let running: Vec<Ticket> = (0..5).map(|_| case.normal(50)).collect();
    case.granted();
    let waits = case.normal(50);
    for ticket in running.iter().chain(&running[..1]) {
        case.policy.served(*ticket, 0, 1, case.now);
        case.pass(200);
    }
    case.policy.leave(waits, case.now);
    assert_eq!(case.policy.lanes["main"].rate(), Some(250.0));
    let no = case.arrive(Priority::Normal, 50, 1).unwrap_err();
    let answer = case.policy.lanes["main"].pace.answering(50, 5.0);
    let No::TooLate { needed, .. } = no else { panic!("{no:?}") };
    assert_eq!((needed - answer).as_millis(), 400, "one of 100 tokens");
}

#[test]
fn without_a_rate_nobody_is_refused_for_the_time() {
    let mut case = Case::new(&[(1, 1)]);
    case.normal(950);
    case.granted();
    assert!(case.arrive(Priority::Normal, 900, 1).is_ok());
}

#[test]
fn how_slow_it_was_under_load_is_forgotten_when_nobody_is_left() {
    let (mut case, running) = Case::busy();
    for _ in 0..6 {
        case.pass(100);
        case.policy.served(running[0], 1, 1, case.now);
    }
    assert!(case.arrive(Priority::Normal, 10, 3_000).is_err(), "50 tokens of 100 ms each, and more with a third");
    running.iter().for_each(|ticket| case.policy.leave(*ticket, case.now));
    assert!(case.arrive(Priority::Normal, 10, 1).is_ok());
}

#[test]
fn answers_are_expected_to_be_as_long_as_they_have_been() {
    let mut case = Case::new(&[(1, 1)]);
    let demand = Demand { prompt: 100, answer_max: 800, choices: 2, bytes: 1 };
    let ask = |case: &mut Case| {
        let deadline = case.now + Duration::from_secs(600);
        let ticket = case.policy.arrive("main", &[demand], Priority::Normal, deadline, case.now).unwrap()[0];
        case.granted();
        (ticket, case.policy.tickets[&ticket].cost)
    };
    let (ticket, cost) = ask(&mut case);
    assert_eq!(cost, Cost { tokens: 100 + 2 * 256, seqs: 2 });
    (0..200).for_each(|_| case.policy.answered(ticket, 10));
    case.policy.leave(ticket, case.now);
    let (ticket, cost) = ask(&mut case);
    assert_eq!(cost, Cost { tokens: 100 + 2 * 11, seqs: 2 });
    // One that turns out longer counts as long as it is.
    case.policy.served(ticket, 20, 2, case.now);
    assert_eq!(case.policy.tickets[&ticket].cost.tokens, 122);
    case.policy.served(ticket, 30, 2, case.now);
    assert_eq!(case.policy.tickets[&ticket].cost.tokens, 150);
    assert_eq!(case.policy.lanes["main"].in_flight().tokens, 150);
    case.policy.leave(ticket, case.now);
    assert_eq!(case.policy.lanes["main"].in_flight(), Cost::default());
}

#[test]
fn a_group_that_is_formed_anew_begins_empty_and_keeps_its_speed() {
    let (mut case, running) = Case::busy();
    let waits = case.normal(1000);
    case.policy.view(&[served("main", &[(1, 2)])]);
    assert_eq!(case.granted(), [waits]);
    assert_eq!(case.policy.placed(waits), Some((ReplicaId(1), Epoch(2))));
    running.iter().for_each(|ticket| case.policy.leave(*ticket, case.now));
    assert_eq!(
        case.policy.lanes["main"].in_flight(),
        Cost { tokens: 1050, seqs: 1 },
        "the old group's are not the new one's"
    );
    assert_eq!(case.policy.lanes["main"].rate(), Some(1000.0));
}

#[test]
fn where_no_replica_is_left_nobody_waits() {
    let (mut case, running) = Case::busy();
    let waits = case.normal(1000);
    case.policy.view(&[served("main", &[])]);
    let grants = case.policy.grants(case.now);
    assert!(matches!(grants.as_slice(), [(ticket, Grant::NoReplica, _)] if *ticket == waits), "{grants:?}");
    case.policy.view(&[]);
    assert!(case.policy.lanes.contains_key("main"), "prompts are still at its replica");
    running.iter().for_each(|ticket| case.policy.leave(*ticket, case.now));
    case.policy.view(&[]);
    assert!(case.policy.lanes.is_empty() && case.policy.tickets.is_empty());
}

#[test]
fn while_one_is_to_come_all_wait_in_order_and_not_for_ever() {
    let (mut case, _) = Case::busy();
    let waited = case.normal(1000);
    case.policy.view(&[unserved("main", Coming::Soon)]);
    assert!(case.granted().is_empty());
    let lost = case.now;
    case.pass(300);
    let (late, urgent) = (case.normal(10), case.arrive(Priority::High, 20, 600_000).unwrap());
    assert!(case.granted().is_empty());
    let second = Duration::from_secs(1);
    assert_eq!(case.policy.patience(waited), Some(lost + second), "from the loss");
    assert_eq!(case.policy.patience(late), Some(case.now + second), "from its arrival");
    assert_eq!(case.policy.context_before("main"), Some(CONTEXT));
    case.policy.view(&[unserved("main", Coming::Forming { context_tokens: CONTEXT })]);
    assert!(case.granted().is_empty());
    case.policy.leave(late, case.now);
    case.policy.view(&[served("main", &[(1, 2)])]);
    assert_eq!(case.granted(), [urgent, waited]);
    assert_eq!((case.policy.patience(waited), case.policy.context_before("main")), (None, None));
    let waits = case.normal(1000);
    case.policy.view(&[unserved("main", Coming::Soon)]);
    assert!(case.granted().is_empty());
    case.policy.view(&[unserved("main", Coming::No)]);
    assert_eq!(case.granted(), [waits], "none is to come any more");
}

#[test]
fn who_waits_for_a_replica_is_bounded_and_judged_by_the_last_ones() {
    let (mut case, running) = Case::busy();
    running.iter().for_each(|ticket| case.policy.leave(*ticket, case.now));
    case.policy.view(&[unserved("main", Coming::Soon)]);
    assert!(case.granted().is_empty());
    // As much as the last one had room for, and then as fast as it was.
    case.arrive(Priority::Normal, 1200, 600_000).unwrap();
    let refused = case.arrive(Priority::Normal, 1950, 1_000);
    assert!(matches!(refused, Err(No::TooLate { needed, .. }) if needed >= Duration::from_secs(2)), "{refused:?}");
    for _ in 0..4 {
        case.arrive(Priority::Normal, 1950, 600_000).unwrap();
    }
    let refused = case.arrive(Priority::Normal, 1950, 600_000);
    assert!(matches!(refused, Err(No::QueueTokens { found: 11_250, max: 10_000, .. })), "{refused:?}");
    case.policy.view(&[served("main", &[(1, 2)])]);
    assert_eq!(case.policy.lanes["main"].rate(), Some(1000.0), "its speed stays known");
    assert_eq!(case.granted().len(), 1);
}

#[test]
fn a_prompt_moves_to_a_replica_that_was_not_tried_though_it_is_full() {
    let mut case = Case::new(&[(1, 1), (2, 1)]);
    let tickets: Vec<Ticket> = (0..4).map(|_| case.normal(550)).collect();
    assert_eq!(case.granted(), tickets);
    let moved = case.policy.elsewhere(tickets[0], &[(ReplicaId(1), Epoch(1))], case.now).unwrap();
    assert_eq!(moved.replica, ReplicaId(2));
    let both = [(ReplicaId(1), Epoch(1)), (ReplicaId(2), Epoch(1))];
    assert_eq!(case.policy.elsewhere(tickets[0], &both, case.now), None);
    let waits = case.normal(550);
    assert_eq!(case.granted(), [waits], "there is room where it was");
    assert_eq!(case.policy.placed(waits).unwrap().0, ReplicaId(1));
}

#[test]
fn a_prompt_that_is_resumed_takes_its_answer_along() {
    let mut case = Case::new(&[(1, 1)]);
    let ticket = case.normal(100);
    case.granted();
    case.policy.served(ticket, 70, 1, case.now);
    assert_eq!(case.policy.tickets[&ticket].cost.tokens, 170);
    // Its group is lost, and the one that is formed again has nothing of it until it is asked.
    case.policy.view(&[served("main", &[])]);
    assert_eq!(case.policy.elsewhere(ticket, &[], case.now), None);
    assert_eq!(case.policy.snapshot().in_flight, 1, "it is not given up");
    case.policy.view(&[served("main", &[(1, 2)])]);
    assert_eq!(case.policy.lanes["main"].in_flight(), Cost::default());
    let again = case.policy.elsewhere(ticket, &[(ReplicaId(1), Epoch(1))], case.now).unwrap();
    assert_eq!(again.group(), (ReplicaId(1), Epoch(2)));
    assert_eq!(case.policy.lanes["main"].in_flight(), Cost { tokens: 170, seqs: 1 });
    // It computes prompt and answer once more: that is its speed, and the answer grows from where it was.
    case.pass(500);
    case.policy.served(ticket, 1, 1, case.now);
    case.pass(500);
    case.policy.served(ticket, 0, 1, case.now);
    assert_eq!(case.policy.lanes["main"].rate(), Some(171.0));
    assert_eq!(case.policy.tickets[&ticket].cost.tokens, 171);
    // The same group may be asked again, where only the way to it was broken.
    assert_eq!(case.policy.elsewhere(ticket, &[again.group()], case.now), None);
    assert_eq!(case.policy.elsewhere(ticket, &[], case.now).unwrap(), again);
    assert_eq!(case.policy.lanes["main"].in_flight(), Cost { tokens: 171, seqs: 1 });
    case.policy.leave(ticket, case.now);
    assert_eq!(case.policy.lanes["main"].in_flight(), Cost::default());
}

/// One thing that happens.
#[derive(Debug, Clone)]
enum Event {
    Arrive { deployment: bool, prompts: Vec<(u32, u32, u16)>, priority: Priority, timeout_ms: u64 },
    Leave(prop::sample::Index),
    Served(prop::sample::Index, u32),
    Answered(prop::sample::Index, u32),
    Elsewhere(prop::sample::Index, bool),
    View(Vec<(u64, u64)>, bool),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let any_index = any::<prop::sample::Index>;
    let priority = prop::sample::select(vec![Priority::High, Priority::Normal, Priority::Low]);
    let prompts = prop::collection::vec((1u32..900, 1u32..200, 1u16..4), 1..4);
    let arrive =
        (any::<bool>(), prompts, priority, 1u64..5_000).prop_map(|(deployment, prompts, priority, timeout_ms)| {
            Event::Arrive { deployment, prompts, priority, timeout_ms }
        });
    let replicas = prop::collection::btree_map(1u64..4, 1u64..3, 0..4).prop_map(|m| m.into_iter().collect());
    prop_oneof![
        6 => arrive,
        4 => any_index().prop_map(Event::Leave),
        6 => (any_index(), 1u32..100).prop_map(|(at, n)| Event::Served(at, n)),
        2 => (any_index(), 1u32..200).prop_map(|(at, n)| Event::Answered(at, n)),
        1 => (any_index(), any::<bool>()).prop_map(|(at, avoid)| Event::Elsewhere(at, avoid)),
        1 => (replicas, any::<bool>()).prop_map(|(r, other)| Event::View(r, other)),
        4 => (1u64..2_000).prop_map(Event::Pass),
    ]
}

/// Everything that must be so after each event; `moved` says whether a prompt was ever given more than there was room for.
fn audit(policy: &Policy, moved: bool) {
    let waiting = |e: &&Entry| matches!(e.phase, Phase::Waiting { .. });
    let tokens: u64 = policy.tickets.values().filter(waiting).map(|e| e.cost.tokens).sum();
    let bytes: u64 = policy.tickets.values().filter(waiting).map(|e| e.demand.bytes).sum();
    assert_eq!((policy.waiting_tokens, policy.waiting_bytes), (tokens, bytes));
    assert!(tokens <= policy.bounds.tokens && bytes <= policy.bounds.bytes, "{tokens} tokens, {bytes} bytes wait");
    for (name, lane) in &policy.lanes {
        let here = || policy.tickets.values().filter(|e| e.lane == *name);
        let mut sums = [Cost::default(); 3];
        for entry in here() {
            if let Phase::Waiting { priority, .. } = entry.phase {
                sums[priority as usize].add(entry.cost);
            }
        }
        assert_eq!(lane.sums(), sums);
        if let Some(next) = lane.next() {
            let entry = &policy.tickets[&next];
            assert_eq!(lane.free_site(entry.cost, entry.demand.context_tokens()), None, "room, and somebody waits");
        }
        for (in_flight, room) in lane.rooms() {
            assert_eq!((room.tokens, room.seqs), (ROOM, SEQS));
            let fits = in_flight.tokens <= room.tokens && in_flight.seqs <= room.seqs;
            assert!(fits || moved || in_flight.seqs <= 3, "{in_flight:?} where {room:?} fit");
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_sums_hold_the_queue_is_bounded_and_the_order_kept(
        events in prop::collection::vec(event(), 1..120),
    ) {
        let mut case = Case::bounded(&[(1, 1), (2, 1)], bounds(4_000, 3_000));
        let (mut live, mut granted, mut moved) = (Vec::new(), std::collections::BTreeSet::new(), false);
        for event in events {
            let pick = |live: &Vec<Ticket>, at: prop::sample::Index| (!live.is_empty()).then(|| live[at.index(live.len())]);
            match event {
                Event::Arrive { deployment, prompts, priority, timeout_ms } => {
                    let demand = |(prompt, answer_max, choices): &(u32, u32, u16)| {
                        Demand { prompt: *prompt, answer_max: (*answer_max).min(CONTEXT - prompt), choices: *choices, bytes: u64::from(*prompt) }
                    };
                    let demands: Vec<Demand> = prompts.iter().map(demand).collect();
                    let deadline = case.now + Duration::from_millis(timeout_ms);
                    let name = if deployment { "main" } else { "other" };
                    let before = case.policy.snapshot();
                    match case.policy.arrive(name, &demands, priority, deadline, case.now) {
                        Ok(tickets) => {
                            prop_assert_eq!(tickets.len(), demands.len());
                            live.extend(tickets);
                        }
                        Err(No::QueueTokens { retry, .. } | No::QueueBytes { retry, .. } | No::TooLate { retry, .. }) => {
                            prop_assert!(!retry.is_zero() && retry <= RETRY_MAX);
                            prop_assert_eq!(case.policy.snapshot(), before, "a refusal leaves nothing behind");
                        }
                    }
                }
                Event::Leave(at) => if let Some(ticket) = pick(&live, at) {
                    case.policy.leave(ticket, case.now);
                    live.retain(|t| *t != ticket);
                },
                Event::Served(at, n) => if let Some(ticket) = pick(&live, at) {
                    moved = true;
                    case.policy.served(ticket, n, 1, case.now);
                },
                Event::Answered(at, n) => if let Some(ticket) = pick(&live, at) {
                    case.policy.answered(ticket, n);
                },
                Event::Elsewhere(at, avoid) => if let Some(ticket) = pick(&live, at) {
                    let tried: Vec<Group> = case.policy.placed(ticket).into_iter().filter(|_| avoid).collect();
                    if let Some(now_at) = case.policy.elsewhere(ticket, &tried, case.now) {
                        moved = true;
                        prop_assert!(!tried.contains(&now_at.group()));
                    }
                },
                Event::View(replicas, other) => {
                    // Under an epoch that was there before, what was in flight then is so again.
                    moved = true;
                    let coming = if other { Coming::Soon } else { Coming::No };
                    let main = ServedDeployment { coming, ..ServedDeployment::clone(&served("main", &replicas)) };
                    let mut deployments = vec![Arc::new(main)];
                    deployments.extend(other.then(|| served("other", &[(9, 1)])));
                    case.policy.view(&deployments);
                }
                Event::Pass(ms) => case.pass(ms),
            }
            let waiting: BTreeMap<(String, Priority, Ticket), ()> = case.policy.tickets.iter().filter_map(|(t, e)| match e.phase {
                Phase::Waiting { priority, .. } => Some(((e.lane.clone(), priority, *t), ())),
                Phase::Placed { .. } => None,
            }).collect();
            let mut taken = BTreeMap::<String, usize>::new();
            for (ticket, grant, _) in case.policy.grants(case.now) {
                prop_assert!(granted.insert(ticket), "granted twice");
                let lane = waiting.keys().find(|(_, _, t)| *t == ticket).map(|(lane, ..)| lane.clone()).unwrap();
                let nth = taken.entry(lane.clone()).or_default();
                let expected = waiting.keys().filter(|(l, ..)| *l == lane).nth(*nth).map(|(_, _, t)| *t);
                prop_assert_eq!(expected, Some(ticket), "out of order");
                *nth += 1;
                if grant == Grant::NoReplica {
                    live.retain(|t| *t != ticket);
                }
            }
            audit(&case.policy, moved);
        }
        for ticket in live {
            case.policy.leave(ticket, case.now);
            case.policy.grants(case.now);
        }
        prop_assert_eq!(case.policy.snapshot(), Snapshot::default());
        prop_assert!(case.policy.lanes.values().all(|lane| lane.in_flight() == Cost::default()));
    }
}
