//! A rank that is killed or stopped in mid-stream: every client reads what it would have read, and the replica serves again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coordinator::metrics::names;
use futures_util::future::join_all;
use futures_util::{Stream, StreamExt};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::exposition::Exposition;
use crate::goldens::text_only;
use crate::harness::{Cluster, until};

/// Within which the replica must be formed again and the streams be over: debug builds on a busy machine.
const AGAIN_WITHIN: Duration = Duration::from_secs(120);
/// How much each stream has told when the rank is killed: far less than all.
const TOKENS_BEFORE: usize = 4;

/// Tokens of each answer.
const ANSWER: usize = 120;

/// One kind of request; answers are long enough that no kill comes after their end.
struct Kind {
    name: &'static str,
    path: &'static str,
    body: Value,
}

fn kinds() -> Vec<Kind> {
    let integers = json!({ "type": "array", "items": { "type": "integer" }, "minItems": 100, "maxItems": 100 });
    let schema = json!({ "type": "json_schema", "json_schema": { "name": "n", "strict": true, "schema": integers } });
    let chat = [
        // First, since its picture may take longer to encode than others to end.
        ("picture", json!({ "temperature": 1.0, "seed": 4, "max_tokens": ANSWER, "ignore_eos": true })),
        ("structured", json!({ "temperature": 0.9, "seed": 3, "max_tokens": ANSWER, "response_format": schema })),
        ("greedy", json!({ "temperature": 0, "max_tokens": ANSWER, "ignore_eos": true })),
        (
            "penalties",
            json!({
                "temperature": 1.5, "seed": 1, "max_tokens": ANSWER, "ignore_eos": true, "presence_penalty": 0.5,
                "frequency_penalty": 0.3, "repetition_penalty": 1.1, "min_p": 0.01,
            }),
        ),
        ("choices", json!({ "temperature": 2.0, "seed": 9, "n": 2, "max_tokens": ANSWER, "ignore_eos": true })),
        (
            "logprobs",
            json!({ "temperature": 1.0, "seed": 5, "max_tokens": ANSWER, "ignore_eos": true, "logprobs": true, "top_logprobs": 3 }),
        ),
    ];
    let mut kinds: Vec<Kind> = Vec::new();
    for (name, mut body) in chat {
        let text = json!({ "type": "text", "text": "tell me everything" });
        let picture = json!({ "type": "image_url", "image_url": { "url": picture() } });
        let content = if name == "picture" { json!([picture, text]) } else { json!([text]) };
        body["messages"] = json!([{ "role": "user", "content": content }]);
        kinds.push(Kind { name, path: "/v1/chat/completions", body });
    }
    let prompts = json!({
        "prompt": ["The one", "Another one"], "temperature": 1.2, "seed": 2, "max_tokens": ANSWER, "ignore_eos": true,
        "echo": true, "logprobs": 1,
    });
    kinds.push(Kind { name: "prompts", path: "/v1/completions", body: prompts });
    for kind in &mut kinds {
        kind.body["model"] = "autoglm-nano".into();
        kind.body["return_token_ids"] = true.into();
        kind.body["stream"] = true.into();
        kind.body["stream_options"] = json!({ "include_usage": true });
    }
    kinds
}

fn picture() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/autoglm-nano-goldens/plain_images/06_swipe.png");
    format!("data:image/png;base64,{}", STANDARD.encode(std::fs::read(path).expect("the fixture")))
}

/// What a client has read: by choice, each field's pieces joined; and the usage.
#[derive(Debug, Default, PartialEq)]
struct Read {
    choices: BTreeMap<u64, BTreeMap<String, Value>>,
    usage: Value,
}

impl Read {
    fn tokens(&self) -> usize {
        let ids = |c: &BTreeMap<String, Value>| c.get("token_ids").and_then(Value::as_array).map_or(0, Vec::len);
        self.choices.values().map(ids).sum()
    }

    fn take(&mut self, mut chunk: Value) {
        assert!(chunk.get("error").is_none(), "{chunk}");
        self.usage = chunk["usage"].take();
        for choice in chunk["choices"].as_array_mut().expect("choices") {
            let index = choice["index"].as_u64().expect("an index");
            let known = self.choices.entry(index).or_default();
            let delta = choice.as_object_mut().and_then(|c| c.remove("delta")).unwrap_or_default();
            let fields = [choice.take(), delta].into_iter().filter_map(|v| v.as_object().cloned()).flatten();
            fields.for_each(|(name, value)| join(known.entry(name).or_default(), value));
        }
    }
}

/// Texts and lists grow, and lists in an object; of the rest the last counts.
fn join(known: &mut Value, more: Value) {
    match (known, more) {
        (Value::String(known), Value::String(more)) => known.push_str(&more),
        (Value::Array(known), Value::Array(more)) => known.extend(more),
        (Value::Object(known), Value::Object(more)) => {
            more.into_iter().for_each(|(name, value)| join(known.entry(name).or_insert(Value::Null), value));
        }
        (_, Value::Null) => {}
        (known, more) => *known = more,
    }
}

/// A stream that is being read.
struct Reading {
    name: &'static str,
    body: std::pin::Pin<Box<dyn Stream<Item = reqwest::Result<Vec<u8>>> + Send>>,
    /// Not yet a whole event.
    rest: Vec<u8>,
    read: Read,
    done: bool,
}

impl Reading {
    async fn open(http: &reqwest::Client, cluster: &Cluster, kind: &Kind) -> Self {
        let request = http.post(format!("{}{}", cluster.url(), kind.path)).json(&kind.body);
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200, "{}", kind.name);
        let body = Box::pin(response.bytes_stream().map(|piece| piece.map(Vec::from)));
        Self { name: kind.name, body, rest: Vec::new(), read: Read::default(), done: false }
    }

    /// Reads until so many tokens are there, or to the end.
    async fn until(&mut self, tokens: usize) {
        while !self.done && self.read.tokens() < tokens {
            let piece = self.body.next().await.unwrap_or_else(|| panic!("{} ended in silence", self.name));
            self.rest.extend(piece.unwrap_or_else(|e| panic!("{}: {e}", self.name)));
            while let Some(end) = self.rest.windows(2).position(|w| w == b"\n\n") {
                let event: Vec<u8> = self.rest.drain(..end + 2).collect();
                let event = String::from_utf8(event).expect("text");
                match event.trim_end().strip_prefix("data: ").expect("an event") {
                    "[DONE]" => self.done = true,
                    chunk => self.read.take(serde_json::from_str(chunk).expect("JSON")),
                }
            }
        }
    }
}

/// Asks every kind at once; `middle` happens when each has begun and none has ended.
async fn all(
    http: &reqwest::Client,
    cluster: &Cluster,
    kinds: &[Kind],
    middle: impl FnOnce(),
) -> Vec<(&'static str, Read)> {
    let begin = async |kind| {
        let mut reading = Reading::open(http, cluster, kind).await;
        reading.until(1).await;
        reading
    };
    let first = begin(&kinds[0]).await;
    let others = join_all(kinds[1..].iter().map(begin)).await;
    let mut readings: Vec<Reading> = std::iter::once(first).chain(others).collect();
    join_all(readings.iter_mut().map(|r| r.until(TOKENS_BEFORE))).await;
    assert!(readings.iter().all(|r| !r.done));
    middle();
    let whole = join_all(readings.iter_mut().map(|r| r.until(usize::MAX)));
    tokio::time::timeout(AGAIN_WITHIN, whole).await.expect("the streams end in time");
    readings.into_iter().map(|r| (r.name, r.read)).collect()
}

/// How often a prompt was interrupted, and how often it went on.
async fn interruptions(http: &reqwest::Client, cluster: &Cluster) -> (f64, f64) {
    let response = http.get(format!("{}/metrics", cluster.url())).send().await.expect("an answer");
    let told = Exposition::read(&response.text().await.expect("text")).expect("a scraper takes it");
    let resumed = format!("{}_count", names::ANSWER_RESUME.name);
    let value = |name: &str| told.value(name, &[]).expect("told");
    (value(names::ANSWERS_INTERRUPTED.name), value(&resumed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rank_that_is_killed_or_stopped_changes_nothing_that_a_client_reads_and_the_replica_forms_again() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cluster = Cluster::start(&["--coordinators", "1"]);
    let http = reqwest::Client::new();
    let kinds = kinds();
    let undisturbed = all(&http, &cluster, &kinds, || {}).await;
    for (name, read) in &undisturbed {
        assert!(read.tokens() >= ANSWER && !read.usage.is_null(), "{name}: {} tokens, {}", read.tokens(), read.usage);
    }
    // The last kind has two prompts.
    let prompts = kinds.len() + 1;
    let faults = [(1, Signal::KILL), (0, Signal::KILL), (0, Signal::STOP), (1, Signal::STOP)];
    for (round, (rank, signal)) in faults.into_iter().enumerate() {
        let worker = cluster.worker(rank);
        let disturbed = all(&http, &cluster, &kinds, || assert!(worker.signal(signal))).await;
        for ((name, mut read), (_, expected)) in disturbed.into_iter().zip(&undisturbed) {
            // How much was cached depends on what was asked before.
            read.usage["prompt_tokens_details"] = expected.usage["prompt_tokens_details"].clone();
            assert!(read == *expected, "{name}, {signal:?} to rank {rank}: {read:?}\nundisturbed: {expected:?}");
        }
        let all_went_on = (prompts * (round + 1)) as f64;
        assert_eq!(interruptions(&http, &cluster).await, (all_went_on, all_went_on));
        again(&cluster, &http).await;
        assert!(!worker.runs());
    }
    cluster.kill_up_and_check_its_processes_end();
}

/// Waits until the replica serves as before.
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
