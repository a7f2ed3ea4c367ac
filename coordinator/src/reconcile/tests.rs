//! The planner against nodes that obey: what is formed, what is lost, and that it always comes to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use protocol::lease::{NodeOrders, NodeReport, RankGoal, RankOrder, WorkerPhase, WorkerStatus};
use protocol::{Epoch, NodeId, ReplicaId, Term};

use super::observed::Observed;
use super::orders::{grace, orders};
use super::planner::{CONNECT_STALL, DRAIN_MAX, FORMING_STALL, REVIVAL_STALL, plan};
use super::{deadlines, planner};
use crate::config::LeaseTimings;
use crate::state::fixtures::{addr, inventory, node, spec};
use crate::state::{ClusterState, Command, DeploymentCommand, NodeCommand, Phase, Replica, ReplicaCommand, Standing};

const LEASE: LeaseTimings = LeaseTimings { heartbeat_ms: 100, lease_ms: 500 };
const ROOMY: u64 = 1 << 30;
/// Heartbeats for which a rank that comes back may stand still.
const BEATS_TO_STALL: usize = REVIVAL_STALL.as_millis() as usize / LEASE.heartbeat_ms as usize;
/// Planning twice more than this without news would be a loop.
const ROUNDS_MAX: usize = 12;

/// A node that does what it is ordered, one phase a report.
#[derive(Debug, Clone)]
struct Node {
    incarnation: u64,
    memory: u64,
    workers: Vec<WorkerStatus>,
    leaving: bool,
    /// What its workers end with instead of loading.
    fails: Option<(String, bool)>,
    /// Its workers stay as they are.
    stuck: bool,
    /// Its workers stay although they are to end.
    unkillable: bool,
    /// A node that its workers do not reach.
    cut_from: Option<NodeId>,
}

impl Node {
    fn new(incarnation: u64, memory: u64) -> Self {
        Self {
            incarnation,
            memory,
            workers: Vec::new(),
            leaving: false,
            fails: None,
            stuck: false,
            unkillable: false,
            cut_from: None,
        }
    }

    fn report(&self, name: &NodeId) -> NodeReport {
        NodeReport {
            node: name.clone(),
            incarnation: self.incarnation,
            inventory: inventory(self.memory),
            workers: self.workers.clone(),
            leaving: self.leaving,
        }
    }

    fn obey(&mut self, name: &NodeId, orders: &NodeOrders) {
        let same = |w: &WorkerStatus, o: &RankOrder| (w.replica, w.epoch, w.rank) == (o.replica, o.epoch, o.rank);
        self.workers.retain(|w| self.unkillable || orders.ranks.iter().any(|o| same(w, o)));
        for order in &orders.ranks {
            let Some(at) = self.workers.iter().position(|w| same(w, order)) else {
                let (replica, epoch, rank) = (order.replica, order.epoch, order.rank);
                let phase = WorkerPhase::Starting;
                self.workers.push(WorkerStatus {
                    replica,
                    epoch,
                    rank,
                    pid: 1,
                    phase,
                    bytes_read: 1,
                    load: None,
                    stats: None,
                    proof: None,
                });
                continue;
            };
            let phase = &mut self.workers[at].phase;
            let loaded = WorkerPhase::Loaded { addr: addr(order.rank.0, name.clone()), bytes_read: 1 };
            *phase = match (&*phase, &order.goal) {
                _ if self.stuck => continue,
                (WorkerPhase::Failed { .. }, _) => continue,
                (WorkerPhase::Starting, _) => match self.fails.clone() {
                    Some((reason, retryable)) => WorkerPhase::Failed { reason, retryable },
                    None => loaded,
                },
                (WorkerPhase::Loaded { .. }, RankGoal::Connect { peers })
                    if peers.iter().any(|p| Some(&p.node) == self.cut_from.as_ref()) =>
                {
                    continue;
                }
                (WorkerPhase::Loaded { .. }, RankGoal::Connect { .. }) => WorkerPhase::Connected,
                (WorkerPhase::Connected, RankGoal::Serve) => WorkerPhase::Serving,
                (_, RankGoal::Drain) => {
                    self.workers.remove(at);
                    continue;
                }
                _ => continue,
            };
        }
    }
}

/// A leader and its nodes, with time in hand.
struct World {
    state: ClusterState,
    observed: Observed,
    nodes: BTreeMap<NodeId, Node>,
    now: Instant,
}

impl World {
    fn new(tp: u16, replicas: u16, nodes: u16) -> Self {
        let mut state = ClusterState::default();
        put(&mut state, tp, replicas);
        let now = Instant::now();
        let observed = Observed::new(&state, now, grace(LEASE));
        let nodes = (1..=nodes).map(|n| (node(n), Node::new(1, ROOMY))).collect();
        Self { state, observed, nodes, now }
    }

    /// Plans and applies until nothing more follows. What the planner proposes is never refused.
    fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            self.observed.follow(&self.state, self.now);
            let commands = plan(&self.state, &self.observed, self.now);
            if commands.is_empty() {
                return;
            }
            for command in commands {
                self.state.apply(command.clone()).unwrap_or_else(|e| panic!("{command:?} refused: {e}"));
            }
        }
        panic!("no rest: {:?}", plan(&self.state, &self.observed, self.now));
    }

    /// One heartbeat: every node reports, is answered and obeys.
    fn beat(&mut self) {
        self.now += Duration::from_millis(u64::from(LEASE.heartbeat_ms));
        for name in self.nodes.keys().cloned().collect::<Vec<_>>() {
            let report = self.nodes[&name].report(&name);
            self.observed.report(report, self.now, Duration::from_millis(u64::from(LEASE.lease_ms)));
            self.settle();
            let orders = orders(&self.state, &self.observed, &name, Term(1), LEASE);
            self.nodes.get_mut(&name).expect("listed").obey(&name, &orders);
        }
        self.settle();
    }

    fn beats(&mut self, count: usize) {
        (0..count).for_each(|_| self.beat());
    }

    /// A new leader takes over: it knows the state and nothing else.
    fn new_leader(&mut self) {
        self.observed = Observed::new(&self.state, self.now, grace(LEASE));
    }

    fn only(&self) -> (ReplicaId, &Replica) {
        assert_eq!(self.state.replicas.len(), 1, "{:?}", self.state.replicas);
        self.state.replicas.iter().next().map(|(id, r)| (*id, r)).expect("one")
    }

    /// Where the ranks of the only replica are, by rank; none without a group.
    fn on(&self) -> Vec<NodeId> {
        self.only().1.plan().map(|p| p.ranks.iter().map(|r| r.node.clone()).collect()).unwrap_or_default()
    }

    fn ready_epoch(&self) -> Option<Epoch> {
        let (_, r) = self.only();
        matches!(r.phase, Phase::Ready { .. }).then_some(r.epoch)
    }

    fn blocked(&self) -> Option<&str> {
        self.state.deployments["nano"].blocked.as_deref()
    }
}

/// That its peers are gone, as a rank says it.
fn failed() -> WorkerPhase {
    WorkerPhase::Failed { reason: "its peer is lost".into(), retryable: true }
}

/// Heartbeats after which a node that calls ranks of a lost group alive is late.
fn beats_to_late() -> usize {
    (grace(LEASE) / 5).as_millis() as usize / LEASE.heartbeat_ms as usize
}

fn put(state: &mut ClusterState, tp: u16, replicas: u16) {
    let expected = state.deployments.get("nano").map(|d| d.spec.generation);
    let put = DeploymentCommand::Put { expected, spec: Box::new(spec(tp, replicas)) };
    state.apply(Command::Deployment(put)).expect("the present generation");
}

#[test]
fn two_nodes_form_a_group_of_two_ranks_one_each() {
    let mut world = World::new(2, 1, 2);
    world.beats(12);
    assert_eq!(world.ready_epoch(), Some(Epoch(1)));
    let (_, replica) = world.only();
    let on: Vec<_> = replica.plan().expect("ready").ranks.iter().map(|r| r.node.clone()).collect();
    assert!(on.contains(&node(1)) && on.contains(&node(2)), "{on:?}");
    let phases: Vec<_> = world.nodes.values().flat_map(|n| &n.workers).map(|w| &w.phase).collect();
    assert_eq!(phases, [&WorkerPhase::Serving, &WorkerPhase::Serving]);
    assert_eq!(world.blocked(), None);
}

#[test]
fn a_first_group_waits_a_moment_for_a_second_node_but_not_for_ever() {
    let mut world = World::new(2, 1, 1);
    world.beats(2);
    assert!(world.only().1.plan().is_none(), "placed before another node could come");
    world.beats(15);
    assert_eq!(world.ready_epoch(), Some(Epoch(1)));
}

#[test]
fn a_worker_that_is_gone_costs_an_epoch_and_nothing_else() {
    let mut world = World::new(2, 1, 2);
    world.beats(12);
    world.nodes.get_mut(&node(2)).expect("there").workers.clear();
    world.beat();
    assert_eq!(world.ready_epoch(), None);
    world.beats(6);
    assert_eq!(world.ready_epoch(), Some(Epoch(2)));
}

#[test]
fn a_node_that_falls_silent_loses_its_groups_after_its_lease_and_they_go_elsewhere() {
    let mut world = World::new(2, 1, 2);
    world.beats(12);
    let dead = world.nodes.remove(&node(2)).expect("there");
    world.beats(4);
    assert_eq!(world.ready_epoch(), Some(Epoch(1)), "lost before the lease ran out");
    world.beats(8);
    assert_eq!(world.ready_epoch(), Some(Epoch(2)));
    assert!(matches!(world.state.nodes[&node(2)].standing, Standing::Down { .. }));
    world.nodes.insert(node(2), dead);
    world.beats(3);
    assert_eq!(world.ready_epoch(), Some(Epoch(2)), "what runs stays where it is");
    assert!(world.nodes[&node(2)].workers.is_empty(), "the old epoch's rank was not stopped");
}

#[test]
fn a_group_whose_nodes_agent_died_is_formed_on_the_spare_one_long_before_the_lease_runs_out() {
    let mut world = World::new(2, 1, 3);
    world.beats(12);
    let on = world.on();
    // Its ranks died with it, which their peers say.
    world.nodes.remove(&on[0]);
    world.nodes.get_mut(&on[1]).expect("there").workers[0].phase = failed();
    world.beat();
    assert!(matches!(world.only().1.phase, Phase::Waiting { .. }), "nobody knows yet who is dead");
    assert!(
        deadlines::next(&world.state, &world.observed, world.now)
            .is_some_and(|at| at <= world.now + Duration::from_millis(100))
    );
    world.beat();
    assert!(world.only().1.plan().is_some_and(|plan| plan.ranks.iter().all(|r| r.node != on[0])));
    world.beats(8);
    assert_eq!(world.ready_epoch(), Some(Epoch(2)));

    // A rank that died alone is formed again where it was, as soon as its peer has been stopped.
    let mut world = World::new(2, 1, 3);
    world.beats(12);
    world.nodes.get_mut(&on[0]).expect("there").workers[0].phase = failed();
    world.beats(2);
    assert!(world.only().1.plan().is_some_and(|plan| plan.ranks.iter().any(|r| r.node == on[0])));
}

#[test]
fn a_dead_node_is_left_out_although_peers_that_live_have_not_heard_of_the_loss_yet() {
    for dead in 0..4 {
        let mut world = World::new(4, 1, 5);
        world.beats(12);
        let on = world.on();
        assert_eq!((world.ready_epoch(), on.iter().collect::<BTreeSet<_>>().len()), (Some(Epoch(1)), 4));
        world.nodes.remove(&on[dead]);
        // The first to speak says that it lost its peer; the other two still said Serving.
        let first = world.nodes.keys().find(|n| on.contains(n)).expect("three are left").clone();
        world.nodes.get_mut(&first).expect("there").workers[0].phase = failed();
        world.beat();
        assert!(matches!(world.only().1.phase, Phase::Waiting { .. }), "nobody knows yet who is dead");
        world.beats(beats_to_late());
        assert!(!world.on().is_empty() && !world.on().contains(&on[dead]), "{:?} without {}", world.on(), on[dead]);
        world.beats(8);
        assert_eq!(world.ready_epoch(), Some(Epoch(2)));
    }
}

#[test]
fn of_two_dead_nodes_one_is_left_out_where_one_can_be_and_none_is_waited_for_longer() {
    let mut world = World::new(4, 1, 5);
    world.beats(12);
    let on = world.on();
    world.nodes.retain(|n, _| ![&on[0], &on[1]].contains(&n));
    world.nodes.get_mut(&on[2]).expect("there").workers[0].phase = failed();
    world.beats(1 + beats_to_late());
    let next = world.on();
    assert_eq!(next.len(), 4, "waited for ever");
    let dead = on[..2].iter().filter(|n| next.contains(n)).count();
    assert_eq!(dead, 1, "{next:?} after {on:?}");
}

#[test]
fn a_node_whose_worker_cannot_be_killed_is_left_out_where_another_is_there_and_keeps_nobody_waiting() {
    let lose = |nodes: u16| {
        let mut world = World::new(2, 1, nodes);
        world.beats(12);
        let on = world.on();
        world.nodes.get_mut(&on[0]).expect("there").unkillable = true;
        world.nodes.get_mut(&on[1]).expect("there").workers[0].phase = failed();
        world.beats(1 + beats_to_late());
        (world, on)
    };
    let (mut world, on) = lose(3);
    assert!(!world.on().is_empty(), "waits for a worker that never ends");
    assert!(!world.on().contains(&on[0]), "{:?}", world.on());
    world.beats(8);
    assert_eq!(world.ready_epoch(), Some(Epoch(2)));

    // With nobody to take its place it is tried again.
    let (mut world, _) = lose(2);
    world.beats(8);
    assert_eq!(world.ready_epoch(), Some(Epoch(2)));
}

#[test]
fn leaders_that_follow_each_other_within_two_leases_lose_no_node_and_the_one_that_stays_does() {
    let mut world = World::new(2, 1, 2);
    world.beats(12);
    // Nobody reaches any of them for long enough to report.
    let nodes = std::mem::take(&mut world.nodes);
    let beats_of_grace = (grace(LEASE).as_millis() / u128::from(LEASE.heartbeat_ms)) as usize;
    assert!(grace(LEASE) >= Duration::from_millis(u64::from(LEASE.lease_ms)) * 2, "what nodes rely on");
    for _ in 0..10 {
        world.new_leader();
        world.beats(beats_of_grace - 1);
        assert_eq!(world.ready_epoch(), Some(Epoch(1)));
    }
    world.new_leader();
    world.nodes = nodes;
    world.beats(12);
    assert_eq!(world.ready_epoch(), Some(Epoch(1)), "what runs was never touched");

    world.nodes.remove(&node(2));
    world.new_leader();
    world.beats(beats_of_grace - 1);
    assert_eq!(world.ready_epoch(), Some(Epoch(1)));
    world.beats(8);
    assert_eq!(world.ready_epoch(), Some(Epoch(2)), "this leader has waited long enough");
    assert!(
        matches!(&world.state.nodes[&node(2)].standing, Standing::Down { reason } if reason.contains("never heard"))
    );
}

#[test]
fn a_node_that_an_earlier_leader_registered_is_waited_for_by_the_next_which_learns_of_it_late() {
    let mut world = World::new(2, 1, 1);
    world.beats(12);
    world.new_leader();
    let register = NodeCommand::Register { node: node(2), incarnation: 1, inventory: inventory(ROOMY) };
    world.state.apply(Command::Node(register)).expect("a new node");
    world.beats(5);
    assert_eq!(world.state.nodes[&node(2)].standing, Standing::Up);
    world.beats(10);
    assert!(matches!(world.state.nodes[&node(2)].standing, Standing::Down { .. }));
}

#[test]
fn an_agent_that_was_started_anew_costs_an_epoch_although_its_lease_never_ran_out() {
    let mut world = World::new(2, 1, 2);
    world.beats(12);
    world.nodes.insert(node(2), Node::new(2, ROOMY));
    world.beats(8);
    assert_eq!(world.ready_epoch(), Some(Epoch(2)));
    assert_eq!(world.state.nodes[&node(2)].incarnation, 2);
}

/// A group of two whose second rank was started again, by an agent that was too, while nobody led; under a new leader.
fn revived(phase: WorkerPhase) -> World {
    let mut world = World::new(2, 1, 2);
    world.beats(12);
    let agent = world.nodes.get_mut(&node(2)).expect("there");
    agent.incarnation = 2;
    agent.stuck = true;
    agent.workers[0].phase = phase;
    world.new_leader();
    world
}

fn loaded_at(rank: u16, name: NodeId) -> WorkerPhase {
    WorkerPhase::Loaded { addr: addr(rank, name), bytes_read: 1 }
}

#[test]
fn a_group_that_was_revived_without_a_leader_is_taken_over_as_it_is() {
    let mut world = revived(WorkerPhase::Serving);
    world.beats(20);
    assert_eq!(world.ready_epoch(), Some(Epoch(1)));
    assert_eq!(world.state.nodes[&node(2)].incarnation, 2, "its agent's new start is on record");
}

#[test]
fn a_rank_that_is_coming_back_gets_a_while_and_no_longer() {
    let mut world = revived(WorkerPhase::Starting);
    world.beats(5);
    let worker = |world: &mut World, phase| {
        world.nodes.get_mut(&node(2)).expect("there").workers[0].phase = phase;
    };
    worker(&mut world, loaded_at(1, node(2)));
    world.nodes.values_mut().for_each(|n| n.stuck = true);
    world.beats(BEATS_TO_STALL / 2);
    assert_eq!(world.ready_epoch(), Some(Epoch(1)));
    worker(&mut world, WorkerPhase::Serving);
    world.beats(5);
    assert_eq!(world.ready_epoch(), Some(Epoch(1)), "it came back");

    let mut world = revived(WorkerPhase::Starting);
    world.beats(3);
    assert_eq!(world.ready_epoch(), Some(Epoch(1)));
    let due = deadlines::next(&world.state, &world.observed, world.now).expect("it is waited for");
    assert!(due <= world.now + REVIVAL_STALL);
    world.beats(BEATS_TO_STALL + 1);
    assert_ne!(world.ready_epoch(), Some(Epoch(1)));
}

#[test]
fn a_revived_rank_at_another_address_and_a_missing_one_cost_an_epoch() {
    let mut elsewhere = revived(loaded_at(7, node(2)));
    elsewhere.beat();
    let mut missing = revived(WorkerPhase::Serving);
    missing.nodes.get_mut(&node(2)).expect("there").workers.clear();
    missing.beat();
    for world in [elsewhere, missing] {
        assert_ne!(world.ready_epoch(), Some(Epoch(1)));
    }
}

#[test]
fn nodes_that_do_not_reach_each_other_are_kept_apart_while_another_can_take_the_place_of_one() {
    let cut = |world: &mut World, a: u16, b: u16| {
        world.nodes.get_mut(&node(a)).expect("there").cut_from = Some(node(b));
        world.nodes.get_mut(&node(b)).expect("there").cut_from = Some(node(a));
    };
    let nodes = |world: &World| {
        let plan = world.only().1.plan().map(|p| p.ranks.iter().map(|r| r.node.clone()).collect::<BTreeSet<_>>());
        plan.unwrap_or_default()
    };
    let beats = |time: Duration| time.as_millis() as usize / LEASE.heartbeat_ms as usize;
    let mut world = World::new(2, 1, 3);
    world.beats(12);
    let pair: Vec<NodeId> = nodes(&world).into_iter().collect();
    assert_eq!((world.ready_epoch(), pair.len()), (Some(Epoch(1)), 2));
    let number = |n: &NodeId| (1..=3).find(|i| node(*i) == *n).expect("one of three");
    cut(&mut world, number(&pair[0]), number(&pair[1]));
    let failed = WorkerPhase::Failed { reason: "rank 1 lost".into(), retryable: true };
    world.nodes.get_mut(&pair[0]).expect("there").workers[0].phase = failed;
    world.beats(beats(CONNECT_STALL) + 20);
    assert_eq!(world.ready_epoch(), Some(Epoch(3)), "once more on the same pair, then on another one");
    assert!(!pair.iter().all(|n| nodes(&world).contains(n)), "{pair:?}");

    // With nobody to take a place the same two go on trying, both in use, and serve when the link is whole again.
    let mut world = World::new(2, 1, 2);
    cut(&mut world, 1, 2);
    world.beats(beats(FORMING_STALL) + 20);
    assert_eq!((world.ready_epoch(), nodes(&world).len()), (None, 2));
    world.nodes.values_mut().for_each(|n| n.cut_from = None);
    world.beats(beats(FORMING_STALL));
    assert!(world.ready_epoch().is_some());
    assert_eq!(nodes(&world).len(), 2);
}

#[test]
fn repeated_failures_back_off_and_end_when_the_cause_does() {
    let mut world = World::new(1, 1, 1);
    world.nodes.get_mut(&node(1)).expect("there").fails = Some(("out of memory".into(), true));
    world.beats(40);
    let tried = world.only().1.epoch.0;
    assert!((2..=6).contains(&tried), "{tried} formings in 4 s");
    let (_, replica) = world.only();
    assert!(replica.failed_formings > 0);
    world.nodes.get_mut(&node(1)).expect("there").fails = None;
    world.beats(110);
    assert!(world.ready_epoch().is_some());
    assert_eq!(world.only().1.failed_formings, 0);
}

#[test]
fn what_cannot_load_is_failed_with_its_reason_until_a_new_generation() {
    let mut world = World::new(1, 1, 1);
    world.nodes.get_mut(&node(1)).expect("there").fails = Some(("tensor x is missing".into(), false));
    world.beats(40);
    let (id, replica) = world.only();
    let Phase::Failed { reason } = &replica.phase else { panic!("{replica:?}") };
    assert!(reason.contains("tensor x is missing") && reason.contains("node-1"), "{reason}");
    assert_eq!(replica.epoch, Epoch(1), "tried again although it is hopeless");
    world.nodes.get_mut(&node(1)).expect("there").fails = None;
    put(&mut world.state, 1, 1);
    world.beats(12);
    assert!(world.ready_epoch().is_some());
    assert_ne!(world.only().0, id);
}

#[test]
fn what_does_not_fit_is_blocked_with_the_number_until_a_node_comes() {
    let mut world = World::new(1, 1, 0);
    world.beats(2);
    assert!(world.blocked().expect("no node").contains("no node"), "{:?}", world.blocked());
    world.nodes.insert(node(1), Node::new(1, 4096));
    world.beats(8);
    assert!(world.blocked().expect("too small").contains("4096"), "{:?}", world.blocked());
    world.nodes.insert(node(2), Node::new(1, ROOMY));
    world.beats(8);
    assert_eq!(world.blocked(), None);
    assert_eq!(world.ready_epoch(), Some(Epoch(1)));
}

#[test]
fn a_group_of_two_over_three_nodes_goes_on_with_the_spare_one_when_a_node_is_lost() {
    let mut world = World::new(2, 1, 3);
    world.beats(12);
    let on = |world: &World| -> Vec<NodeId> {
        world.only().1.plan().expect("ready").ranks.iter().map(|r| r.node.clone()).collect()
    };
    let first = on(&world);
    assert_eq!((world.ready_epoch(), first.len()), (Some(Epoch(1)), 2));
    let spare = world.nodes.keys().find(|n| !first.contains(n)).expect("one of three").clone();
    world.nodes.remove(&first[0]);
    world.beats(14);
    assert_eq!(world.ready_epoch(), Some(Epoch(2)));
    let second = on(&world);
    assert!(second.contains(&spare) && second.contains(&first[1]), "{second:?} after {first:?} without {}", first[0]);
}

#[test]
fn what_the_nodes_that_are_left_cannot_hold_is_blocked_with_the_number_until_another_comes() {
    let mut world = World::new(2, 1, 2);
    // Room for one rank, whose process alone takes 48 MiB, and not for two.
    let memory = 90 << 20;
    world.nodes.values_mut().for_each(|n| n.memory = memory);
    world.beats(12);
    assert_eq!((world.ready_epoch(), world.blocked()), (Some(Epoch(1)), None));
    world.nodes.remove(&node(2));
    world.beats(14);
    assert_eq!(world.ready_epoch(), None);
    let blocked = world.blocked().expect("one node is too small").to_owned();
    assert!(blocked.contains("node-1") && blocked.contains(&memory.to_string()), "{blocked}");
    world.nodes.insert(node(3), Node::new(1, memory));
    world.beats(14);
    assert_eq!((world.ready_epoch(), world.blocked()), (Some(Epoch(2)), None));
}

#[test]
fn a_group_that_comes_no_further_is_given_up() {
    let mut world = World::new(1, 1, 1);
    world.nodes.get_mut(&node(1)).expect("there").stuck = true;
    world.beats(12);
    assert!(matches!(world.only().1.phase, Phase::Forming { .. }));
    let beats = FORMING_STALL.as_millis() as usize / LEASE.heartbeat_ms as usize;
    world.beats(beats);
    assert_eq!(world.only().1.failed_formings, 1);
}

#[test]
fn a_new_leader_keeps_what_is_ready_and_forms_anew_what_it_cannot_finish() {
    let mut world = World::new(2, 1, 2);
    world.beats(12);
    world.new_leader();
    world.beats(5);
    assert_eq!(world.ready_epoch(), Some(Epoch(1)));

    let mut world = World::new(2, 1, 2);
    while !world.nodes.values().flat_map(|n| &n.workers).any(|w| w.phase == WorkerPhase::Connected) {
        world.beat();
    }
    world.new_leader();
    world.beats(10);
    assert_eq!(world.ready_epoch(), Some(Epoch(2)));
}

#[test]
fn a_leaving_node_is_drained_before_its_ranks_go_elsewhere() {
    let mut world = World::new(1, 1, 2);
    world.beats(12);
    let (_, replica) = world.only();
    let on = replica.plan().expect("ready").ranks[0].node.clone();
    world.nodes.get_mut(&on).expect("there").leaving = true;
    world.settle();
    world.beats(8);
    assert_eq!(world.ready_epoch(), Some(Epoch(2)));
    assert_ne!(world.only().1.plan().expect("ready").ranks[0].node, on);
    assert!(matches!(world.state.nodes[&on].standing, Standing::Down { .. }), "left, with nothing on it");
}

#[test]
fn a_drain_that_does_not_end_is_cut_off() {
    let mut world = World::new(1, 1, 2);
    world.beats(12);
    let (id, replica) = world.only();
    let (epoch, on) = (replica.epoch, replica.plan().expect("ready").ranks[0].node.clone());
    world.nodes.get_mut(&on).expect("there").stuck = true;
    let drain = ReplicaCommand::Drain { replica: id, epoch, reason: "test".into() };
    world.state.apply(Command::Replica(drain)).expect("ready");
    world.beats(5);
    assert!(matches!(world.only().1.phase, Phase::Draining { .. }));
    let beats = DRAIN_MAX.as_millis() as usize / LEASE.heartbeat_ms as usize;
    world.beats(beats);
    assert!(!matches!(world.only().1.phase, Phase::Draining { .. }));
}

#[test]
fn more_replicas_are_added_beside_and_fewer_are_drained() {
    let mut world = World::new(1, 1, 2);
    world.beats(12);
    put(&mut world.state, 1, 2);
    world.beats(12);
    let epochs: Vec<_> = world.state.replicas.values().map(|r| (r.phase.name(), r.epoch)).collect();
    assert_eq!(epochs, [("ready", Epoch(1)), ("ready", Epoch(1))]);
    put(&mut world.state, 1, 1);
    world.beats(12);
    assert_eq!(world.ready_epoch(), Some(Epoch(1)));
    put(&mut world.state, 2, 1);
    world.beats(20);
    assert!(world.ready_epoch().is_some());
    assert_eq!(world.only().1.spec.tp.get(), 2);
}

/// As an admin does it.
fn cordon(state: &mut ClusterState, n: u16, is_set: bool) {
    let command = NodeCommand::SetCordon { node: node(n), is_set, expected: None };
    state.apply(Command::Node(command)).expect("registered");
}

#[test]
fn nothing_new_goes_to_a_cordoned_node_and_what_runs_there_stays() {
    let mut world = World::new(1, 1, 2);
    world.beats(12);
    let (id, first) = world.only();
    let at = first.plan().expect("ready").ranks[0].node.clone();
    let other = if at == node(1) { 2 } else { 1 };
    cordon(&mut world.state, 3 - other, true);
    world.beats(12);
    assert_eq!(world.ready_epoch(), Some(Epoch(1)), "the running group of {id:?} was disturbed");
    // Another replica goes to the other node, and so does the group that replaces a lost one.
    put(&mut world.state, 1, 2);
    world.beats(12);
    assert!(world.state.replicas.values().any(|r| r.is_on(&node(other))));
    world.nodes.get_mut(&at).expect("runs").workers.clear();
    world.beats(30);
    assert!(world.state.replicas.values().all(|r| r.is_on(&node(other))), "{:?}", world.state.replicas);
    cordon(&mut world.state, other, true);
    put(&mut world.state, 1, 3);
    world.beats(12);
    let blocked = world.blocked().expect("no node takes ranks");
    assert!(blocked.contains("cordoned: 2"), "{blocked}");
    cordon(&mut world.state, 3 - other, false);
    world.beats(12);
    assert_eq!(world.blocked(), None);
    assert!(world.state.replicas.values().any(|r| r.is_on(&at)));
}

#[test]
fn backoff_grows_to_its_bound() {
    let waits: Vec<_> = [0, 1, 2, 3, 40, u32::MAX].map(|n| planner::backoff(n).as_millis()).into();
    assert_eq!(waits, [0, 250, 500, 1000, 10_000, 10_000]);
}

#[derive(Debug, Clone)]
enum Disturbance {
    Beats(usize),
    KillNode(u16),
    StartNode(u16),
    KillWorkers(u16),
    FailWorkers(u16),
    NewLeader,
    Leave(u16),
    Put(u16, u16),
}

fn disturbance() -> impl Strategy<Value = Disturbance> {
    prop_oneof![
        4 => (1..15usize).prop_map(Disturbance::Beats),
        1 => (1..4u16).prop_map(Disturbance::KillNode),
        1 => (1..4u16).prop_map(Disturbance::StartNode),
        1 => (1..4u16).prop_map(Disturbance::KillWorkers),
        1 => (1..4u16).prop_map(Disturbance::FailWorkers),
        1 => Just(Disturbance::NewLeader),
        1 => (1..4u16).prop_map(Disturbance::Leave),
        1 => (1..4u16, 1..3u16).prop_map(|(tp, replicas)| Disturbance::Put(tp, replicas)),
    ]
}

impl World {
    fn disturb(&mut self, what: Disturbance, starts: &mut u64) {
        *starts += 1;
        match what {
            Disturbance::Beats(n) => self.beats(n),
            Disturbance::KillNode(n) => drop(self.nodes.remove(&node(n))),
            Disturbance::StartNode(n) => drop(self.nodes.insert(node(n), Node::new(*starts, ROOMY))),
            Disturbance::KillWorkers(n) => {
                if let Some(n) = self.nodes.get_mut(&node(n)) {
                    n.workers.clear();
                }
            }
            Disturbance::FailWorkers(n) => {
                for w in self.nodes.get_mut(&node(n)).into_iter().flat_map(|n| &mut n.workers) {
                    w.phase = WorkerPhase::Failed { reason: "killed".into(), retryable: true };
                }
            }
            Disturbance::NewLeader => self.new_leader(),
            Disturbance::Leave(n) => {
                if let Some(n) = self.nodes.get_mut(&node(n)) {
                    n.leaving = true;
                }
            }
            Disturbance::Put(tp, replicas) => put(&mut self.state, tp, replicas),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happened_it_serves_again_once_nothing_more_does(
        disturbances in prop::collection::vec(disturbance(), 0..25),
    ) {
        let mut world = World::new(2, 1, 3);
        let mut starts = 1;
        for what in disturbances {
            world.disturb(what, &mut starts);
        }
        for n in 1..=3 {
            starts += 1;
            world.nodes.insert(node(n), Node::new(starts, ROOMY));
        }
        // Longest backoff, a drain, and the forming itself.
        world.beats(450);
        let spec = world.state.deployments["nano"].spec.clone();
        let phases: Vec<_> = world.state.replicas.values().map(|r| r.phase.name()).collect();
        prop_assert_eq!(phases, vec!["ready"; usize::from(spec.replicas)]);
        prop_assert!(world.state.replicas.values().all(|r| r.runs(&spec)));
        prop_assert_eq!(world.blocked(), None);
        let next = deadlines::next(&world.state, &world.observed, world.now);
        prop_assert!(next.is_some_and(|at| at > world.now), "leases are always to be watched");
    }
}
