//! What an engine counts from its start on, for metrics: totals and latency histograms.
//!
//! Not here: load as of now ([`crate::worker::EngineLoad`]), names under which any of this is served (coordinator).
//! Invariant: every number only grows while its worker lives.

use rkyv::{Archive, Deserialize, Serialize};

/// Upper bounds of the buckets of every [`Histogram`], µs; the last bucket has none. 1, 2, 5 a decade from 100 µs to 500 s
/// cover a nano model's inter-token time and a queue's deadline alike.
pub const BUCKET_BOUNDS_US: [u64; 20] = [
    100,
    200,
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    500_000_000,
];

/// Durations, counted by buckets.
#[derive(
    Debug, Clone, PartialEq, Eq, Default, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize,
)]
pub struct Histogram {
    /// How many fell into each bucket (not cumulative): one for each of [`BUCKET_BOUNDS_US`], and one above them.
    pub counts: [u64; BUCKET_BOUNDS_US.len() + 1],
    /// Sum of all durations, µs.
    pub sum_us: u64,
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, duration: std::time::Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.counts[BUCKET_BOUNDS_US.partition_point(|bound| *bound < us)] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// How many durations were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Totals of one engine.
#[derive(
    Debug, Clone, PartialEq, Eq, Default, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize,
)]
pub struct EngineStats {
    /// Prompt tokens of requests that entered a step, those found in the prefix cache included.
    pub prompt_tokens: u64,
    /// Tokens sampled.
    pub generation_tokens: u64,
    /// Tokens that were looked up in the prefix cache.
    pub prefix_cache_queries: u64,
    /// Those of them that were found.
    pub prefix_cache_hits: u64,
    /// Cached blocks that gave way to others.
    pub prefix_cache_evictions: u64,
    /// Pictures that requests brought.
    pub picture_queries: u64,
    /// Those of them whose embeddings were there, or on their way for another request.
    pub picture_hits: u64,
    /// Pictures encoded.
    pub pictures_encoded: u64,
    /// Kept embeddings that gave way to others.
    pub picture_evictions: u64,
    /// How often a sequence had to give its blocks back.
    pub preemptions: u64,
    /// Choices that ended with a stop id, or a stop string found by the gateway.
    pub finished_stop: u64,
    /// Choices that ended with `max_tokens` or a full context.
    pub finished_length: u64,
    /// Choices whose client went, or whose deadline passed.
    pub finished_abort: u64,
    /// Choices that failed in the engine.
    pub finished_error: u64,
    /// From a request's arrival to its first step.
    pub queue: Histogram,
    /// From a request's arrival to its first token.
    pub time_to_first_token: Histogram,
    /// Between two tokens of one choice.
    pub inter_token: Histogram,
    /// From a request's arrival to a choice's end.
    pub e2e: Histogram,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_duration_falls_into_the_bucket_whose_bound_it_does_not_exceed() {
        let mut histogram = Histogram::default();
        for us in [0, 100, 101, 500_000_000, 500_000_001] {
            histogram.record(Duration::from_micros(us));
        }
        assert_eq!(
            (histogram.counts[0], histogram.counts[1], histogram.counts[19], histogram.counts[20]),
            (2, 1, 1, 1)
        );
        assert_eq!((histogram.count(), histogram.sum_us), (5, 1_000_000_202));
    }
}
