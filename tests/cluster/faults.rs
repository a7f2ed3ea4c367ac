//! A rank that dies in mid-stream, and an `up` that is killed.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::goldens::text_only;
use crate::harness::{Cluster, until};
use crate::processes::Seen;

/// Within which a client must hear that its stream is lost.
const ERROR_WITHIN: Duration = Duration::from_secs(5);
/// Within which the replica must be formed again.
const AGAIN_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_ends_its_stream_with_an_error_and_the_replica_forms_again() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cluster = Cluster::start(&["--coordinators", "1"]);
    let http = reqwest::Client::new();
    for rank in [1, 0] {
        lose(&cluster, &http, rank).await;
    }
    cluster.kill_up_and_check_its_processes_end();
}

/// Kills a rank while it streams; the client hears of it, and the cluster serves the same answer afterwards.
async fn lose(cluster: &Cluster, http: &reqwest::Client, rank: u16) {
    let worker = cluster.worker(rank);
    // Hot enough never to end by itself before the bound.
    let body = json!({
        "model": "autoglm-nano", "messages": [{ "role": "user", "content": "tell me everything" }],
        "temperature": 2.0, "seed": 1, "max_tokens": 4000, "stream": true
    });
    let request = http.post(format!("{}/v1/chat/completions", cluster.url())).json(&body);
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    let mut stream = response.bytes_stream();
    let first = stream.next().await.expect("a first piece").expect("bytes");
    let mut seen = String::from_utf8_lossy(&first).into_owned();
    worker.kill();
    let killed = Instant::now();
    let rest = async {
        while let Some(Ok(bytes)) = stream.next().await {
            seen += &String::from_utf8_lossy(&bytes);
        }
    };
    tokio::time::timeout(ERROR_WITHIN, rest).await.expect("the stream ends in time");
    let events = seen.lines().filter_map(|l| l.strip_prefix("data: "));
    let error = events.filter_map(|e| serde_json::from_str::<Value>(e).ok()).find_map(|e| e.get("error").cloned());
    let error = error.unwrap_or_else(|| panic!("no error event after {:?}: …{}", killed.elapsed(), tail(&seen)));
    assert!(error["message"].is_string() && error["code"].is_string(), "{error}");

    again(cluster, http).await;
    assert!(!worker.runs());
}

#[test]
fn without_a_majority_admin_reads_say_so_and_stale_ones_show_who_is_missing() {
    let cluster = Cluster::start(&["--nodes", "1", "--tp", "1"]);
    let mut coordinators = cluster.processes();
    coordinators.retain(|p| p.args.starts_with("shardglm coordinator"));
    coordinators[1..].iter().for_each(Seen::kill);
    let refused = cluster.shardglm(&["member", "list"], true);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!((refused.status.code(), said.lines().count()), (Some(4), 1), "{said}");
    assert!(said.contains("no majority") && said.contains("--stale"), "{said}");
    until("the others are seen to be gone", AGAIN_WITHIN, || {
        let stale = cluster.shardglm(&["member", "list", "--stale"], true);
        let said = String::from_utf8_lossy(&stale.stdout);
        (stale.status.success() && said.matches("unreachable").count() == 2).then_some(())
    });
}

/// Waits until the replica serves again.
async fn again(cluster: &Cluster, http: &reqwest::Client) {
    let golden = &text_only()[0];
    let body = json!({
        "model": "autoglm-nano", "messages": golden.messages, "temperature": 0,
        "frequency_penalty": golden.frequency_penalty, "max_tokens": golden.max_tokens
    });
    let started = Instant::now();
    let answer = loop {
        let response = http.post(format!("{}/v1/chat/completions", cluster.url())).json(&body).send().await;
        match response {
            Ok(response) if response.status() == 200 => break response.json::<Value>().await.expect("JSON"),
            other => assert!(started.elapsed() < AGAIN_WITHIN, "not formed again: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(answer["choices"][0]["message"]["content"], golden.text.as_str(), "the same answer as before");
    let ready = format!("{}/health/ready", cluster.url());
    let status = http.get(&ready).send().await.map(|r| r.status().as_u16());
    assert_eq!(status.ok(), Some(200));
    until("two workers run", AGAIN_WITHIN, || {
        let workers = cluster.processes().into_iter().filter(|p| p.args.starts_with("shardglm worker")).count();
        (workers == 2).then_some(())
    });
}

fn tail(text: &str) -> &str {
    let start = text.char_indices().rev().nth(400).map_or(0, |(at, _)| at);
    &text[start..]
}
