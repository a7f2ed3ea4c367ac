//! A gateway that is killed in mid-stream: another one tells the rest, in the words of one that was never killed.

use std::time::{Duration, Instant};

use coordinator::metrics::names;
use futures_util::StreamExt;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::exposition::Exposition;
use crate::harness::Cluster;
use crate::processes::Seen;

/// Within which anything must happen: debug builds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Names that are tried: on a machine that pauses, both others may come to keep a stream.
const NAMES: usize = 20;
/// Tokens of the answer: no kill comes after its end.
const ANSWER: usize = 200;
/// Events that the client reads before the kill.
const READ: usize = 5;
const NAME: &str = "3f1c9a52-a-name-that-nobody-guesses";

fn body() -> Value {
    json!({
        "model": "autoglm-nano", "messages": [{ "role": "user", "content": "tell me everything" }], "temperature": 1.0,
        "seed": 11, "max_tokens": ANSWER, "ignore_eos": true, "stream": true, "return_token_ids": true,
    })
}

/// Events with their ids, as far as they came before the connection was lost, or as many as are wanted.
async fn events(response: reqwest::Response, most: usize) -> Vec<(String, String)> {
    assert_eq!(response.status(), 200);
    let (mut body, mut rest, mut events) = (response.bytes_stream(), Vec::new(), Vec::new());
    while let Some(Ok(piece)) = body.next().await {
        rest.extend_from_slice(&piece);
        while let Some(end) = rest.windows(2).position(|w| w == b"\n\n") {
            let event = String::from_utf8(rest.drain(..end + 2).collect()).expect("text");
            let (id, data) = event.split_once("data: ").expect("an event");
            let id = id.trim_end().trim_start_matches("id: ");
            events.push((id.to_owned(), data.trim_end().to_owned()));
            if events.len() == most {
                return events;
            }
        }
    }
    events
}

/// Text and ids that the events tell.
fn read(events: &[(String, String)]) -> (String, Vec<u64>) {
    let (mut text, mut ids) = (String::new(), Vec::new());
    for (_, data) in events {
        let Ok(chunk) = serde_json::from_str::<Value>(data) else { continue };
        assert!(chunk.get("error").is_none(), "{chunk}");
        text.push_str(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
        ids.extend(chunk["choices"][0]["token_ids"].as_array().into_iter().flatten().filter_map(Value::as_u64));
    }
    (text, ids)
}

async fn ask(http: &reqwest::Client, url: &str, name: Option<&str>) -> reqwest::Response {
    let mut request = http.post(format!("{url}/v1/chat/completions")).json(&body());
    if let Some(name) = name {
        request = request.header("x-request-id", name);
    }
    request.send().await.expect("an answer")
}

/// How many streams a coordinator keeps for others.
async fn entries(http: &reqwest::Client, url: &str) -> f64 {
    value(http, url, names::JOURNAL_ENTRIES.name).await
}

async fn value(http: &reqwest::Client, url: &str, name: &str) -> f64 {
    let response = http.get(format!("{url}/metrics")).send().await.expect("an answer");
    let told = Exposition::read(&response.text().await.expect("text")).expect("a scraper takes it");
    told.value(name, &[]).expect("told")
}

/// Waits until one of these coordinators keeps a stream, and says which.
async fn keeper(http: &reqwest::Client, urls: &[String; 3], among: &[usize]) -> usize {
    let started = Instant::now();
    loop {
        for i in among {
            if entries(http, &urls[*i]).await > 0.0 {
                return *i;
            }
        }
        assert!(started.elapsed() < PATIENCE, "nobody keeps the stream");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A whole stream through the second coordinator that one of the others came to keep and the other one did not: its name, what was
/// told, and who keeps it.
async fn kept_by_one(http: &reqwest::Client, urls: &[String; 3]) -> (String, Vec<(String, String)>, usize) {
    for n in 0..NAMES {
        let name = format!("{NAME}-{n}");
        let before = [entries(http, &urls[0]).await, entries(http, &urls[2]).await];
        let told = events(ask(http, &urls[1], Some(&name)).await, usize::MAX).await;
        let ended = Instant::now();
        while value(http, &urls[1], names::STREAMS_KEPT.name).await > 0.0 {
            assert!(ended.elapsed() < PATIENCE, "its keeper does not hear of the end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let keeps = [entries(http, &urls[0]).await > before[0], entries(http, &urls[2]).await > before[1]];
        match keeps {
            [true, false] => return (name, told, 0),
            [false, true] => return (name, told, 2),
            _ => {}
        }
    }
    panic!("{NAMES} streams, and of none it is certain who keeps it");
}

/// A cluster whose three gateways are ready, a client of it, and the gateways' processes.
async fn three_gateways() -> (Cluster, reqwest::Client, Vec<Seen>) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (cluster, http) = (Cluster::start(&["--nodes", "1", "--tp", "1"]), reqwest::Client::new());
    ready(&http, &cluster.urls()).await;
    let mut coordinators = cluster.processes();
    coordinators.retain(|p| p.args.starts_with("shardglm coordinator"));
    (cluster, http, coordinators)
}

async fn ready(http: &reqwest::Client, urls: &[String; 3]) {
    let started = Instant::now();
    for url in urls {
        while http.get(format!("{url}/health/ready")).send().await.map(|r| r.status().as_u16()).ok() != Some(200) {
            assert!(started.elapsed() < PATIENCE, "{url} is not ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_outlives_its_gateway() {
    let (cluster, http, coordinators) = three_gateways().await;
    let urls = cluster.urls();
    let undisturbed = events(ask(&http, &urls[0], None).await, usize::MAX).await;
    assert_eq!(undisturbed.last().map(|(_, data)| data.as_str()), Some("[DONE]"));
    assert_eq!(read(&undisturbed).1.len(), ANSWER);

    // The second coordinator tells it, the first or third keeps it, and the one that does not keep it goes on.
    let response = ask(&http, &urls[1], Some(NAME)).await;
    assert_eq!(response.headers()["x-shardglm-resumable"], "true");
    let mut told = events(response, READ).await;
    let last = told.last().expect("events").0.clone();
    let kept_by = keeper(&http, &urls, &[0, 2]).await;
    coordinators[1].kill();
    let killed = Instant::now();
    let survivor = if kept_by == 0 { 2 } else { 0 };
    let rest = http.get(format!("{}/v1/requests/{NAME}/stream?after={last}", urls[survivor])).send().await;
    let rest = events(rest.expect("an answer"), usize::MAX).await;
    eprintln!("the rest was told {} ms after the kill", killed.elapsed().as_millis());
    told.extend(rest);
    assert_eq!(read(&told), read(&undisturbed));
    assert_eq!(told.last().map(|(id, _)| id.as_str()), Some("done"));
    cluster.kill_up_and_check_its_processes_end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_outlives_its_gateway_though_its_first_keeper_hangs() {
    let (cluster, http, coordinators) = three_gateways().await;
    let urls = cluster.urls();
    // A name of which one coordinator alone hears, and which: told whole once.
    let (name, undisturbed, first) = kept_by_one(&http, &urls).await;
    let other = 2 - first;
    let before = entries(&http, &urls[other]).await;
    assert!(coordinators[first].signal(Signal::STOP));
    let asked = Instant::now();
    let mut told = events(ask(&http, &urls[1], Some(&name)).await, READ).await;
    let last = told.last().expect("events").0.clone();
    while entries(&http, &urls[other]).await <= before {
        assert!(asked.elapsed() < PATIENCE, "no other one keeps it");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    eprintln!("kept by another one {} ms after it was asked", asked.elapsed().as_millis());
    coordinators[1].kill();
    let rest = http.get(format!("{}/v1/requests/{name}/stream?after={last}", urls[other])).send().await;
    told.extend(events(rest.expect("an answer"), usize::MAX).await);
    assert_eq!(read(&told), read(&undisturbed));
    // What the first one was told before it hung, and hears now, is no newer than what it is told by the other.
    assert!(coordinators[first].signal(Signal::CONT));
    let continued = Instant::now();
    let whole = loop {
        let whole = http.get(format!("{}/v1/requests/{name}/stream", urls[first])).send().await.expect("an answer");
        // Its connections may have been given up meanwhile.
        if whole.status() == 200 {
            break whole;
        }
        assert!(continued.elapsed() < PATIENCE, "{}", whole.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(read(&events(whole, usize::MAX).await), read(&undisturbed));
    cluster.kill_up_and_check_its_processes_end();
}
