//! Answers whose replica is lost in the middle: the client reads what it would have read.

use std::sync::Arc;
use std::time::Duration;

use coordinator::GatewayLimits;
use coordinator::gateway::dispatch::DispatchError;
use coordinator::view::ClusterView;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use protocol::generate::{Choice, FinishReason, GenerateEvent};
use protocol::{Epoch, ReplicaId};
use serde_json::{Value, json};

use crate::chat::{hi_ids, hi_with};
use crate::client::{Told, soon};
use crate::files::{ANSWER, END, ids};
use crate::harness::Harness;
use crate::model::{Answer, Loss, Model, Shared};
use crate::scripted::{Step, length, tokens};
use crate::tools::{CALLS, TEMPLATE, weather};

fn streamed(more: Value) -> Value {
    let mut body =
        hi_with(json!({"stream": true, "stream_options": {"include_usage": true}, "return_token_ids": true}));
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn stopped(tokens: Vec<u32>) -> Answer {
    Answer { tokens, end: FinishReason::Stop }
}

/// Two replicas of a model that answers a prompt by these choices, and knows tools.
async fn two(prompt: Vec<u32>, answers: Vec<Answer>) -> (Harness, Shared) {
    let model = Model { answers: [(prompt, answers)].into(), ..Model::default() };
    let (model, replicas) = model.replicas();
    let h = Harness::over(replicas, GatewayLimits::default()).await;
    std::fs::write(h.dir.path().join("chat_template.jinja"), TEMPLATE).unwrap();
    h.serve(2);
    h.until_ready().await;
    (h, model)
}

/// All that a client is told, choice by choice, but for what differs between any two answers. Which choice is ahead of which
/// is nobody's promise.
fn told(told: &Told) -> Vec<Value> {
    assert_eq!(told.status, 200, "{}", told.body);
    let whole = !told.headers["content-type"].to_str().unwrap().starts_with("text/event-stream");
    let mut values = if whole { vec![told.json()] } else { told.chunks() };
    for value in &mut values {
        let object = value.as_object_mut().unwrap();
        object.remove("id");
        object.remove("created");
        for choice in value["choices"].as_array_mut().unwrap() {
            let said = if whole { &mut choice["message"] } else { &mut choice["delta"] };
            for call in said.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
                call.as_object_mut().unwrap().remove("id");
            }
        }
    }
    values.sort_by_key(|v| v["choices"].get(0).map_or(u64::MAX, |c| c["index"].as_u64().unwrap()));
    values
}

/// Asks undisturbed, and then with a loss after each number of events that there is; each must be told the same.
async fn every_cut(answers: Vec<Answer>, bodies: &[Value]) {
    every_cut_of(hi_ids(), answers, bodies).await;
}

async fn every_cut_of(prompt: Vec<u32>, answers: Vec<Answer>, bodies: &[Value]) {
    let events: usize = answers.iter().map(|a| a.tokens.len() + 1).sum();
    let (mut h, model) = two(prompt, answers).await;
    for body in bodies {
        let undisturbed = told(&h.chat(body).await);
        for (cut, loss) in (0..=events).zip([Loss::Broken, Loss::Told].into_iter().cycle()) {
            model.lock().unwrap().losses = [(cut, loss)].into();
            while h.seen.requests.try_recv().is_ok() {}
            assert_eq!(told(&h.chat(body).await), undisturbed, "{loss:?} after {cut} events of {body}");
        }
    }
    assert_eq!((h.gateway.stats().in_flight, h.gateway.stats().failures.len()), (0, 0));
    let stats = h.gateway.stats();
    assert!(stats.interrupted > 0 && stats.resume.count() == stats.interrupted);
}

#[tokio::test]
async fn a_stream_cut_anywhere_is_told_as_if_it_had_not_been() {
    // A character in four tokens, a stop token, logprobs of each.
    let answer = [ids("é😀x"), vec![END]].concat();
    let logprobs = json!({"logprobs": true, "top_logprobs": 2});
    every_cut(vec![stopped(answer)], &[streamed(json!({})), streamed(logprobs.clone()), hi_with(logprobs)]).await;
}

#[tokio::test]
async fn a_stop_string_across_the_cut_is_found() {
    let answer = [ids("a</ans</answ"), vec![119], ids("er>never")].concat();
    let body = json!({"stop": ["</answ", "wer>"]});
    every_cut(vec![stopped(answer.clone())], &[streamed(body.clone()), hi_with(body)]).await;
    let body = json!({"stop": "</answer>", "include_stop_str_in_output": true});
    every_cut(vec![stopped([ids("x<"), vec![ANSWER, 97]].concat())], &[streamed(body.clone()), hi_with(body)]).await;
}

#[tokio::test]
async fn tool_calls_and_reasoning_across_the_cut_are_split_the_same() {
    let body = json!({"tools": weather(), "separate_reasoning": true});
    let answer = stopped([ids(CALLS), vec![END]].concat());
    every_cut_of([ids("[weather]"), hi_ids()].concat(), vec![answer], &[streamed(body.clone()), hi_with(body)]).await;
}

#[tokio::test]
async fn choices_cut_anywhere_go_on_and_ended_ones_are_not_asked_for_again() {
    let answers = || {
        let length = Answer { tokens: ids("two"), end: FinishReason::Length };
        vec![stopped(ids("oSTOPnever")), length, stopped([ids("3"), vec![END]].concat())]
    };
    let body = json!({"n": 3, "stop": "STOP", "seed": 7});
    every_cut(answers(), &[streamed(body.clone()), hi_with(body.clone())]).await;

    // The second one's end and the third one's are told before the cut, the first one's is not.
    let (h, model) = two(hi_ids(), answers()).await;
    let undisturbed = told(&h.chat(&hi_with(body.clone())).await);
    let mut asked = std::mem::take(&mut model.lock().unwrap().asked);
    assert_eq!(asked.pop().unwrap().len(), 3);
    model.lock().unwrap().losses = [(10, Loss::Broken)].into();
    assert_eq!(told(&h.chat(&hi_with(body)).await), undisturbed);
    let asked = model.lock().unwrap().asked.clone();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1], [Choice { index: 0, resume: ids("oST") }]);
}

#[tokio::test]
async fn the_prompt_is_told_and_counted_once() {
    let body = json!({"prompt_logprobs": 1});
    every_cut(vec![stopped(ids("abc"))], &[hi_with(body)]).await;
    let (h, model) = two(hi_ids(), vec![stopped(ids("abc"))]).await;
    model.lock().unwrap().losses = [(2, Loss::Broken)].into();
    let usage = h.chat(&hi_with(json!({}))).await.json()["usage"].clone();
    let expected = json!({"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 1}});
    assert_eq!(usage, expected, "what the second replica had in its cache is the first one's work");
}

/// A random request, what it is answered, and where its replicas are lost.
#[derive(Debug, Clone)]
struct Case {
    body: Value,
    answers: Vec<(String, Vec<Answer>)>,
    chunks: [Vec<usize>; 2],
    losses: Vec<(usize, Loss)>,
}

fn case() -> impl Strategy<Value = Case> {
    let token = prop::sample::select(vec![97u32, 98, 0xe4, 0xbd, 0xa0, ANSWER, 60]);
    let answer = (prop::collection::vec(token, 1..24), any::<bool>()).prop_map(|(mut tokens, stops)| {
        tokens.extend(stops.then_some(END));
        Answer { tokens, end: if stops { FinishReason::Stop } else { FinishReason::Length } }
    });
    let answers = prop::collection::vec(prop::collection::vec(answer, 2), 1..3);
    let stop = prop::collection::vec("[ab<]{1,3}", 0..3);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let chunks = || prop::collection::vec(1usize..5, 0..4);
    let loss = prop_oneof![Just(Loss::Broken), Just(Loss::Told)];
    let losses = prop::collection::vec((1usize..12, loss), 0..6);
    (answers, 1usize..3, stop, flags, [chunks(), chunks()], losses).prop_map(
        |(answers, n, stop, (stream, echo, logprobs, include_stop), chunks, losses)| {
            let prompts: Vec<String> = (0..answers.len()).map(|i| format!("p{i}")).collect();
            let mut body = json!({
                "model": "tiny", "prompt": prompts, "n": n, "stop": stop, "stream": stream, "max_tokens": 40,
                "echo": echo, "include_stop_str_in_output": include_stop, "return_token_ids": true,
            });
            if logprobs {
                body["logprobs"] = 2.into();
            }
            if stream {
                body["stream_options"] = json!({"include_usage": true});
            }
            Case { body, answers: prompts.into_iter().zip(answers).collect(), chunks, losses }
        },
    )
}

/// What a client of `/v1/completions` has read in the end of each choice: text, ids, logprobs and the end; and the usage.
fn read(told: &Told) -> (Vec<Value>, Value) {
    assert_eq!(told.status, 200, "{}", told.body);
    if told.headers["content-type"] == "application/json" {
        let mut whole = told.json();
        return (whole["choices"].as_array().unwrap().clone(), whole["usage"].take());
    }
    let (mut choices, mut usage) = (std::collections::BTreeMap::<u64, Value>::new(), Value::Null);
    for mut chunk in told.chunks() {
        usage = chunk["usage"].take();
        for choice in chunk["choices"].as_array().unwrap() {
            let known = choices.entry(choice["index"].as_u64().unwrap()).or_insert_with(|| json!({}));
            join(known, choice);
        }
    }
    (choices.into_values().collect(), usage)
}

/// Adds what a later chunk says to what earlier ones said: texts and lists grow, the rest is replaced.
fn join(known: &mut Value, more: &Value) {
    match (known, more) {
        (Value::String(known), Value::String(more)) => known.push_str(more),
        (Value::Array(known), Value::Array(more)) => known.extend(more.iter().cloned()),
        (Value::Object(known), Value::Object(more)) => {
            for (key, value) in more {
                join(known.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (known, more) => *known = more.clone(),
    }
}

#[test]
fn whatever_is_asked_and_wherever_replicas_are_lost_the_client_reads_the_same() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (model, replicas) = Model::default().replicas();
    let h = runtime.block_on(async {
        let h = Harness::over(replicas, GatewayLimits::default()).await;
        h.serve(2);
        h.until_ready().await;
        h
    });
    let seen = std::cell::RefCell::new(h.seen.requests);
    let mut runner = TestRunner::new(Config { cases: 128, failure_persistence: None, ..Config::default() });
    let ran = runner.run(&case(), |Case { body, answers, chunks: [smooth, cut], losses }| {
        let told = |losses: Vec<(usize, Loss)>, chunks: &Vec<usize>| {
            {
                let mut model = model.lock().unwrap();
                model.answers = answers.iter().map(|(prompt, answers)| (ids(prompt), answers.clone())).collect();
                (model.chunks, model.losses) = (chunks.clone(), losses.into());
            }
            let request = crate::harness::post("/v1/completions", body.to_string());
            let addr = h.gateway.addr();
            let told = runtime.block_on(async move { crate::client::Open::start(addr, request).await.told().await });
            while seen.borrow_mut().try_recv().is_ok() {}
            read(&told)
        };
        let undisturbed = told(vec![], &smooth);
        prop_assert_eq!(told(losses, &cut), undisturbed);
        prop_assert_eq!(h.gateway.stats().in_flight, 0);
        Ok(())
    });
    ran.unwrap();
    let stats = h.gateway.stats();
    assert!(stats.interrupted > 32, "{} interruptions", stats.interrupted);
    assert_eq!((stats.failures.len(), stats.resume.count()), (0, stats.interrupted));
}

#[tokio::test]
async fn a_prompt_that_every_replica_is_lost_over_is_told_so() {
    let lost = || Ok(vec![Loss::Broken.step()]);
    let scripts = vec![Ok(vec![tokens(&ids("a")), Loss::Told.step()]), lost()];
    let mut h = Harness::with(scripts.clone(), 1, GatewayLimits::default()).await;
    let events = h.chat(&hi_with(json!({"stream": true}))).await.events();
    assert_eq!(events.len(), 3, "{events:?}");
    let error: Value = serde_json::from_str(&events[2]).unwrap();
    assert_eq!(error["error"]["code"], "replica_lost");
    assert!(error["error"]["message"].as_str().unwrap().contains("rank 1 is gone"), "{error}");
    assert_eq!(std::iter::from_fn(|| h.seen.requests.try_recv().ok()).count(), 1 + 3);
    assert_eq!((h.gateway.stats().in_flight, h.gateway.stats().failures["replica_lost"]), (0, 1));
    assert_eq!((h.gateway.stats().interrupted, h.gateway.stats().resume.count()), (1, 0));
    // Not streamed, nothing of the broken answer is told.
    let h = Harness::with(scripts, 1, GatewayLimits::default()).await;
    let told = h.chat(&hi_with(json!({}))).await;
    assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (502, Some("replica_lost")));
    // A token between, and the count begins anew.
    let one_more = |id| Ok(vec![tokens(&ids(id)), Loss::Broken.step()]);
    let ended = Ok(vec![tokens(&ids("d")), length()]);
    let scripts = vec![one_more("a"), lost(), lost(), one_more("b"), lost(), lost(), one_more("c"), ended];
    let h = Harness::with(scripts, 1, GatewayLimits::default()).await;
    assert_eq!(h.chat(&hi_with(json!({}))).await.json()["choices"][0]["message"]["content"], "abcd");
}

#[tokio::test]
async fn what_is_no_loss_of_a_replica_ends_the_answer() {
    let failed = GenerateEvent::Failed { reason: "not a number".to_owned(), retryable: false };
    let refused = DispatchError::BadRequest { reason: "no".to_owned() };
    for (script, code) in [
        (vec![Ok(vec![tokens(&ids("a")), Step::Event(failed)])], "replica_failed"),
        (vec![Ok(vec![tokens(&ids("a")), Loss::Told.step()]), Err(refused)], "invalid_request"),
        (vec![Ok(vec![tokens(&ids("a")), Step::Break(DispatchError::Deadline)])], "deadline_exceeded"),
    ] {
        let h = Harness::with(script, 2, GatewayLimits::default()).await;
        let events = h.chat(&hi_with(json!({"stream": true}))).await.events();
        let error: Value = serde_json::from_str(events.last().unwrap()).unwrap();
        assert_eq!(error["error"]["code"], code, "{error}");
    }
}

#[tokio::test]
async fn a_replica_that_has_no_room_is_asked_again_when_it_has() {
    let full = || Err(DispatchError::Busy { reason: "full".to_owned(), retry: Some(Duration::from_millis(1)) });
    let scripts = vec![
        Ok(vec![tokens(&ids("a")), Loss::Told.step()]),
        full(),
        Err(DispatchError::Unreachable { reason: "nobody listens".to_owned() }),
        full(),
        full(),
        Ok(vec![tokens(&ids("b")), length()]),
    ];
    let mut h = Harness::with(scripts, 2, GatewayLimits::default()).await;
    assert_eq!(h.chat(&hi_with(json!({}))).await.json()["choices"][0]["message"]["content"], "ab");
    let asked: Vec<_> = std::iter::from_fn(|| h.seen.requests.try_recv().ok()).collect();
    let replicas: Vec<u64> = asked.iter().map(|(replica, _)| replica.0).collect();
    assert_eq!(replicas[..3], [1, 2, 1], "the other one at once, and then the first again");
    assert!(asked[1..].iter().all(|(_, r)| r.choices == [Choice { index: 0, resume: ids("a") }]));
}

/// A stream that was told `a`, whose only replica is then gone; the next request is told the rest.
async fn interrupted(limits: GatewayLimits) -> (Harness, crate::client::Open) {
    let scripts = vec![Ok(vec![tokens(&ids("a")), Step::Hang]), Ok(vec![tokens(&ids("b")), length()])];
    let mut h = Harness::with(scripts, 1, limits).await;
    let mut open = h.open("/v1/chat/completions", &hi_with(json!({"stream": true}))).await;
    assert!(open.event().await.unwrap().contains("assistant"));
    assert!(open.event().await.unwrap().contains("\"content\":\"a\""));
    soon(h.seen.requests.recv()).await.unwrap();
    h.serve(0);
    // Its stream is let go at once, whether the replica still runs or not.
    soon(h.seen.cancelled.wait_for(|n| *n == 1)).await.unwrap();
    assert_eq!((h.gateway.stats().interrupted, h.gateway.stats().in_flight), (1, 1));
    (h, open)
}

async fn code_of(open: &mut crate::client::Open) -> String {
    let error: Value = serde_json::from_str(&open.event().await.unwrap()).unwrap();
    assert_eq!(open.event().await, None);
    error["error"]["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_stream_waits_for_its_only_replica_to_be_formed_again() {
    let (mut h, mut open) = interrupted(GatewayLimits::default()).await;
    // Views come and go; it is none of the streams' business until there is a group.
    h.serve(0);
    assert!(h.seen.requests.try_recv().is_err());
    let mut again = h.deployment(1);
    again.replicas[0].epoch = Epoch(4);
    h.publish(again, vec![]);
    assert!(open.event().await.unwrap().contains("\"content\":\"b\""));
    assert!(open.event().await.unwrap().contains("\"finish_reason\":\"length\""));
    assert_eq!(open.event().await.as_deref(), Some("[DONE]"));
    let (_, resumed) = h.seen.requests.recv().await.unwrap();
    assert_eq!(resumed.choices, [Choice { index: 0, resume: ids("a") }]);
    assert_eq!(h.gateway.stats().resume.count(), 1);
}

#[tokio::test]
async fn a_group_that_only_drains_finishes_what_it_has() {
    let scripts = vec![Ok(vec![tokens(&ids("a")), Step::Hang])];
    let mut h = Harness::with(scripts, 1, GatewayLimits::default()).await;
    let mut open = h.open("/v1/chat/completions", &hi_with(json!({"stream": true}))).await;
    assert!(open.event().await.unwrap().contains("assistant"));
    assert!(open.event().await.unwrap().contains("\"content\":\"a\""));
    h.publish(h.deployment(0), vec![(ReplicaId(1), Epoch(3))]);
    // A round through the gateway, in which it would have been cut.
    assert_eq!(h.chat(&hi_with(json!({}))).await.error()["code"], "no_replica_ready");
    assert_eq!((h.gateway.stats().interrupted, *h.seen.cancelled.borrow()), (0, 0));
    h.publish(h.deployment(0), vec![(ReplicaId(1), Epoch(2))]);
    soon(h.seen.cancelled.wait_for(|n| *n == 1)).await.unwrap();
    assert_eq!(h.gateway.stats().interrupted, 1);
}

#[tokio::test]
async fn another_model_under_the_name_does_not_go_on_with_it() {
    for change in [
        (|d| d.spec.model.digest = "other".to_owned()) as fn(&mut coordinator::view::ServedDeployment),
        |d| d.spec.dtype = protocol::Dtype::Bf16,
        |d| d.spec.name = "another".to_owned(),
    ] {
        let (h, mut open) = interrupted(GatewayLimits::default()).await;
        let mut other = h.deployment(1);
        other.replicas[0].epoch = Epoch(4);
        change(&mut other);
        h.publish(other, vec![]);
        assert_eq!(code_of(&mut open).await, "replica_lost");
    }
    let (h, mut open) = interrupted(GatewayLimits::default()).await;
    h.view.send_replace(Arc::new(ClusterView::default()));
    assert_eq!(code_of(&mut open).await, "replica_lost");
    let (h, mut open) = interrupted(GatewayLimits::default()).await;
    let mut cut_otherwise = h.deployment(3);
    cut_otherwise.spec.generation = protocol::Generation(9);
    h.publish(cut_otherwise, vec![]);
    assert!(open.event().await.unwrap().contains("\"content\":\"b\""));
}

#[tokio::test]
async fn the_deadline_bounds_the_wait_for_a_replica() {
    let limits = GatewayLimits { request_timeout_ms: 1500, ..GatewayLimits::default() };
    let (h, mut open) = interrupted(limits).await;
    assert_eq!(code_of(&mut open).await, "deadline_exceeded");
    assert_eq!(h.gateway.stats().in_flight, 0);
}

#[tokio::test]
async fn a_client_that_goes_while_its_stream_waits_frees_everything() {
    let (h, open) = interrupted(GatewayLimits::default()).await;
    drop(open);
    soon(async {
        while (h.gateway.stats().in_flight, h.gateway.stats().open) != (0, 0) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_gateway_that_ends_tells_streams_that_wait() {
    let (h, mut open) = interrupted(GatewayLimits::default()).await;
    let shutdown = tokio::spawn(h.gateway.shutdown(Duration::from_millis(50)));
    assert_eq!(code_of(&mut open).await, "shutting_down");
    soon(shutdown).await.unwrap();
}
