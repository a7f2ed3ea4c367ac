//! What a picture becomes, and how a coordinator's picture follows the leaders it hears.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::lease::{WorkerPhase, WorkerStatus};
use protocol::stats::EngineStats;
use protocol::worker::{EngineLoad, Proof};
use protocol::{CoordinatorId, Epoch, Generation, Rank, ReplicaId, Term};

use super::exposition::Exposition;
use super::names::{self, Kind};
use super::{Families, Picture, cluster, gateway};
use crate::gateway::GatewayStats;
use crate::raft::{AppliedState, Leadership};
use crate::reconcile::{Heard, LastReport};
use crate::state::fixtures::{addr, inventory, node, plan, spec};
use crate::state::{ClusterState, Command, DeploymentCommand, NodeCommand, ReplicaCommand};

/// One deployment whose replica is Ready on node 1, in epoch 1.
fn state() -> ClusterState {
    let mut state = ClusterState::default();
    let (replica, epoch) = (ReplicaId(0), Epoch(1));
    let mut wanted = spec(1, 2);
    wanted.served_names = vec!["a \"quoted\" \\ name".to_owned()];
    for command in [
        Command::Node(NodeCommand::Register { node: node(1), incarnation: 1, inventory: inventory(1) }),
        Command::Deployment(DeploymentCommand::Put { expected: None, spec: Box::new(wanted) }),
        Command::Replica(ReplicaCommand::Create { deployment: "nano".into(), generation: Generation(1) }),
        Command::Replica(ReplicaCommand::Form { replica, epoch, plan: plan(&[node(1)]) }),
        Command::Replica(ReplicaCommand::CommitReady { replica, epoch, addrs: vec![addr(0, node(1))] }),
    ] {
        state.apply(command).expect("legal");
    }
    state
}

fn stats(scale: u64) -> EngineStats {
    let mut stats = EngineStats {
        prompt_tokens: 100 * scale,
        generation_tokens: 20 * scale,
        prefix_cache_queries: 90 * scale,
        prefix_cache_hits: 30 * scale,
        finished_stop: 3 * scale,
        finished_length: 2 * scale,
        ..EngineStats::default()
    };
    for ms in [1, 3, 700, 600_000] {
        stats.time_to_first_token.record(Duration::from_millis(ms));
    }
    stats
}

fn worker(epoch: u64, scale: u64) -> WorkerStatus {
    WorkerStatus {
        replica: ReplicaId(0),
        epoch: Epoch(epoch),
        rank: Rank(0),
        pid: 1,
        phase: WorkerPhase::Serving,
        bytes_read: 1,
        load: Some(EngineLoad { running: 3, waiting: 1, kv_blocks_used: 4, kv_blocks_total: 16, steps: 7 }),
        stats: Some(Box::new(stats(scale))),
        proof: Some(Proof { age_ms: 1500, good_ms: 15_000 }),
    }
}

fn stats_of_a_gateway() -> GatewayStats {
    let mut stats = GatewayStats { open: 9, waiting: 4, in_flight: 5, ..GatewayStats::default() };
    stats.responses.insert(("/v1/completions".to_owned(), 200), 7);
    stats.responses.insert(("other".to_owned(), 404), 2);
    stats.failures.insert("unknown_url", 2);
    stats.admission_wait.record(Duration::from_millis(3));
    stats.interrupted = 2;
    stats.resume.record(Duration::from_millis(1500));
    stats
}

fn heard(at: Instant, workers: Vec<WorkerStatus>) -> Heard {
    Heard { nodes: [(node(1), LastReport { workers: Arc::new(workers), at })].into() }
}

fn picture(state: ClusterState, now: Instant) -> Picture {
    let mut picture = Picture::unknown(now);
    let leadership = Leadership::unknown(now).then(Term(5), Some(CoordinatorId(2)), false, now);
    picture.follow(AppliedState { index: 42, state: Arc::new(state) }, leadership);
    picture
}

fn scrape(picture: &Picture, now: Instant) -> Exposition {
    let mut families = Families::default();
    cluster(picture, now, &mut families);
    gateway(&stats_of_a_gateway(), &mut families);
    Exposition::read(&families.text()).expect("a scraper takes it")
}

#[test]
fn every_metric_is_told_with_its_type_and_what_was_counted() {
    let now = Instant::now();
    let mut picture = picture(state(), now);
    picture.hear(&heard(now, vec![worker(1, 1)]), now);
    let scrape = scrape(&picture, now);
    for metric in names::ALL {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        assert_eq!(scrape.kinds.get(metric.name).map(String::as_str), Some(kind), "{}", metric.name);
    }
    assert_eq!(scrape.kinds.len(), names::ALL.len());
    let replica = [("deployment", "nano"), ("replica", "0")];
    assert_eq!(scrape.value("shardglm_replica_proof_age_seconds", &replica), Some(1.5));
    let engine = [("model_name", "a \"quoted\" \\ name"), ("engine", "0")];
    for (name, expected) in [
        ("vllm:num_requests_running", 3.0),
        ("vllm:num_requests_waiting", 1.0),
        ("vllm:kv_cache_usage_perc", 0.25),
        ("vllm:prompt_tokens_total", 100.0),
        ("vllm:generation_tokens_total", 20.0),
        ("vllm:prefix_cache_hits_total", 30.0),
        ("vllm:request_success_total", 5.0),
        ("vllm:time_to_first_token_seconds_count", 4.0),
        ("vllm:time_to_first_token_seconds_sum", 600.704),
    ] {
        assert_eq!(scrape.value(name, &engine), Some(expected), "{name}");
    }
    let bucket = |le| scrape.value("vllm:time_to_first_token_seconds_bucket", &[("le", le)]);
    assert_eq!(
        [bucket("0.001"), bucket("0.005"), bucket("1"), bucket("+Inf")],
        [Some(1.0), Some(2.0), Some(3.0), Some(4.0)]
    );
    let stop = [("finished_reason", "stop")];
    assert_eq!(scrape.value("vllm:request_success_total", &stop), Some(3.0));
    let cache = [("block_size", "16"), ("num_gpu_blocks", "16"), ("enable_prefix_caching", "True")];
    assert_eq!(scrape.value("vllm:cache_config_info", &cache), Some(1.0));
    for (name, labels, expected) in [
        ("shardglm_http_responses_total", &[("status", "404")][..], 2.0),
        ("shardglm_http_responses_total", &[], 9.0),
        ("shardglm_request_failures_total", &[("code", "unknown_url")], 2.0),
        ("shardglm_prompts_waiting", &[], 4.0),
        ("shardglm_admission_wait_seconds_count", &[], 1.0),
        ("shardglm_answers_interrupted_total", &[], 2.0),
        ("shardglm_answer_resume_seconds_sum", &[], 1.5),
        ("shardglm_nodes", &[("state", "up")], 1.0),
        ("shardglm_replicas", &[("phase", "ready")], 1.0),
        ("shardglm_replicas", &[], 1.0),
        ("shardglm_replicas_wanted", &[("deployment", "nano")], 2.0),
        ("shardglm_raft_term", &[], 5.0),
        ("shardglm_raft_leader", &[], 2.0),
        ("shardglm_raft_is_leader", &[], 0.0),
        ("shardglm_raft_applied_index", &[], 42.0),
        ("shardglm_rank_planned_bytes", &[("node", "node-1"), ("rank", "0")], 1000.0),
    ] {
        assert_eq!(scrape.value(name, labels), Some(expected), "{name} {labels:?}");
    }
}

#[test]
fn what_was_known_stays_with_its_age_until_something_newer_is_heard() {
    let start = Instant::now();
    let at = |s| start + Duration::from_secs(s);
    let mut picture = picture(state(), start);
    let tokens = |p: &Picture| scrape(p, at(9)).value("vllm:generation_tokens_total", &[]);
    assert_eq!(scrape(&picture, at(4)).value("shardglm_metrics_age_seconds", &[]), Some(4.0), "since the start");
    assert_eq!(tokens(&picture), None, "nothing was heard of an engine");

    picture.hear(&heard(at(4), vec![worker(1, 2)]), at(5));
    let scraped = scrape(&picture, at(9));
    assert_eq!(scraped.value("shardglm_metrics_age_seconds", &[]), Some(4.0));
    assert_eq!(scraped.value("shardglm_node_report_age_seconds", &[("node", "node-1")]), Some(5.0));
    // A new leader that the node has not found yet.
    picture.hear(&Heard::default(), at(6));
    assert_eq!(tokens(&picture), Some(40.0));
    // An answer that was overtaken.
    picture.hear(&heard(at(3), vec![worker(1, 1)]), at(7));
    assert_eq!(tokens(&picture), Some(40.0));
    picture.hear(&heard(at(7), vec![worker(1, 3)]), at(8));
    assert_eq!(tokens(&picture), Some(60.0));
}

#[test]
fn a_lost_groups_counts_are_not_told_and_a_removed_node_is_forgotten() {
    let now = Instant::now();
    let mut lost = state();
    let lose = ReplicaCommand::Lose { replica: ReplicaId(0), epoch: Epoch(1), reason: "a rank died".into() };
    lost.apply(Command::Replica(lose)).expect("legal");
    let form = ReplicaCommand::Form { replica: ReplicaId(0), epoch: Epoch(2), plan: plan(&[node(1)]) };
    lost.apply(Command::Replica(form)).expect("legal");
    let mut forming = picture(lost, now);
    forming.hear(&heard(now, vec![worker(1, 2)]), now);
    assert_eq!(scrape(&forming, now).value("vllm:generation_tokens_total", &[]), None, "they were of epoch 1");
    forming.hear(&heard(now, vec![worker(1, 2), worker(2, 1)]), now);
    assert_eq!(scrape(&forming, now).value("vllm:generation_tokens_total", &[]), Some(20.0), "from zero again");
    assert_eq!(scrape(&forming, now).value("shardglm_replica_epoch", &[("engine", "0")]), Some(2.0));

    let nobody = forming.leadership.then(Term(6), None, false, now);
    forming.follow(AppliedState::default(), nobody);
    assert_eq!(scrape(&forming, now).value("shardglm_node_report_age_seconds", &[]), None);
    assert_eq!(scrape(&forming, now).value("shardglm_raft_leader", &[]), Some(0.0));
    assert_eq!(scrape(&forming, now).value("shardglm_leader_known", &[]), Some(0.0));
    let later = now + Duration::from_secs(5);
    forming.follow(AppliedState::default(), nobody.then(Term(7), None, false, later));
    assert_eq!(scrape(&forming, later).value("shardglm_leaderless_seconds", &[]), Some(5.0));
}

#[test]
fn ages_survive_the_way_to_another_coordinator() {
    let now = Instant::now() + Duration::from_secs(3600);
    let told = heard(now - Duration::from_secs(7), vec![worker(1, 1)]).told(now);
    let bytes = crate::raft::codec::encode(&told);
    let told: crate::reconcile::HeardTold = crate::raft::codec::decode(&bytes).expect("what was encoded");
    let there = now + Duration::from_secs(100);
    let heard = told.heard(there);
    assert_eq!(heard.nodes[&node(1)].at, there - Duration::from_secs(7));
    assert_eq!(heard.workers(&node(1)), [worker(1, 1)]);
}

#[test]
fn the_reader_refuses_what_a_scraper_would() {
    let head = "# HELP a_total A.\n# TYPE a_total counter\n";
    for wrong in [
        "a_total 1\n",
        "# TYPE a_total counter\na_total 1\n",
        &format!("{head}a_total 1"),
        &format!("{head}a_total x\n"),
        &format!("{head}a_total 1\na_total 2\n"),
        &format!("{head}a_total -1\n"),
        &format!("{head}b_total 1\n"),
        &format!("{head}a_total{{x=\"1}} 1\n"),
        &format!("{head}a_total 1\n{head}"),
        "# HELP h_seconds H.\n# TYPE h_seconds histogram\nh_seconds_bucket{le=\"1\"} 2\nh_seconds_bucket{le=\"+Inf\"} 1\n",
        "# HELP h_seconds H.\n# TYPE h_seconds histogram\nh_seconds_bucket{le=\"+Inf\"} 1\nh_seconds_count 2\nh_seconds_sum 1\n",
    ] {
        assert!(Exposition::read(wrong).is_err(), "{wrong}");
    }
    let right = Exposition::read(&format!("{head}a_total{{x=\"\\\"\\n\"}} 1\n")).expect("well-formed");
    assert_eq!(right.value("a_total", &[("x", "\"\n")]), Some(1.0));
}
