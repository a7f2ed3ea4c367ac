//! What the server counted during a run, by the difference of two scrapes of its `/metrics` under vLLM's names.
//!
//! Not here: what clients felt. Invariant: a server that tells nothing, or counts from zero meanwhile, gives nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::openai::Endpoint;

/// Within which a server's metrics must have caught up with the run; they are a few seconds old.
const CATCH_UP: Duration = Duration::from_secs(6);
/// Pause between two scrapes.
const LOOK: Duration = Duration::from_millis(500);

const QUEUE: &str = "vllm:request_queue_time_seconds";

/// Totals of one model, over all its engines.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Counted {
    /// By name, and for buckets by name and bound in µs.
    totals: BTreeMap<(String, u64), f64>,
}

/// What a server did in a run, other clients' requests included.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ServerSide {
    /// Requests that left the engines' queues.
    pub(crate) started: u64,
    /// Their mean wait in the queue, ms.
    pub(crate) queue_mean_ms: f64,
    /// Percentiles of it, ms: interpolated within the buckets of the server's histogram.
    pub(crate) queue_p50_ms: f64,
    /// 99 % do not exceed it.
    pub(crate) queue_p99_ms: f64,
    /// Prompt tokens that came out of the prefix cache, of those looked up.
    pub(crate) prefix_hit_share: Option<f64>,
    /// How often a sequence had to give its KV blocks back.
    pub(crate) preemptions: u64,
}

impl Counted {
    /// A scrape; `None` where the server tells nothing that is known here. An engine that has just started may not be told of
    /// yet: it has counted nothing.
    pub(super) async fn read(endpoint: &Endpoint, model: &str) -> Option<Self> {
        let text = endpoint.metrics().await?;
        let known = text.lines().any(|l| l.starts_with("vllm:") || l.starts_with("shardglm_"));
        known.then(|| Self::parse(&text, model))
    }

    fn parse(text: &str, model: &str) -> Self {
        let mut out = Self::default();
        let of_model = format!("model_name=\"{model}\"");
        for line in text.lines().filter(|l| l.starts_with("vllm:") && l.contains(&of_model)) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let bound = labels.split_once("le=\"").and_then(|(_, rest)| rest.split('"').next());
            let bound_us = bound.map_or(0, |b| b.parse().map_or(u64::MAX, |s: f64| (s * 1e6).round() as u64));
            if let Ok(value) = value.parse::<f64>() {
                *out.totals.entry((name.to_owned(), bound_us)).or_default() += value;
            }
        }
        out
    }

    /// A total; 0 where it is not told.
    fn get(&self, name: &str) -> f64 {
        self.totals.get(&(name.to_owned(), 0)).copied().unwrap_or(0.0)
    }

    /// A histogram's buckets: upper bounds in µs, and how many do not exceed them.
    fn buckets(&self, name: &str) -> Vec<(u64, f64)> {
        let name = format!("{name}_bucket");
        self.totals.iter().filter(|((n, _), _)| *n == name).map(|((_, bound), count)| (*bound, *count)).collect()
    }
}

impl ServerSide {
    /// What happened since `before`, as soon as the server tells of `num_done` requests more.
    pub(super) async fn since(before: &Counted, endpoint: &Endpoint, model: &str, num_done: u64) -> Option<Self> {
        let until = Instant::now() + CATCH_UP;
        loop {
            let after = Counted::read(endpoint, model).await?;
            let between = Self::between(before, &after);
            let caught_up = between.as_ref().is_some_and(|b| b.started >= num_done);
            if caught_up || Instant::now() >= until {
                return between;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// `None` where nothing was started, or the server began to count anew.
    fn between(before: &Counted, after: &Counted) -> Option<Self> {
        let grew = |name: &str| after.get(name) - before.get(name);
        let started = grew(&format!("{QUEUE}_count"));
        if started < 1.0 {
            return None;
        }
        let counted: BTreeMap<u64, f64> = before.buckets(QUEUE).into_iter().collect();
        let mut buckets = after.buckets(QUEUE);
        buckets.iter_mut().for_each(|(bound, count)| *count -= counted.get(bound).copied().unwrap_or(0.0));
        let quantile_ms = |share| quantile_us(&buckets, share) / 1e3;
        let queries = grew("vllm:prefix_cache_queries_total");
        let hits = grew("vllm:prefix_cache_hits_total");
        Some(Self {
            started: started as u64,
            queue_mean_ms: grew(&format!("{QUEUE}_sum")) / started * 1e3,
            queue_p50_ms: quantile_ms(0.50),
            queue_p99_ms: quantile_ms(0.99),
            prefix_hit_share: (queries > 0.0).then_some(hits / queries),
            preemptions: grew("vllm:num_preemptions_total").max(0.0) as u64,
        })
    }

    /// For people.
    pub(super) fn line(&self) -> String {
        let hits = self.prefix_hit_share.map_or_else(String::new, |s| format!(", prefix hits {:.1} %", s * 100.0));
        format!(
            "server      queue {:.2} ms mean, {:.2} p50, {:.2} p99{hits}, {} preemptions",
            self.queue_mean_ms, self.queue_p50_ms, self.queue_p99_ms, self.preemptions
        )
    }
}

/// As Prometheus' `histogram_quantile`: linear within a bucket; beyond the last bound, that bound. µs.
fn quantile_us(buckets: &[(u64, f64)], share: f64) -> f64 {
    let rank = share * buckets.last().map_or(0.0, |(_, all)| *all);
    let (mut below, mut counted) = (0, 0.0);
    for (bound, count) in buckets {
        if *count >= rank && *count > counted {
            if *bound == u64::MAX {
                break;
            }
            return below as f64 + (bound - below) as f64 * (rank - counted) / (count - counted);
        }
        (below, counted) = (*bound, *count);
    }
    below as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(counts: [u64; 3], hits: u64) -> Counted {
        let [first, second, all] = counts;
        let text = format!(
            "# TYPE vllm:request_queue_time_seconds histogram\n\
             vllm:request_queue_time_seconds_bucket{{model_name=\"m\",engine=\"0\",le=\"0.001\"}} {first}\n\
             vllm:request_queue_time_seconds_bucket{{model_name=\"m\",engine=\"0\",le=\"0.01\"}} {second}\n\
             vllm:request_queue_time_seconds_bucket{{model_name=\"m\",engine=\"0\",le=\"+Inf\"}} {all}\n\
             vllm:request_queue_time_seconds_sum{{model_name=\"m\",engine=\"0\"}} {}\n\
             vllm:request_queue_time_seconds_count{{model_name=\"m\",engine=\"0\"}} {all}\n\
             vllm:request_queue_time_seconds_count{{model_name=\"other\",engine=\"1\"}} 999\n\
             vllm:prefix_cache_queries_total{{model_name=\"m\",engine=\"0\"}} 100\n\
             vllm:prefix_cache_queries_total{{model_name=\"m\",engine=\"1\"}} {}\n\
             vllm:prefix_cache_hits_total{{model_name=\"m\",engine=\"0\"}} {hits}\n",
            all as f64 * 0.002,
            hits * 2,
        );
        Counted::parse(&text, "m")
    }

    #[test]
    fn a_run_is_the_difference_of_two_scrapes() {
        let (before, after) = (scrape([10, 10, 10], 5), scrape([10, 30, 30], 25));
        let found = ServerSide::between(&before, &after).expect("twenty requests");
        assert_eq!((found.started, found.prefix_hit_share, found.preemptions), (20, Some(0.5), 0));
        assert!((found.queue_mean_ms - 2.0).abs() < 1e-9);
        assert!((found.queue_p50_ms - 5.5).abs() < 1e-9, "half way into the bucket of 1 to 10 ms");
        assert_eq!(ServerSide::between(&after, &after), None, "nothing happened");
        assert_eq!(ServerSide::between(&after, &before), None, "it counts from zero again");
    }

    #[test]
    fn what_lies_beyond_the_last_bound_is_told_by_it() {
        assert!((quantile_us(&[(1_000, 1.0), (u64::MAX, 10.0)], 0.99) - 1_000.0).abs() < 1e-9);
        assert!(quantile_us(&[], 0.5).abs() < 1e-9);
    }
}
