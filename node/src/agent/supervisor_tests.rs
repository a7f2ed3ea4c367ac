//! The supervisor by tables: one test per edge of its drawing.

use protocol::plan::RankAddr;
use protocol::{AtomRun, ByteBudget, DeploymentSpec, Dtype, Generation, ModelRecord, NodeId, Plan, RankCut, RankPlan};
use protocol::{Span, WorldSize};

use super::*;
use crate::agent::standing::Cut;

fn plan() -> Plan {
    let run = AtomRun { start: 0, end: 8 };
    let all = Span { start: 0, end: 8 };
    let cut = RankCut { head_atoms: run, heads: all, kv_heads: all, mlp_atoms: run, mlp_cols: all, vocab_rows: all };
    let node = NodeId::new("node-1").expect("a label");
    let rank = RankPlan { rank: Rank(0), node, cut, budget: ByteBudget::default() };
    Plan { world_size: WorldSize::ONE, kv_tokens: 64, context_tokens: 64, ranks: vec![rank] }
}

fn deployment() -> DeploymentSpec {
    let model = ModelRecord {
        name: "m".into(),
        digest: "d".into(),
        dir: "/m".into(),
        config_json: "{}".into(),
        stored_f32: true,
        weight_bytes: 1,
    };
    DeploymentSpec {
        name: "d".into(),
        generation: Generation(1),
        model,
        served_names: vec!["m".into()],
        tp: WorldSize::ONE,
        replicas: 1,
        dtype: Dtype::F32,
        threads_per_worker: 1,
        kv_tokens: None,
        context_tokens: None,
        max_seqs: 4,
        step_tokens: 64,
        pictures: None,
    }
}

const SILENCE: Duration = Duration::from_secs(2);

fn key(epoch: u64) -> RankKey {
    key_of_rank(epoch, 0)
}

fn key_of_rank(epoch: u64, rank: u16) -> RankKey {
    RankKey { replica: ReplicaId(1), epoch: Epoch(epoch), rank: Rank(rank) }
}

fn order(epoch: u64, goal: RankGoal) -> RankOrder {
    order_of_rank(epoch, 0, goal)
}

fn order_of_rank(epoch: u64, rank: u16, goal: RankGoal) -> RankOrder {
    let k = key_of_rank(epoch, rank);
    RankOrder { replica: k.replica, epoch: k.epoch, rank: k.rank, deployment: deployment(), plan: plan(), goal }
}

fn orders(term: u64, ranks: Vec<RankOrder>) -> Event {
    Event::Orders(NodeOrders { term: Term(term), lease_ms: 1000, heartbeat_ms: 100, ranks, coordinators: vec![] })
}

fn addr() -> RankAddr {
    let any = "127.0.0.1:1".parse().expect("an address");
    RankAddr::new(Rank(0), NodeId::new("node-1").expect("a label"), any, any)
}

fn said(epoch: u64, phase: WorkerPhase) -> Event {
    Event::Said { key: key(epoch), message: FromWorker::Phase(phase) }
}

fn alive(epoch: u64) -> Event {
    Event::Said {
        key: key(epoch),
        message: FromWorker::Alive { load: EngineLoad::default(), stats: None, proof: None },
    }
}

fn exited(epoch: u64) -> Event {
    Event::Exited { key: key(epoch), how: "was killed by signal 9".into() }
}

struct Case {
    supervisor: Supervisor,
    now: Instant,
}

impl Case {
    fn new() -> Self {
        Self { supervisor: Supervisor::new(Term(0), SILENCE), now: Instant::now() }
    }

    fn apply(&mut self, event: Event) -> Vec<Command> {
        self.supervisor.apply(event, self.now)
    }

    /// A case whose worker of epoch 1 serves.
    fn serving() -> Self {
        let mut case = Self::new();
        assert!(matches!(case.apply(orders(1, vec![order(1, RankGoal::Load)]))[..], [Command::Spawn(_)]));
        assert!(case.apply(Event::Started { key: key(1), pid: 42 }).is_empty());
        assert!(case.apply(said(1, WorkerPhase::Loaded { addr: addr(), bytes_read: 5 })).is_empty());
        let peers = vec![addr()];
        let told = case.apply(orders(1, vec![order(1, RankGoal::Connect { peers: peers.clone() })]));
        assert_eq!(told, [Command::Tell { key: key(1), message: ToWorker::Connect { peers } }]);
        assert!(case.apply(said(1, WorkerPhase::Connected)).is_empty());
        let told = case.apply(orders(1, vec![order(1, RankGoal::Serve)]));
        assert_eq!(told, [Command::Tell { key: key(1), message: ToWorker::Serve }]);
        assert!(case.apply(said(1, WorkerPhase::Serving)).is_empty());
        case
    }

    fn phases(&self) -> Vec<WorkerPhase> {
        self.supervisor.statuses(self.now).into_iter().map(|s| s.phase).collect()
    }
}

fn drain(epoch: u64, deadline: Duration) -> Command {
    let deadline_ms = u32::try_from(deadline.as_millis()).expect("short");
    Command::Tell { key: key(epoch), message: ToWorker::Drain { deadline_ms } }
}

#[test]
fn a_rank_is_led_from_nothing_to_serving_and_orders_are_idempotent() {
    let mut case = Case::serving();
    assert!(case.apply(orders(1, vec![order(1, RankGoal::Serve)])).is_empty());
    assert_eq!(case.phases(), [WorkerPhase::Serving]);
    assert_eq!(case.supervisor.statuses(case.now)[0].pid, 42);
}

#[test]
fn a_goal_waits_for_the_phase_before_it() {
    let mut case = Case::new();
    case.apply(orders(1, vec![order(1, RankGoal::Load)]));
    let connect = || orders(1, vec![order(1, RankGoal::Connect { peers: vec![addr()] })]);
    assert!(case.apply(connect()).is_empty());
    let told = case.apply(said(1, WorkerPhase::Loaded { addr: addr(), bytes_read: 5 }));
    assert!(matches!(told[..], [Command::Tell { message: ToWorker::Connect { .. }, .. }]));
}

#[test]
fn orders_of_a_lower_term_are_refused() {
    let mut case = Case::serving();
    case.apply(orders(3, vec![order(1, RankGoal::Serve)]));
    assert!(case.apply(orders(2, vec![])).is_empty());
    assert_eq!((case.phases().len(), case.supervisor.term()), (1, Term(3)));
    let mut restarted = Supervisor::new(Term(3), SILENCE);
    assert!(restarted.apply(orders(2, vec![order(1, RankGoal::Load)]), case.now).is_empty());
}

#[test]
fn a_lower_epoch_is_refused_even_after_its_worker_is_gone() {
    let mut case = Case::serving();
    case.apply(orders(1, vec![]));
    case.apply(exited(1));
    assert!(matches!(case.apply(orders(2, vec![order(5, RankGoal::Load)]))[..], [Command::Spawn(_)]));
    case.apply(orders(3, vec![]));
    case.apply(exited(5));
    assert!(case.apply(orders(4, vec![order(4, RankGoal::Load)])).is_empty());
    assert!(case.supervisor.is_empty());
}

#[test]
fn a_rank_that_may_finish_is_drained_then_killed_then_forgotten() {
    let mut case = Case::serving();
    assert_eq!(case.apply(orders(1, vec![order(1, RankGoal::Drain)])), [drain(1, DRAIN_DEADLINE)]);
    assert!(case.apply(orders(1, vec![order(1, RankGoal::Drain)])).is_empty(), "told once");
    assert!(case.apply(Event::Tick).is_empty());
    let due = case.supervisor.next_deadline().expect("a kill is planned");
    assert_eq!(due, case.now + DRAIN_DEADLINE + KILL_MARGIN);
    case.now = due;
    assert_eq!(case.apply(Event::Tick), [Command::Kill(key(1))]);
    assert!(case.apply(Event::Tick).is_empty(), "killed once");
    assert_eq!(case.supervisor.next_deadline(), None);
    case.apply(exited(1));
    assert!(case.phases().is_empty());
}

#[test]
fn an_absent_rank_stops_at_once_since_its_group_is_lost() {
    let mut case = Case::serving();
    assert_eq!(case.apply(orders(1, vec![])), [drain(1, STOP_DEADLINE)]);
    assert!(case.apply(orders(1, vec![])).is_empty(), "told once");
    case.apply(exited(1));
    assert!(case.phases().is_empty());
}

#[test]
fn a_rank_that_does_not_serve_yet_has_nothing_to_finish() {
    let mut case = Case::new();
    case.apply(orders(1, vec![order(1, RankGoal::Load)]));
    assert_eq!(case.apply(orders(1, vec![])), [drain(1, STOP_DEADLINE)]);
}

#[test]
fn the_next_epoch_starts_when_the_superseded_worker_is_gone() {
    let mut case = Case::serving();
    assert_eq!(case.apply(orders(2, vec![order(2, RankGoal::Load)])), [drain(1, STOP_DEADLINE)]);
    assert_eq!(case.phases().len(), 1);
    assert!(matches!(&case.apply(exited(1))[..], [Command::Spawn(o)] if o.epoch == Epoch(2)));
    assert_eq!(case.phases(), [WorkerPhase::Starting]);
}

#[test]
fn a_draining_worker_is_hurried_when_its_replica_goes_on_without_it() {
    let mut case = Case::serving();
    assert_eq!(case.apply(orders(1, vec![order(1, RankGoal::Drain)])), [drain(1, DRAIN_DEADLINE)]);
    assert_eq!(case.apply(orders(1, vec![order(2, RankGoal::Load)])), [drain(1, STOP_DEADLINE)]);
    assert!(case.apply(orders(1, vec![order(2, RankGoal::Load)])).is_empty(), "told once");
    assert_eq!(case.supervisor.next_deadline(), Some(case.now + STOP_DEADLINE + KILL_MARGIN));
}

#[test]
fn an_exit_is_reported_with_its_cause_and_never_restarted_in_that_epoch() {
    let mut case = Case::serving();
    assert!(case.apply(exited(1)).is_empty());
    let reason = "the worker process was killed by signal 9".to_owned();
    assert_eq!(case.phases(), [WorkerPhase::Failed { reason, retryable: true }]);
    assert!(case.apply(orders(1, vec![order(1, RankGoal::Serve)])).is_empty());
    assert_eq!(case.phases().len(), 1, "it is reported until it is no longer ordered");
    case.apply(orders(1, vec![]));
    assert!(case.phases().is_empty());
}

#[test]
fn what_the_worker_said_it_failed_of_wins_over_how_it_exited() {
    let mut case = Case::serving();
    let failed = WorkerPhase::Failed { reason: "tensor t is missing".into(), retryable: false };
    case.apply(said(1, failed.clone()));
    case.apply(said(1, WorkerPhase::Draining));
    case.apply(exited(1));
    assert_eq!(case.phases(), [failed]);
}

#[test]
fn a_drained_rank_that_exits_is_not_started_again() {
    let mut case = Case::serving();
    assert_eq!(case.apply(orders(1, vec![order(1, RankGoal::Drain)])), [drain(1, DRAIN_DEADLINE)]);
    assert!(case.apply(exited(1)).is_empty());
    assert!(case.apply(orders(1, vec![order(1, RankGoal::Drain)])).is_empty());
    assert!(case.phases().is_empty());
}

#[test]
fn a_rank_of_a_group_that_went_on_without_it_is_reported_lost() {
    let mut case = Case::new();
    assert!(case.apply(orders(1, vec![order(1, RankGoal::Serve)])).is_empty());
    assert!(matches!(case.phases()[..], [WorkerPhase::Failed { retryable: true, .. }]));
}

#[test]
fn leaving_drains_everything_and_starts_nothing() {
    let mut case = Case::serving();
    assert_eq!(case.apply(Event::Leave), [drain(1, DRAIN_DEADLINE)]);
    assert!(case.apply(orders(9, vec![order(2, RankGoal::Load)])).is_empty());
    assert!(!case.supervisor.is_empty());
    case.apply(exited(1));
    assert!(case.supervisor.is_empty());
}

#[test]
fn a_silent_worker_is_looked_at_then_killed_and_reported_in_one() {
    let mut case = Case::serving();
    case.apply(alive(1));
    let heard = case.now;
    // Whatever wakes the agent meanwhile.
    while case.now < heard + SILENCE {
        assert!(case.apply(Event::Tick).is_empty(), "{:?} after it spoke", case.now - heard);
        case.now = case.supervisor.next_deadline().expect("somebody is listened to");
    }
    assert_eq!(case.apply(Event::Tick), [Command::Look(key(1))]);
    assert!(case.apply(Event::Tick).is_empty(), "looked at once");
    assert_eq!(case.phases(), [WorkerPhase::Serving]);
    assert_eq!(case.apply(Event::Silent(key(1))), [Command::Kill(key(1))]);
    let reason = "said nothing for 2.0 s: stopped or starved".to_owned();
    let failed = WorkerPhase::Failed { reason, retryable: true };
    assert_eq!(case.phases(), std::slice::from_ref(&failed));
    assert!(case.apply(Event::Silent(key(1))).is_empty(), "killed once");
    case.apply(exited(1));
    assert_eq!(case.phases(), [failed], "it is reported until it is no longer ordered");
}

#[test]
fn what_was_in_the_pipe_of_a_silent_worker_proves_that_it_lives() {
    let mut case = Case::serving();
    case.apply(alive(1));
    for _ in 0..4 {
        case.now += SILENCE / 4;
        case.apply(orders(1, vec![order(1, RankGoal::Serve)]));
    }
    assert_eq!(case.apply(Event::Tick), [Command::Look(key(1))]);
    assert!(case.apply(alive(1)).is_empty());
    assert!(case.apply(Event::Silent(key(1))).is_empty(), "the look is of before");
    assert_eq!(case.phases(), [WorkerPhase::Serving]);
}

#[test]
fn an_agent_that_was_stopped_itself_listens_for_a_whole_bound_before_it_judges() {
    for away in [SILENCE / 2 + Duration::from_millis(1), SILENCE, 100 * SILENCE] {
        let mut case = Case::serving();
        case.apply(alive(1));
        case.now += away;
        let back = case.now;
        while case.now < back + SILENCE {
            assert!(case.apply(Event::Tick).is_empty(), "away for {away:?}, back since {:?}", case.now - back);
            case.now = case.supervisor.next_deadline().expect("somebody is listened to");
        }
        assert_eq!(case.apply(Event::Tick), [Command::Look(key(1))]);
    }
}

#[test]
fn an_agent_that_was_stopped_after_it_looked_looks_again() {
    let mut case = Case::serving();
    case.apply(alive(1));
    for _ in 0..4 {
        case.now += SILENCE / 4;
        case.apply(Event::Tick);
    }
    case.now += SILENCE;
    assert!(case.apply(Event::Silent(key(1))).is_empty());
    assert_eq!(case.phases(), [WorkerPhase::Serving]);
}

#[test]
fn a_worker_that_starts_has_longer_for_its_first_sign_of_life() {
    let mut case = Case::new();
    case.apply(orders(1, vec![order(1, RankGoal::Load)]));
    let started = case.now;
    case.now += SILENCE / 4;
    // Its first words come before it has set itself up.
    assert!(case.apply(said(1, WorkerPhase::Starting)).is_empty());
    let spoke = case.now;
    loop {
        case.now = case.supervisor.next_deadline().expect("somebody is listened to");
        let commands = case.apply(Event::Tick);
        if case.now < spoke + super::super::hearing::START_SILENCE_MIN {
            assert!(commands.is_empty(), "{:?} after its start", case.now - started);
        } else {
            break assert_eq!(commands, [Command::Look(key(1))]);
        }
    }
}

#[test]
fn silence_is_not_held_against_a_worker_on_its_way_out() {
    let mut case = Case::serving();
    case.apply(alive(1));
    case.apply(orders(1, vec![order(1, RankGoal::Drain)]));
    for _ in 0..8 {
        case.now += SILENCE / 4;
        assert!(case.apply(Event::Tick).is_empty());
    }
    assert!(case.apply(Event::Silent(key(1))).is_empty());
}

#[test]
fn the_ranks_of_a_group_that_lost_one_on_this_node_stop_at_once() {
    let mut case = Case::serving();
    let both = || vec![order(1, RankGoal::Serve), order_of_rank(1, 1, RankGoal::Serve)];
    let failed = WorkerPhase::Failed { reason: "tensor t is missing".into(), retryable: false };
    // The second rank is one that this agent does not have: it counts as lost.
    assert_eq!(case.apply(orders(1, both())), [drain(1, STOP_DEADLINE)]);
    let why = "rank 1 of its group, on the same node: the node has no such worker: its agent was started anew, or had \
               stopped it";
    assert_eq!(case.phases()[0], WorkerPhase::Failed { reason: why.into(), retryable: true });
    case.apply(said(1, failed));
    case.apply(exited(1));
    assert!(matches!(&case.phases()[0], WorkerPhase::Failed { reason, .. } if reason == why), "the first reason stays");
}

#[test]
fn load_is_kept_for_rank_0_only_while_it_lives() {
    let mut case = Case::serving();
    let load = EngineLoad { running: 3, ..EngineLoad::default() };
    case.apply(Event::Said { key: key(1), message: FromWorker::Alive { load, stats: None, proof: None } });
    assert_eq!(case.supervisor.statuses(case.now)[0].load, Some(load));
    case.apply(exited(1));
    assert_eq!(case.supervisor.statuses(case.now)[0].load, None);
}

#[test]
fn a_proof_ages_with_its_agent_and_ends_with_its_worker() {
    let mut case = Case::serving();
    let proof = Some(Proof { age_ms: 100, good_ms: 15_000 });
    case.apply(Event::Said {
        key: key(1),
        message: FromWorker::Alive { load: EngineLoad::default(), stats: None, proof },
    });
    assert_eq!(case.supervisor.statuses(case.now)[0].proof, proof);
    let later = case.now + Duration::from_millis(250);
    assert_eq!(case.supervisor.statuses(later)[0].proof, Some(Proof { age_ms: 350, good_ms: 15_000 }));
    case.apply(exited(1));
    assert_eq!(case.supervisor.statuses(case.now)[0].proof, None);
}

fn alone() -> Event {
    Event::Standing(Standing::Alone)
}

fn orphaned() -> Event {
    Event::Standing(Standing::Orphaned(Cut::NobodyReached))
}

fn revive(epoch: u64) -> Command {
    Command::Revive { order: Box::new(order(epoch, RankGoal::Serve)), addr: addr() }
}

/// A supervisor after a restart of its agent, with what another one had kept.
fn restarted(before: &Case) -> Case {
    let kept = before.supervisor.kept(&NodeId::new("node-1").expect("a label"));
    Case { supervisor: Supervisor::restored(Term(0), SILENCE, kept), now: before.now }
}

#[test]
fn while_nobody_leads_a_dead_rank_comes_back_at_its_epoch_and_address_and_is_led_to_serve() {
    let mut case = Case::serving();
    assert!(case.apply(alone()).is_empty(), "what runs is left alone");
    assert!(case.apply(exited(1)).is_empty(), "not at once");
    case.now = case.supervisor.next_deadline().expect("an attempt is planned");
    assert_eq!(case.apply(Event::Tick), [revive(1)]);
    assert!(case.apply(Event::Tick).is_empty(), "one process at a time");
    assert_eq!(case.phases(), [WorkerPhase::Starting]);
    let peers = vec![addr()];
    let told = case.apply(said(1, WorkerPhase::Loaded { addr: addr(), bytes_read: 5 }));
    assert_eq!(told, [Command::Tell { key: key(1), message: ToWorker::Connect { peers } }]);
    let told = case.apply(said(1, WorkerPhase::Connected));
    assert_eq!(told, [Command::Tell { key: key(1), message: ToWorker::Serve }]);
    case.apply(said(1, WorkerPhase::Serving));
    assert!(case.apply(orders(2, vec![order(1, RankGoal::Serve)])).is_empty(), "the next leader finds it serving");
    assert_eq!(case.phases(), [WorkerPhase::Serving]);
}

#[test]
fn a_dead_rank_stays_dead_while_somebody_may_lead() {
    let mut case = Case::serving();
    case.apply(Event::Standing(Standing::Seeking));
    assert!(case.apply(exited(1)).is_empty());
    assert_eq!(case.supervisor.next_deadline(), None);
    case.apply(alone());
    assert!(case.supervisor.next_deadline().is_some());
    assert!(case.apply(orders(2, vec![order(1, RankGoal::Serve)])).is_empty(), "a leader decides now");
    case.now += revival::PAUSE_MAX;
    assert!(case.apply(Event::Tick).is_empty());
    assert!(matches!(case.phases()[..], [WorkerPhase::Failed { .. }]));
}

#[test]
fn what_would_fail_again_and_what_was_never_committed_is_not_revived() {
    let mut hopeless = Case::serving();
    hopeless.apply(alone());
    hopeless.apply(said(1, WorkerPhase::Failed { reason: "tensor t is missing".into(), retryable: false }));
    hopeless.apply(exited(1));
    let mut forming = Case::new();
    forming.apply(orders(1, vec![order(1, RankGoal::Load)]));
    forming.apply(said(1, WorkerPhase::Loaded { addr: addr(), bytes_read: 5 }));
    forming.apply(orders(1, vec![order(1, RankGoal::Connect { peers: vec![addr()] })]));
    forming.apply(alone());
    forming.apply(exited(1));
    for mut case in [hopeless, forming] {
        case.now += revival::PAUSE_MAX;
        assert!(case.apply(Event::Tick).is_empty());
    }
}

#[test]
fn an_agent_that_was_started_anew_revives_from_its_disk_only_where_nobody_leads() {
    let before = Case::serving();
    let mut case = restarted(&before);
    assert!(case.apply(Event::Tick).is_empty());
    assert!(case.apply(Event::Standing(Standing::Seeking)).is_empty());
    assert!(case.phases().is_empty(), "nothing is told of ranks that a leader has not asked for");
    assert_eq!(case.apply(alone()), [revive(1)]);
    let mut led = restarted(&before);
    assert!(led.apply(orders(1, vec![order(1, RankGoal::Serve)])).is_empty());
    assert!(matches!(led.phases()[..], [WorkerPhase::Failed { retryable: true, .. }]), "the leader forms it anew");
}

#[test]
fn fences_terms_and_addresses_survive_a_restart_of_the_agent() {
    let mut before = Case::serving();
    before.apply(orders(7, vec![order(2, RankGoal::Load)]));
    before.apply(orders(8, vec![]));
    let mut case = restarted(&before);
    assert_eq!(case.supervisor.term(), Term(8));
    assert!(case.apply(orders(7, vec![order(3, RankGoal::Load)])).is_empty(), "a deposed leader");
    assert!(case.apply(orders(8, vec![order(1, RankGoal::Load)])).is_empty(), "an older epoch");
    assert!(case.apply(alone()).is_empty());
    assert!(matches!(case.apply(orders(8, vec![order(2, RankGoal::Load)]))[..], [Command::Spawn(_)]));
}

#[test]
fn an_orphaned_node_stops_its_ranks_and_starts_none_until_it_is_found_again() {
    let mut case = Case::serving();
    assert_eq!(case.apply(orphaned()), [drain(1, DRAIN_DEADLINE)]);
    case.apply(exited(1));
    assert!(case.supervisor.is_empty() && case.phases().is_empty());
    case.now += revival::PAUSE_MAX;
    assert!(case.apply(Event::Tick).is_empty());
    assert!(case.apply(Event::Standing(Standing::Seeking)).is_empty());
    assert_eq!(case.apply(alone()), [revive(1)]);
    case.apply(orphaned());
    case.apply(exited(1));
    assert!(case.apply(orders(2, vec![order(1, RankGoal::Serve)])).is_empty());
    assert!(matches!(case.phases()[..], [WorkerPhase::Failed { retryable: true, .. }]), "its leader is told");
}

#[test]
fn the_ranks_of_a_group_on_one_node_come_back_together_and_only_when_all_are_gone() {
    let ranks = [0, 1];
    let addr_of = |rank| {
        let any = "127.0.0.1:1".parse().expect("an address");
        RankAddr::new(Rank(rank), NodeId::new("node-1").expect("a label"), any, any)
    };
    let peers: Vec<_> = ranks.map(addr_of).to_vec();
    let all = |goal: RankGoal| orders(1, ranks.iter().map(|r| order_of_rank(1, *r, goal.clone())).collect());
    let exited = |rank| Event::Exited { key: key_of_rank(1, rank), how: "was killed by signal 9".into() };
    let said = |rank, phase| Event::Said { key: key_of_rank(1, rank), message: FromWorker::Phase(phase) };
    let mut case = Case::new();
    case.apply(all(RankGoal::Load));
    case.apply(all(RankGoal::Connect { peers }));
    case.apply(all(RankGoal::Serve));
    ranks.iter().for_each(|rank| drop(case.apply(said(*rank, WorkerPhase::Serving))));
    case.apply(alone());
    for _ in 0..3 {
        let freed = case.apply(exited(0));
        assert!(matches!(freed[..], [Command::Tell { key, message: ToWorker::Drain { .. } }] if key.rank == Rank(1)));
        case.now += revival::PAUSE_MAX;
        let waits = case.apply(Event::Tick);
        assert!(!waits.iter().any(|c| matches!(c, Command::Revive { .. })), "rank 1 is on its way out: {waits:?}");
        case.apply(exited(1));
        case.now += revival::PAUSE_MAX;
        let revived = case.apply(Event::Tick);
        assert!(matches!(revived[..], [Command::Revive { .. }, Command::Revive { .. }]), "{revived:?}");
        ranks.iter().for_each(|rank| drop(case.apply(said(*rank, WorkerPhase::Serving))));
        assert_eq!(case.phases(), [WorkerPhase::Serving, WorkerPhase::Serving]);
    }
}

#[test]
fn a_superseded_rank_is_not_revived_and_its_successor_waits_for_its_end() {
    let mut case = Case::serving();
    case.apply(orders(2, vec![order(2, RankGoal::Load)]));
    assert!(case.apply(alone()).is_empty());
    assert!(matches!(&case.apply(exited(1))[..], [Command::Spawn(o)] if o.epoch == Epoch(2)), "as it was ordered");
    case.apply(exited(2));
    case.now += revival::PAUSE_MAX;
    assert!(case.apply(Event::Tick).is_empty(), "an epoch that nobody has committed");
}

#[test]
fn what_is_kept_changes_with_the_orders_and_not_with_each_heartbeat() {
    let mut case = Case::serving();
    let changes = case.supervisor.changes();
    case.apply(orders(1, vec![order(1, RankGoal::Serve)]));
    case.apply(orders(2, vec![order(1, RankGoal::Serve)]));
    assert_eq!(case.supervisor.changes(), changes, "the term is kept apart");
    case.apply(orders(2, vec![]));
    assert_eq!(case.supervisor.changes(), changes + 1);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Orders { epoch: u64, goal: u8 },
        NoOrders,
        Exit,
        Say(u8),
        Stand(u8),
        Wait(u64),
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1_u64..5, 0_u8..4).prop_map(|(epoch, goal)| Step::Orders { epoch, goal }),
            Just(Step::NoOrders),
            Just(Step::Exit),
            (0_u8..4).prop_map(Step::Say),
            (0_u8..4).prop_map(Step::Stand),
            (0_u64..40_000).prop_map(Step::Wait),
            Just(Step::Restart),
        ]
    }

    proptest! {
        /// Whatever happens, in whatever order: one process of a rank at a time, none below the fence, none while orphaned, and
        /// none revived unless nobody leads.
        #[test]
        fn at_most_one_process_of_a_rank_lives_and_none_below_the_fence(
            steps in prop::collection::vec(step(), 1..120)
        ) {
            let mut case = Case::new();
            let mut living: Option<RankKey> = None;
            let mut fence = 0;
            let mut standing = Standing::Led;
            for step in steps {
                let event = match step {
                    Step::Orders { epoch, goal } => {
                        fence = fence.max(epoch);
                        standing = Standing::Led;
                        let peers = vec![addr()];
                        let goals = [RankGoal::Load, RankGoal::Connect { peers }, RankGoal::Serve, RankGoal::Drain];
                        orders(1, vec![order(epoch, goals[usize::from(goal)].clone())])
                    }
                    Step::NoOrders => {
                        standing = Standing::Led;
                        orders(1, vec![])
                    }
                    Step::Exit => match living.take() {
                        Some(key) => exited(key.epoch.0),
                        None => continue,
                    },
                    Step::Say(what) => {
                        let Some(key) = living else { continue };
                        let loaded = WorkerPhase::Loaded { addr: addr(), bytes_read: 1 };
                        let failed = WorkerPhase::Failed { reason: "x".into(), retryable: true };
                        let phases = [loaded, WorkerPhase::Connected, WorkerPhase::Serving, failed];
                        said(key.epoch.0, phases[usize::from(what)].clone())
                    }
                    Step::Stand(what) => {
                        let cut = Standing::Orphaned(Cut::LeaderOutOfReach);
                        standing = [Standing::Led, Standing::Seeking, Standing::Alone, cut][usize::from(what)];
                        Event::Standing(standing)
                    }
                    Step::Wait(ms) => {
                        case.now += Duration::from_millis(ms);
                        Event::Tick
                    }
                    Step::Restart => {
                        // Workers end with their agent.
                        living = None;
                        standing = Standing::Led;
                        case = restarted(&case);
                        Event::Tick
                    }
                };
                for command in case.apply(event) {
                    let (started, revived) = match &command {
                        Command::Spawn(order) => (key_of(order), false),
                        Command::Revive { order, .. } => (key_of(order), true),
                        Command::Tell { key, .. } | Command::Kill(key) | Command::Look(key) => {
                            prop_assert_eq!(living, Some(*key), "told to a process that is not there");
                            continue;
                        }
                    };
                    prop_assert_eq!(living, None, "two processes of one rank");
                    prop_assert!(started.epoch.0 >= fence, "{started} below {fence}");
                    prop_assert!(!matches!(standing, Standing::Orphaned(_)));
                    prop_assert!(!revived || standing == Standing::Alone);
                    living = Some(started);
                }
            }
        }
    }
}
