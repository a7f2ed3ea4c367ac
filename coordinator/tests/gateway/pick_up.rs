//! Streams that go on over another connection, at another gateway: the client reads what it would have read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use coordinator::GatewayLimits;
use coordinator::gateway::{Gateway, GatewayConfig};
use coordinator::journal::{Journal, PeerSilent, Peers};
use coordinator::view::ClusterView;
use http_body_util::Full;
use hyper::Request;
use protocol::CoordinatorId;
use protocol::generate::FinishReason;
use protocol::journal::{JournalRequest, JournalResponse};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::chat::{hi_ids, hi_with};
use crate::client::{Open, Told, soon};
use crate::files::{ANSWER, END, ids};
use crate::harness::{Harness, post};
use crate::model::{Answer, Model};
use crate::scripted::{Scripted, Seen, Step, length, tokens};
use crate::tools::{CALLS, TEMPLATE, weather};

/// What a keeper takes of the ids that it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hears {
    All,
    /// The first news of each stream, and then no more.
    Begin,
}

/// The coordinators of a cluster, by id; one that is dead is not among them.
type Alive = Arc<Mutex<BTreeMap<CoordinatorId, Journal>>>;

struct Others {
    own: CoordinatorId,
    alive: Alive,
    hears: Hears,
}

#[async_trait]
impl Peers for Others {
    fn up(&self) -> BTreeSet<CoordinatorId> {
        self.alive.lock().unwrap().keys().copied().filter(|id| *id != self.own).collect()
    }

    async fn ask(
        &self,
        peer: CoordinatorId,
        request: &JournalRequest,
        _: Duration,
    ) -> Result<JournalResponse, PeerSilent> {
        let journal = self.alive.lock().unwrap().get(&peer).cloned().ok_or(PeerSilent { peer })?;
        match request {
            JournalRequest::Take(_) if self.hears == Hears::Begin => Ok(JournalResponse::Kept),
            request => Ok(journal.serve(request.clone())),
        }
    }
}

/// Three gateways over the same replicas; the first one is the harness's.
struct Three {
    h: Harness,
    others: [Gateway; 2],
    alive: Alive,
}

async fn three((scripted, seen): (Arc<Scripted>, Seen), hears: Hears) -> Three {
    let alive = Alive::default();
    let journal = |id| {
        let (journal, own) = (Journal::default(), CoordinatorId(id));
        journal.connect(Arc::new(Others { own, alive: alive.clone(), hears }));
        alive.lock().unwrap().insert(own, journal.clone());
        journal
    };
    let h = Harness::journalled((scripted.clone(), seen), GatewayLimits::default(), journal(1)).await;
    std::fs::write(h.dir.path().join("chat_template.jinja"), TEMPLATE).unwrap();
    let other = async |journal| {
        let config = GatewayConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            limits: GatewayLimits::default(),
            picture_hosts: Vec::new(),
            observed: None,
            metrics: None,
            journal,
        };
        Gateway::start_over(config, h.view.subscribe(), scripted.clone(), CancellationToken::new()).await.unwrap()
    };
    let others = [other(journal(2)).await, other(journal(3)).await];
    let three = Three { h, others, alive };
    three.h.serve(2);
    for gateway in [&three.h.gateway, &three.others[0], &three.others[1]] {
        soon(async {
            while get(gateway, "/health/ready", None).await.status != 200 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    three
}

impl Three {
    fn kill(&self, id: u64) {
        self.alive.lock().unwrap().remove(&CoordinatorId(id));
    }

    fn entries(&self, id: u64) -> u64 {
        self.alive.lock().unwrap().get(&CoordinatorId(id)).map_or(0, |journal| journal.stats().entries)
    }

    /// Waits until one of the others keeps a stream of the first, and says which.
    async fn keeper(&self) -> u64 {
        soon(async {
            loop {
                if let Some(id) = [2, 3].into_iter().find(|id| self.entries(*id) > 0) {
                    return id;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }
}

async fn get(gateway: &Gateway, path: &str, last_event_id: Option<&str>) -> Told {
    let mut request = Request::get(path).header("host", "test");
    if let Some(id) = last_event_id {
        request = request.header("last-event-id", id);
    }
    Open::start(gateway.addr(), request.body(Full::default()).unwrap()).await.told().await
}

async fn rest(gateway: &Gateway, after: &str) -> Told {
    get(gateway, &format!("/v1/requests/{NAME}/stream?after={after}"), None).await
}

const NAME: &str = "a-name-of-the-client's";

/// A streamed request that its client has named.
async fn named(gateway: &Gateway, path: &str, body: &Value) -> Open {
    let mut request = post(path, body.to_string());
    request.headers_mut().insert("x-request-id", NAME.parse().unwrap());
    Open::start(gateway.addr(), request).await
}

/// Ids and data of a stream's events.
fn events(told: &Told) -> Vec<(String, String)> {
    assert_eq!(told.status, 200, "{}", told.body);
    let event = |text: &str| {
        let (id, data) = text.strip_prefix("id: ").unwrap().split_once("\ndata: ").unwrap();
        (id.to_owned(), data.to_owned())
    };
    told.body.split("\n\n").filter(|e| !e.is_empty()).map(event).collect()
}

/// The data of events choice by choice: which choice is ahead of which is nobody's promise; nor, where the journal did not hear
/// of it, how much of the prompt was cached.
fn by_choice(mut events: Vec<(String, String)>, cached_known: bool) -> Vec<Value> {
    let choice = |data: &str| serde_json::from_str::<Value>(data).ok()?["choices"].get(0)?["index"].as_u64();
    events.sort_by_key(|(_, data)| choice(data).unwrap_or(u64::MAX));
    let read = |data: String| {
        let mut data = serde_json::from_str(&data).unwrap_or(Value::String(data));
        if let Some(details) = data.pointer_mut("/usage/prompt_tokens_details").filter(|_| !cached_known) {
            details.take();
        }
        data
    };
    events.into_iter().map(|(_, data)| read(data)).collect()
}

/// Asks undisturbed, and then for what comes after each of its events; that must be told to the byte, as often as it is asked.
async fn after_every_event(prompt: Vec<u32>, answers: Vec<Answer>, path: &str, body: Value) {
    let mut body = body;
    let (name, value) = ("stream_options".to_owned(), json!({"include_usage": true}));
    let more = [("model".to_owned(), json!("tiny")), ("stream".to_owned(), json!(true)), (name, value)];
    body.as_object_mut().unwrap().extend(more);
    for hears in [Hears::All, Hears::Begin] {
        let model = Model { answers: [(prompt.clone(), answers.clone())].into(), ..Model::default() };
        let (_, replicas) = model.replicas();
        let mut three = three(replicas, hears).await;
        let open = named(&three.h.gateway, path, &body).await;
        assert_eq!(open.response.headers()["x-shardglm-resumable"], "true");
        let undisturbed = events(&open.told().await);
        // Its keeper has been told all of it, or what it hears.
        soon(async {
            while three.h.gateway.stats().journal.streams > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        three.kill(1);
        let cuts = undisturbed.iter().enumerate().map(|(i, (id, _))| (i + 1, id.as_str()));
        for (told, after) in std::iter::once((0, "")).chain(cuts) {
            while three.h.seen.requests.try_recv().is_ok() {}
            let rest = rest(&three.others[told % 2], after).await;
            if told == undisturbed.len() {
                assert_eq!((rest.status.as_u16(), rest.body.as_str()), (204, ""));
            } else {
                let told_of = |events| by_choice(events, hears == Hears::All);
                let (found, expected) = (told_of(events(&rest)), told_of(undisturbed[told..].to_vec()));
                assert_eq!(found, expected, "{hears:?} after {told} events, {after}: {body}");
            }
        }
        let picked_up: u64 = three.others.iter().map(|g| g.stats().picked_up).sum();
        assert_eq!(picked_up, undisturbed.len() as u64);
        assert!(three.others.iter().all(|g| g.stats().in_flight == 0 && g.stats().failures.is_empty()));
    }
}

const CHAT: &str = "/v1/chat/completions";

fn stopped(tokens: Vec<u32>) -> Answer {
    Answer { tokens, end: FinishReason::Stop }
}

#[tokio::test]
async fn a_stream_goes_on_after_any_of_its_events() {
    // A character in four tokens, a stop token, logprobs of each.
    let answer = stopped([ids("é😀x"), vec![END]].concat());
    after_every_event(hi_ids(), vec![answer.clone()], CHAT, hi_with(json!({}))).await;
    let all = json!({"logprobs": true, "top_logprobs": 2, "return_token_ids": true});
    after_every_event(hi_ids(), vec![answer], CHAT, hi_with(all)).await;
}

#[tokio::test]
async fn what_was_held_back_for_a_stop_string_is_neither_lost_nor_told_twice() {
    let answer = stopped([ids("a</ans</answ"), vec![119], ids("er>never")].concat());
    after_every_event(hi_ids(), vec![answer], CHAT, hi_with(json!({"stop": ["</answ", "wer>"]}))).await;
    let answer = stopped([ids("x<"), vec![ANSWER, 97]].concat());
    let body = json!({"stop": "</answer>", "include_stop_str_in_output": true, "return_token_ids": true});
    after_every_event(hi_ids(), vec![answer], CHAT, hi_with(body)).await;
    let unfinished = Answer { tokens: ids("x</ans"), end: FinishReason::Length };
    after_every_event(hi_ids(), vec![unfinished], CHAT, hi_with(json!({"stop": "</answer>"}))).await;
}

#[tokio::test]
async fn tool_calls_and_reasoning_are_split_the_same() {
    let body = hi_with(json!({"tools": weather(), "separate_reasoning": true}));
    let answer = stopped([ids(CALLS), vec![END]].concat());
    after_every_event([ids("[weather]"), hi_ids()].concat(), vec![answer], CHAT, body).await;
}

#[tokio::test]
async fn choices_go_on_each_from_where_it_was() {
    let length = Answer { tokens: ids("two"), end: FinishReason::Length };
    let answers = vec![stopped(ids("oSTOPnever")), length, stopped([ids("3"), vec![END]].concat())];
    after_every_event(hi_ids(), answers, CHAT, hi_with(json!({"n": 3, "stop": "STOP", "seed": 7}))).await;
}

#[tokio::test]
async fn an_echoed_prompt_is_told_once() {
    let body =
        json!({"prompt": "hello", "echo": true, "logprobs": 2, "n": 2, "return_token_ids": true, "max_tokens": 9});
    let answers = vec![stopped(ids("é!")), Answer { tokens: ids("b"), end: FinishReason::Length }];
    after_every_event(ids("hello"), answers.clone(), "/v1/completions", body).await;
    let body = json!({"prompt": "hello", "echo": true, "max_tokens": 0});
    after_every_event(ids("hello"), answers[..1].to_vec(), "/v1/completions", body).await;
}

/// A stream of which two tokens come and then nothing; whoever goes on with it gets the rest.
async fn hanging() -> Three {
    let replicas = Scripted::by(|request| {
        let [choice] = &request.choices[..] else { panic!("one choice") };
        Ok(match choice.resume.len() {
            0 => vec![tokens(&ids("a")), tokens(&ids("b")), Step::Hang],
            told => vec![tokens(&ids("abcd")[told..]), length()],
        })
    });
    three(replicas, Hears::All).await
}

async fn begun(three: &Three) -> Open {
    let mut open = named(&three.h.gateway, CHAT, &hi_with(json!({"stream": true}))).await;
    for id in ["0", "1", "2"] {
        let frame = soon(http_body_util::BodyExt::frame(open.response.body_mut())).await.unwrap().unwrap();
        let text = String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap();
        assert!(text.starts_with(&format!("id: {id}\ndata: ")), "{text}");
    }
    open
}

fn content(events: &[(String, String)]) -> String {
    let chunks = events.iter().filter_map(|(_, data)| serde_json::from_str::<Value>(data).ok());
    chunks.filter_map(|c| c["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn the_newest_reader_wins_and_the_old_stream_is_told_so() {
    let mut three = hanging().await;
    let open = begun(&three).await;
    let told = get(&three.others[0], &format!("/v1/requests/{NAME}/stream"), Some("1")).await;
    assert_eq!(content(&events(&told)), "bcd");
    let left = open.told().await;
    let error: Value = serde_json::from_str(left.body.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "stream_taken_over");
    soon(three.h.seen.cancelled.wait_for(|n| *n == 1)).await.unwrap();
    let seeds: Vec<u64> =
        std::iter::from_fn(|| three.h.seen.requests.try_recv().ok()).map(|(_, r)| r.sampling.seed).collect();
    assert!(seeds.len() == 2 && seeds[0] == seeds[1], "an unseeded stream keeps the seed that was drawn: {seeds:?}");
    let id = &left.headers["x-request-id"];
    assert_eq!(id, NAME);
}

#[tokio::test]
async fn a_client_that_goes_frees_the_replica_and_may_come_back_anywhere() {
    let mut three = hanging().await;
    drop(begun(&three).await);
    soon(three.h.seen.cancelled.wait_for(|n| *n == 1)).await.unwrap();
    for gateway in [&three.others[1], &three.h.gateway, &three.others[0]] {
        assert_eq!(content(&events(&rest(gateway, "2").await)), "cd");
    }
    assert_eq!(three.h.gateway.stats().picked_up, 1);
}

#[tokio::test]
async fn another_coordinator_keeps_a_stream_whose_keeper_dies() {
    let three = hanging().await;
    let open = begun(&three).await;
    let keeper = three.keeper().await;
    three.kill(keeper);
    let other = 5 - keeper;
    soon(async {
        while three.entries(other) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    three.kill(1);
    drop(open);
    let gateway = &three.others[usize::try_from(other - 2).unwrap()];
    assert_eq!(content(&events(&rest(gateway, "2").await)), "cd");
}

#[tokio::test]
async fn alone_a_gateway_keeps_its_streams_itself() {
    let (_, replicas) =
        Model { answers: [(hi_ids(), vec![stopped(ids("abc"))])].into(), ..Model::default() }.replicas();
    let h = Harness::over(replicas, GatewayLimits::default()).await;
    h.serve(1);
    h.until_ready().await;
    let undisturbed = events(&named(&h.gateway, CHAT, &hi_with(json!({"stream": true}))).await.told().await);
    assert_eq!(events(&rest(&h.gateway, "1").await), undisturbed[2..]);
}

#[tokio::test]
async fn what_cannot_go_on_is_told_why() {
    let three = hanging().await;
    let gateway = &three.others[0];
    let code = |told: Told| (told.status.as_u16(), told.error()["code"].as_str().unwrap().to_owned());
    let expected = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(code(rest(gateway, "1").await), expected(404, "request_not_found"));
    drop(begun(&three).await);
    for after in ["-1", "x", "1.1", "1000", "done2"] {
        assert_eq!(code(rest(gateway, after).await), expected(400, "invalid_value"), "{after}");
    }
    // As many tokens as it may have, not as many as it has.
    let told = rest(gateway, "5").await;
    assert!(told.body.contains("at most the 4 that it has"), "{}", told.body);
    assert_eq!(code(told), expected(400, "invalid_value"));
    let mut other = three.h.deployment(2);
    other.spec.model.digest = "another".to_owned();
    three.h.publish(other, vec![]);
    soon(async {
        while get(gateway, "/health/ready", None).await.status != 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let told = soon(async {
        loop {
            let told = rest(gateway, "2").await;
            if told.status != 503 {
                return told;
            }
        }
    })
    .await;
    assert_eq!(code(told), expected(409, "request_changed"));
    three.h.view.send_replace(Arc::new(ClusterView::default()));
    assert_eq!(code(rest(gateway, "2").await), expected(404, "model_not_found"));
    three.h.serve(2);
    let told = soon(async {
        loop {
            let told = rest(gateway, "2").await;
            if told.status != 503 {
                return told;
            }
        }
    })
    .await;
    assert_eq!(content(&events(&told)), "cd", "it is kept all the while");
}

#[tokio::test]
async fn only_named_streams_are_kept() {
    let (_, replicas) =
        Model { answers: [(hi_ids(), vec![stopped(ids("abc"))])].into(), ..Model::default() }.replicas();
    let three = three(replicas, Hears::All).await;
    let nameless = three.h.chat(&hi_with(json!({"stream": true}))).await;
    assert!(!nameless.body.contains("id: ") && !nameless.headers.contains_key("x-shardglm-resumable"));
    let whole = named(&three.h.gateway, CHAT, &hi_with(json!({}))).await.told().await;
    assert!(!whole.headers.contains_key("x-shardglm-resumable"));
    assert_eq!(rest(&three.h.gateway, "").await.error()["code"], "request_not_found");
    // What is too large is served all the same.
    let large = hi_with(json!({"stream": true, "user": "u".repeat(17 << 20)}));
    let told = named(&three.h.gateway, CHAT, &large).await.told().await;
    assert_eq!((told.headers["x-shardglm-resumable"].to_str().unwrap(), told.chunks().len()), ("false", 5));
    assert_eq!(rest(&three.h.gateway, "").await.error()["code"], "request_not_found");
    let stats = three.h.gateway.stats();
    assert_eq!((stats.unkept, stats.journal.streams), (1, 0));
}
