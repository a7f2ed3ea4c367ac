//! Metrics of a picture, and of the gateway that tells it. Pure.
//!
//! Invariant: an engine's metrics are those of its replica's present group; what a lost group counted is not told.

use std::time::{Duration, Instant};

use protocol::ReplicaId;
use protocol::lease::WorkerStatus;
use protocol::stats::EngineStats;
use protocol::worker::EngineLoad;
use sharding::planner::BLOCK_TOKENS;

use super::{Families, Picture, names};
use crate::gateway::GatewayStats;
use crate::state::{ClusterState, Replica, Standing};

/// Phases of a replica by name, each told for each deployment, also when it is 0.
const PHASES: [&str; 5] = ["waiting", "forming", "ready", "draining", "failed"];
/// Standings of a node by name.
const STANDINGS: [&str; 3] = ["up", "leaving", "down"];

/// Adds what `picture` tells at `now`.
pub(crate) fn cluster(picture: &Picture, now: Instant, families: &mut Families) {
    freshness(picture, now, families);
    raft(picture, now, families);
    let state = &picture.applied.state;
    nodes(state, families);
    deployments(state, families);
    for (id, replica) in &state.replicas {
        plan(*id, replica, families);
        if let Some(worker) = picture.leader_of(*id, replica.epoch) {
            engine(state, *id, replica, worker, families);
        }
    }
}

/// Adds what one gateway tells of itself.
pub(crate) fn gateway(stats: &GatewayStats, families: &mut Families) {
    for ((route, status), count) in &stats.responses {
        families.add(names::HTTP_RESPONSES, &[route, &status.to_string()], *count as f64);
    }
    for (code, count) in &stats.failures {
        families.add(names::REQUEST_FAILURES, &[code], *count as f64);
    }
    for (metric, value) in [
        (names::REQUESTS_OPEN, stats.open),
        (names::PROMPTS_WAITING, stats.waiting),
        (names::PROMPTS_WAITING_TOKENS, stats.waiting_tokens),
        (names::PROMPTS_WAITING_BYTES, stats.waiting_bytes),
        (names::PROMPTS_IN_FLIGHT, stats.in_flight),
        (names::STREAMS_KEPT, stats.journal.streams),
        (names::JOURNAL_ENTRIES, stats.journal.entries),
        (names::JOURNAL_BYTES, stats.journal.bytes),
        (names::STREAMS_PICKED_UP, stats.picked_up),
        (names::STREAMS_UNKEPT, stats.unkept),
    ] {
        families.add(metric, &[], value as f64);
    }
    families.add_histogram(names::ADMISSION_WAIT, &[], &stats.admission_wait);
    families.add(names::ANSWERS_INTERRUPTED, &[], stats.interrupted as f64);
    families.add_histogram(names::ANSWER_RESUME, &[], &stats.resume);
}

fn freshness(picture: &Picture, now: Instant, families: &mut Families) {
    let age = |at| now.saturating_duration_since(at).as_secs_f64();
    families.add(names::METRICS_AGE, &[], age(picture.heard_at));
    for (node, last) in &picture.reports {
        families.add(names::NODE_REPORT_AGE, &[node.as_str()], age(last.at));
    }
}

fn raft(picture: &Picture, now: Instant, families: &mut Families) {
    let known = picture.leadership;
    families.add(names::BUILD, &[env!("CARGO_PKG_VERSION")], 1.0);
    families.add(names::RAFT_TERM, &[], known.term.0 as f64);
    families.add(names::RAFT_APPLIED_INDEX, &[], picture.applied.index as f64);
    families.add(names::RAFT_IS_LEADER, &[], f64::from(u8::from(known.here)));
    families.add(names::RAFT_LEADER, &[], known.leader.map_or(0, |id| id.0) as f64);
    families.add(names::LEADER_KNOWN, &[], f64::from(u8::from(known.leader.is_some())));
    let leaderless_since = picture.leadership.leaderless_since;
    let leaderless = leaderless_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
    families.add(names::LEADERLESS, &[], leaderless.as_secs_f64());
}

fn nodes(state: &ClusterState, families: &mut Families) {
    let name = |standing: &Standing| match standing {
        Standing::Up => "up",
        Standing::Leaving => "leaving",
        Standing::Down { .. } => "down",
    };
    for standing in STANDINGS {
        let count = state.nodes.values().filter(|n| name(&n.standing) == standing).count();
        families.add(names::NODES, &[standing], count as f64);
    }
}

fn deployments(state: &ClusterState, families: &mut Families) {
    for (deployment, wanted) in &state.deployments {
        families.add(names::REPLICAS_WANTED, &[deployment], f64::from(wanted.spec.replicas));
        for phase in PHASES {
            let count = state.replicas_of(deployment).filter(|(_, r)| r.phase.name() == phase).count();
            families.add(names::REPLICAS, &[deployment, phase], count as f64);
        }
    }
}

fn plan(id: ReplicaId, replica: &Replica, families: &mut Families) {
    let id = id.to_string();
    families.add(names::REPLICA_EPOCH, &[&replica.spec.name, &id], replica.epoch.0 as f64);
    for rank in replica.plan().map(|p| p.ranks.as_slice()).unwrap_or_default() {
        let labels = [rank.node.as_str(), &id, &rank.rank.to_string()];
        families.add(names::RANK_PLANNED_BYTES, &labels, rank.budget.total() as f64);
    }
}

fn engine(state: &ClusterState, id: ReplicaId, replica: &Replica, worker: &WorkerStatus, families: &mut Families) {
    let id = id.to_string();
    let spec = state.deployments.get(&replica.spec.name).map_or(&replica.spec, |d| &d.spec);
    let model = spec.served_names.first().unwrap_or(&spec.model.name);
    if let Some(load) = &worker.load {
        families_of_load(load, &[model, &id], families);
        let blocks = load.kv_blocks_total.to_string();
        let labels = [&BLOCK_TOKENS.to_string(), "auto", "True", &id, &blocks];
        families.add(names::CACHE_CONFIG, &labels, 1.0);
    }
    if let Some(proof) = &worker.proof {
        let labels = [replica.spec.name.as_str(), &id];
        families.add(names::REPLICA_PROOF_AGE, &labels, f64::from(proof.age_ms) / 1e3);
    }
    if let Some(stats) = &worker.stats {
        families_of_stats(stats, &[model, &id], families);
    }
}

fn families_of_load(load: &EngineLoad, labels: &[&str], families: &mut Families) {
    let used = f64::from(load.kv_blocks_used) / f64::from(load.kv_blocks_total.max(1));
    families.add(names::REQUESTS_RUNNING, labels, f64::from(load.running));
    families.add(names::REQUESTS_WAITING, labels, f64::from(load.waiting));
    families.add(names::KV_CACHE_USAGE, labels, used);
    families.add(names::ENGINE_STEPS, labels, load.steps as f64);
}

fn families_of_stats(stats: &EngineStats, labels: &[&str; 2], families: &mut Families) {
    for (metric, value) in [
        (names::PROMPT_TOKENS, stats.prompt_tokens),
        (names::GENERATION_TOKENS, stats.generation_tokens),
        (names::PREEMPTIONS, stats.preemptions),
        (names::PREFIX_CACHE_QUERIES, stats.prefix_cache_queries),
        (names::PREFIX_CACHE_HITS, stats.prefix_cache_hits),
        (names::PREFIX_CACHE_EVICTIONS, stats.prefix_cache_evictions),
        (names::PICTURE_QUERIES, stats.picture_queries),
        (names::PICTURE_HITS, stats.picture_hits),
        (names::PICTURES_ENCODED, stats.pictures_encoded),
        (names::PICTURE_EVICTIONS, stats.picture_evictions),
    ] {
        families.add(metric, labels, value as f64);
    }
    for (reason, value) in [
        ("stop", stats.finished_stop),
        ("length", stats.finished_length),
        ("abort", stats.finished_abort),
        ("error", stats.finished_error),
    ] {
        families.add(names::REQUEST_SUCCESS, &[labels[0], labels[1], reason], value as f64);
    }
    for (metric, durations) in [
        (names::TIME_TO_FIRST_TOKEN, &stats.time_to_first_token),
        (names::INTER_TOKEN_LATENCY, &stats.inter_token),
        (names::E2E_REQUEST_LATENCY, &stats.e2e),
        (names::REQUEST_QUEUE_TIME, &stats.queue),
    ] {
        families.add_histogram(metric, labels, durations);
    }
}
