//! Every metric's name, type, labels and help, once.
//!
//! Under `vllm:` stand vLLM's names with vLLM's types and labels (`vllm/v1/metrics/loggers.py`), so that its dashboards
//! work; `engine` is the replica's id. A replica that was formed again counts from zero, as a restarted process would:
//! `rate()` and `increase()` take that for a reset, sum after them (`sum(rate(x[1m]))`), never before.

/// A metric's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, but for resets.
    Counter,
    /// As of now.
    Gauge,
    /// Durations, s.
    Histogram,
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help }
}

const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram, labels, help }
}

/// Labels of an engine's metrics.
const ENGINE: &[&str] = &["model_name", "engine"];

macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident = $metric:expr;)*) => {
        $($(#[$doc])* pub const $name: Metric = $metric;)*
        /// All of them.
        pub const ALL: &[Metric] = &[$($name),*];
    };
}

metrics! {
    /// Load.
    REQUESTS_RUNNING = gauge("vllm:num_requests_running", ENGINE, "Sequences in the running batch.");
    /// Load.
    REQUESTS_WAITING = gauge("vllm:num_requests_waiting", ENGINE, "Sequences that wait for a place in the batch.");
    /// Load.
    KV_CACHE_USAGE = gauge("vllm:kv_cache_usage_perc", ENGINE, "Share of the KV blocks in use; 1 is all of them.");
    /// Work.
    PROMPT_TOKENS = counter("vllm:prompt_tokens_total", ENGINE, "Prompt tokens taken up, those found in the prefix cache included.");
    /// Work.
    GENERATION_TOKENS = counter("vllm:generation_tokens_total", ENGINE, "Tokens sampled.");
    /// Work.
    REQUEST_SUCCESS = counter("vllm:request_success_total", &["model_name", "engine", "finished_reason"], "Choices that ended, by why.");
    /// Work.
    PREEMPTIONS = counter("vllm:num_preemptions_total", ENGINE, "How often a sequence had to give its KV blocks back.");
    /// Prefix cache.
    PREFIX_CACHE_QUERIES = counter("vllm:prefix_cache_queries_total", ENGINE, "Tokens looked up in the prefix cache.");
    /// Prefix cache.
    PREFIX_CACHE_HITS = counter("vllm:prefix_cache_hits_total", ENGINE, "Tokens found in the prefix cache.");
    /// Prefix cache.
    PREFIX_CACHE_EVICTIONS = counter("shardglm_prefix_cache_evictions_total", ENGINE, "Cached KV blocks that gave way to others.");
    /// Pictures.
    PICTURE_QUERIES = counter("shardglm_picture_queries_total", ENGINE, "Pictures that requests brought.");
    /// Pictures.
    PICTURE_HITS = counter("shardglm_picture_hits_total", ENGINE, "Pictures whose embeddings were there, or on their way for another request.");
    /// Pictures.
    PICTURES_ENCODED = counter("shardglm_pictures_encoded_total", ENGINE, "Pictures encoded.");
    /// Pictures.
    PICTURE_EVICTIONS = counter("shardglm_picture_evictions_total", ENGINE, "Kept embeddings of pictures that gave way to others.");
    /// Latency.
    TIME_TO_FIRST_TOKEN = histogram("vllm:time_to_first_token_seconds", ENGINE, "From a request's arrival at the engine to its first token.");
    /// Latency.
    INTER_TOKEN_LATENCY = histogram("vllm:inter_token_latency_seconds", ENGINE, "Between two tokens of one choice.");
    /// Latency.
    E2E_REQUEST_LATENCY = histogram("vllm:e2e_request_latency_seconds", ENGINE, "From a request's arrival at the engine to a choice's end.");
    /// Latency.
    REQUEST_QUEUE_TIME = histogram("vllm:request_queue_time_seconds", ENGINE, "From a request's arrival at the engine to its first step.");
    /// Configuration.
    CACHE_CONFIG = gauge("vllm:cache_config_info", &["block_size", "cache_dtype", "enable_prefix_caching", "engine", "num_gpu_blocks"], "The KV cache's configuration; the value is 1. Blocks are in the memory of whatever computes.");
    /// Work.
    ENGINE_STEPS = counter("shardglm_engine_steps_total", ENGINE, "Steps taken.");
    /// Control plane.
    BUILD = gauge("shardglm_build_info", &["version"], "This coordinator's version; the value is 1.");
    /// Control plane.
    NODES = gauge("shardglm_nodes", &["state"], "Nodes by standing: up, leaving, down.");
    /// Control plane.
    REPLICAS = gauge("shardglm_replicas", &["deployment", "phase"], "Replicas by phase: waiting, forming, ready, draining, failed.");
    /// Control plane.
    REPLICAS_WANTED = gauge("shardglm_replicas_wanted", &["deployment"], "Replicas that should be there.");
    /// Control plane.
    REPLICA_EPOCH = gauge("shardglm_replica_epoch", &["deployment", "engine"], "How many groups the replica has had: it was formed again where this grew.");
    /// Control plane.
    RANK_PLANNED_BYTES = gauge("shardglm_rank_planned_bytes", &["node", "engine", "rank"], "Memory that the plan gives a rank.");
    /// Raft.
    RAFT_TERM = gauge("shardglm_raft_term", &[], "The term that this coordinator knows.");
    /// Raft.
    RAFT_APPLIED_INDEX = gauge("shardglm_raft_applied_index", &[], "The last log entry that this coordinator has applied.");
    /// Raft.
    RAFT_IS_LEADER = gauge("shardglm_raft_is_leader", &[], "1 where this coordinator leads and a majority has confirmed it lately.");
    /// Raft.
    RAFT_LEADER = gauge("shardglm_raft_leader", &[], "The leader's id as this coordinator knows; 0 without one.");
    /// Raft.
    LEADER_KNOWN = gauge("shardglm_leader_known", &[], "1 where this coordinator knows a leader; 0: changes wait, replicas serve on.");
    /// Raft.
    LEADERLESS = gauge("shardglm_leaderless_seconds", &[], "For how long this coordinator has known no leader; 0 while it knows one.");
    /// Gateway.
    HTTP_RESPONSES = counter("shardglm_http_responses_total", &["route", "status"], "Responses that this coordinator's gateway has begun, by route; other is no route.");
    /// Gateway.
    REQUEST_FAILURES = counter("shardglm_request_failures_total", &["code"], "Failures that this gateway has told, by the error's code; those of streams that had begun too.");
    /// Gateway.
    REQUESTS_OPEN = gauge("shardglm_requests_open", &[], "Requests for an answer that are in this gateway now.");
    /// Gateway.
    PROMPTS_WAITING = gauge("shardglm_prompts_waiting", &[], "Prompts that wait for a replica at this gateway.");
    /// Gateway.
    PROMPTS_WAITING_TOKENS = gauge("shardglm_prompts_waiting_kv_tokens", &[], "KV tokens that the prompts that wait at this gateway will take up.");
    /// Gateway.
    PROMPTS_WAITING_BYTES = gauge("shardglm_prompts_waiting_bytes", &[], "Memory of this gateway that the prompts that wait hold.");
    /// Gateway.
    PROMPTS_IN_FLIGHT = gauge("shardglm_prompts_in_flight", &[], "Prompts of this gateway that are at a replica.");
    /// Gateway.
    ADMISSION_WAIT = histogram("shardglm_admission_wait_seconds", &[], "From when a prompt was read at this gateway to its place at a replica.");
    /// Gateway.
    ANSWERS_INTERRUPTED = counter("shardglm_answers_interrupted_total", &[], "How often a prompt's replica was lost in the middle of its answers at this gateway.");
    /// Gateway.
    ANSWER_RESUME = histogram("shardglm_answer_resume_seconds", &[], "From such a loss until another replica, or the same one formed again, went on; of those that went on.");
    /// Gateway.
    STREAMS_KEPT = gauge("shardglm_streams_kept", &[], "Streams of this gateway that another coordinator keeps, so that they outlive it.");
    /// Gateway.
    JOURNAL_ENTRIES = gauge("shardglm_journal_entries", &[], "Streams of other gateways that this coordinator keeps.");
    /// Gateway.
    JOURNAL_BYTES = gauge("shardglm_journal_bytes", &[], "Memory of both.");
    /// Gateway.
    STREAMS_PICKED_UP = counter("shardglm_streams_picked_up_total", &[], "Streams that went on at this gateway after their first connection was lost.");
    /// Gateway.
    STREAMS_UNKEPT = counter("shardglm_streams_unkept_total", &[], "Streams that their clients named and for which the journal had no room.");
    /// Engine.
    REPLICA_PROOF_AGE = gauge("shardglm_replica_proof_age_seconds", &["deployment", "replica"], "When the node of rank 0 last reported: since all ranks of the replica had answered in a step.");
    /// Freshness.
    METRICS_AGE = gauge("shardglm_metrics_age_seconds", &[], "Since this coordinator last heard the leader of nodes and engines, or since its start; their metrics are as old.");
    /// Freshness.
    NODE_REPORT_AGE = gauge("shardglm_node_report_age_seconds", &["node"], "Since the node's last report came to the leader; its engines' metrics are as old.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_follow_prometheus_conventions() {
        let names: std::collections::BTreeSet<&str> = ALL.iter().map(|m| m.name).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            let ours = metric.name.starts_with("shardglm_");
            assert!(ours || metric.name.starts_with("vllm:"), "{}", metric.name);
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
            assert!(metric.kind != Kind::Histogram || metric.name.ends_with("_seconds"), "{}", metric.name);
            assert!(metric.help.ends_with('.') && !metric.help.contains('\n'), "{}", metric.name);
        }
    }
}
