//! `/metrics` of a real cluster after known traffic: the numbers add up, on leader and followers alike.

use std::time::{Duration, Instant};

use coordinator::metrics::names::{self, Metric};
use serde_json::{Value, json};

use crate::exposition::Exposition;
use crate::harness::Cluster;

/// Within which every coordinator must tell what an engine counted.
const TOLD_WITHIN: Duration = Duration::from_secs(30);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Requests of the known traffic, tokens of their prompts and answers.
const REQUESTS: u32 = 5;
const PROMPT: u32 = 40;
const ANSWER: u32 = 6;

async fn scrape(http: &reqwest::Client, url: &str) -> (Exposition, String) {
    let response = http.get(format!("{url}/metrics")).send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    let text = response.text().await.expect("text");
    (Exposition::read(&text).unwrap_or_else(|e| panic!("{e}\n{text}")), text)
}

/// Five prompts that share nothing, one after the other.
async fn traffic(http: &reqwest::Client, cluster: &Cluster) {
    for request in 0..REQUESTS {
        let ids: Vec<u32> = (0..PROMPT).map(|i| 300 + request * 100 + i).collect();
        let body = json!({ "model": "autoglm-nano", "prompt": ids, "max_tokens": ANSWER, "ignore_eos": true, "temperature": 0 });
        let response =
            http.post(format!("{}/v1/completions", cluster.url())).json(&body).send().await.expect("an answer");
        let answer: Value = response.json().await.expect("JSON");
        assert_eq!(answer["usage"]["completion_tokens"], ANSWER, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_add_up_after_known_traffic_on_every_coordinator() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cluster = Cluster::start(&[]);
    let http = reqwest::Client::new();
    traffic(&http, &cluster).await;

    let expected: [(Metric, &str, u32); 10] = [
        (names::PROMPT_TOKENS, "", REQUESTS * PROMPT),
        (names::GENERATION_TOKENS, "", REQUESTS * ANSWER),
        (names::REQUEST_SUCCESS, "", REQUESTS),
        (names::TIME_TO_FIRST_TOKEN, "_count", REQUESTS),
        (names::REQUEST_QUEUE_TIME, "_count", REQUESTS),
        (names::E2E_REQUEST_LATENCY, "_count", REQUESTS),
        (names::INTER_TOKEN_LATENCY, "_count", REQUESTS * (ANSWER - 1)),
        (names::REQUESTS_RUNNING, "", 0),
        (names::REQUESTS_WAITING, "", 0),
        (names::PREEMPTIONS, "", 0),
    ];
    let labels = [("model_name", "autoglm-nano"), ("engine", "0")];
    let wrong = |told: &Exposition| {
        let found = |metric: Metric, suffix: &str| told.value(&format!("{}{suffix}", metric.name), &labels);
        let differs = |(metric, suffix, value): &(Metric, &str, u32)| found(*metric, suffix) != Some(f64::from(*value));
        expected.iter().find(|e| differs(e)).map(|(m, s, value)| format!("{}: {:?} for {value}", m.name, found(*m, s)))
    };
    let mut leaders = 0.0;
    for url in cluster.urls() {
        let unknown = http.get(format!("{url}/nothing")).send().await.expect("an answer");
        assert_eq!(unknown.status(), 404);
        let started = Instant::now();
        let (told, text) = loop {
            let (told, text) = scrape(&http, &url).await;
            match wrong(&told) {
                None => break (told, text),
                Some(wrong) => assert!(started.elapsed() < TOLD_WITHIN, "{url}: {wrong}\n{text}"),
            }
            tokio::time::sleep(LOOK).await;
        };
        for metric in names::ALL {
            assert!(told.kinds.contains_key(metric.name), "{url} does not tell {}\n{text}", metric.name);
        }
        let value = |metric: Metric, labels: &[(&str, &str)]| told.value(metric.name, labels);
        assert_eq!(value(names::REQUEST_SUCCESS, &[("finished_reason", "length")]), Some(f64::from(REQUESTS)));
        let own = [("code", "unknown_url")];
        assert_eq!(value(names::REQUEST_FAILURES, &own), Some(1.0), "each gateway counts what it did itself");
        assert_eq!(value(names::HTTP_RESPONSES, &[("route", "other"), ("status", "404")]), Some(1.0));
        assert_eq!(value(names::NODES, &[("state", "up")]), Some(2.0));
        assert_eq!(value(names::REPLICAS, &[("phase", "ready")]), Some(1.0));
        assert!(value(names::PREFIX_CACHE_QUERIES, &[]) >= value(names::PREFIX_CACHE_HITS, &[]), "{text}");
        leaders += value(names::RAFT_IS_LEADER, &[]).expect("told");
    }
    assert!((leaders - 1.0).abs() < f64::EPSILON, "one of three leads");
    cluster.interrupt_and_check_nothing_is_left();
}
