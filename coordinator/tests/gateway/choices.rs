//! Several choices a request, and several prompts.

use protocol::generate::Priority;
use serde_json::{Value, json};

use crate::chat::{hi_with, usage};
use crate::client::soon;
use crate::files::{END, ids};
use crate::harness::{Harness, post};
use crate::scripted::{Step, length, length_of, started, stop, tokens, tokens_of};

/// Content and finish reason of each choice of a chat answer.
fn contents(answer: &Value) -> Vec<(u64, String, String)> {
    let choice = |c: &Value| {
        let text = c["message"]["content"].as_str().or(c["text"].as_str()).unwrap().to_owned();
        (c["index"].as_u64().unwrap(), text, c["finish_reason"].as_str().unwrap().to_owned())
    };
    answer["choices"].as_array().unwrap().iter().map(choice).collect()
}

fn told(index: u64, text: &str, finish: &str) -> (u64, String, String) {
    (index, text.to_owned(), finish.to_owned())
}

#[tokio::test]
async fn choices_are_told_in_order_and_counted_together() {
    let mut h = Harness::playing(vec![
        started(3),
        tokens_of(1, &ids("b")),
        tokens_of(0, &ids("aa")),
        tokens_of(1, &[END]),
        Step::Event(protocol::generate::GenerateEvent::Finished {
            choice: 1,
            reason: protocol::generate::FinishReason::Stop,
        }),
        length_of(0),
    ])
    .await;
    let answer = h.chat(&hi_with(json!({"n": 2, "best_of": 2}))).await.json();
    assert_eq!(contents(&answer), [told(0, "aa", "length"), told(1, "b", "stop")]);
    let mut expected = usage(4, 4);
    expected["prompt_tokens_details"]["cached_tokens"] = 3.into();
    assert_eq!(answer["usage"], expected, "the prompt once, both answers");
    let (_, request) = h.seen.requests.recv().await.unwrap();
    assert_eq!(request.choices.iter().map(|c| c.index).collect::<Vec<_>>(), [0, 1]);
    assert!(request.choices.iter().all(|c| c.resume.is_empty()));
}

#[tokio::test]
async fn chunks_of_choices_come_as_they_are_made_each_under_its_index() {
    let h = Harness::playing(vec![
        tokens_of(1, &ids("b")),
        tokens_of(0, &ids("a")),
        length_of(1),
        tokens_of(0, &ids("A")),
        length_of(0),
    ])
    .await;
    let body = hi_with(json!({"n": 2, "stream": true, "stream_options": {"include_usage": true}}));
    let chunks = h.chat(&body).await.chunks();
    let seen = |c: &Value| {
        let choice = &c["choices"][0];
        (
            choice["index"].as_u64(),
            choice["delta"]["content"].as_str().map(str::to_owned),
            choice["finish_reason"].clone(),
        )
    };
    let piece = |index, text: &str| (Some(index), Some(text.to_owned()), json!(null));
    let end = |index| (Some(index), None, json!("length"));
    let expected = [
        piece(0, ""),
        piece(1, ""),
        piece(1, "b"),
        piece(0, "a"),
        end(1),
        piece(0, "A"),
        end(0),
        (None, None, json!(null)),
    ];
    assert_eq!(chunks.iter().map(seen).collect::<Vec<_>>(), expected);
    assert_eq!(chunks[7]["usage"], usage(4, 3));
}

#[tokio::test]
async fn a_stop_string_ends_its_choice_alone() {
    let mut h = Harness::playing(vec![
        tokens_of(0, &ids("xSTOPy")),
        tokens_of(1, &ids("one ")),
        tokens_of(0, &ids("never seen")),
        tokens_of(1, &ids("two")),
        length_of(1),
    ])
    .await;
    let answer = h.chat(&hi_with(json!({"n": 2, "stop": "STOP"}))).await.json();
    assert_eq!(contents(&answer), [told(0, "x", "stop"), told(1, "one two", "length")]);
    assert_eq!(answer["usage"]["completion_tokens"], 5 + 7);
    assert_eq!(h.seen.ended.recv().await, Some(0));
    assert_eq!(*h.seen.cancelled.borrow(), 0, "the stream ended by itself");
}

#[tokio::test]
async fn the_last_choice_that_stops_cancels_the_rest() {
    let mut h = Harness::playing(vec![tokens_of(0, &ids("aS")), tokens_of(1, &ids("bS")), Step::Hang]).await;
    let answer = h.chat(&hi_with(json!({"n": 2, "stop": "S"}))).await.json();
    assert_eq!(contents(&answer), [told(0, "a", "stop"), told(1, "b", "stop")]);
    assert_eq!(h.seen.ended.try_recv(), Ok(0));
    assert!(h.seen.ended.try_recv().is_err(), "a cancelled stream needs no further word");
    soon(h.seen.cancelled.wait_for(|n| *n == 1)).await.unwrap();
}

#[tokio::test]
async fn a_choice_that_nobody_asked_for_is_a_failure() {
    let h = Harness::playing(vec![tokens_of(2, &ids("a"))]).await;
    let error = h.chat(&hi_with(json!({"n": 2}))).await.error();
    assert_eq!(error["code"], "replica_failed");
    assert!(error["message"].as_str().unwrap().contains("choice 2 where 2 were asked for"), "{error}");
}

#[tokio::test]
async fn several_prompts_have_their_choices_prompt_by_prompt() {
    let scripts = [("a", "b"), ("c", "d")].map(|(first, second)| {
        Ok(vec![started(1), tokens_of(1, &ids(second)), tokens_of(0, &ids(first)), length_of(0), length_of(1)])
    });
    let mut h = Harness::with(scripts.to_vec(), 1, coordinator::GatewayLimits::default()).await;
    let body = json!({"model": "tiny", "prompt": ["x", [121, 121]], "n": 2, "return_token_ids": true});
    let answer = h.post("/v1/completions", &body).await.json();
    let length = |i, text| told(i, text, "length");
    assert_eq!(contents(&answer), [length(0, "a"), length(1, "b"), length(2, "c"), length(3, "d")]);
    let prompts: Vec<&Value> = (0..4).map(|i| &answer["choices"][i]["prompt_token_ids"]).collect();
    assert_eq!(prompts, [&json!([120]), &json!([120]), &json!([121, 121]), &json!([121, 121])]);
    let mut expected = usage(3, 4);
    expected["prompt_tokens_details"]["cached_tokens"] = 2.into();
    assert_eq!(answer["usage"], expected);
    let sent = [h.seen.requests.recv().await.unwrap().1, h.seen.requests.recv().await.unwrap().1];
    assert_eq!(sent.map(|r| r.prompt_ids), [vec![120], vec![121, 121]]);
}

#[tokio::test]
async fn one_prompts_failure_ends_all_of_them() {
    let failed = coordinator::gateway::dispatch::DispatchError::Refused { reason: "no".to_owned() };
    let scripts = vec![Ok(vec![Step::Hang]), Err(failed)];
    let mut h = Harness::with(scripts, 1, coordinator::GatewayLimits::default()).await;
    let told = h.post("/v1/completions", &json!({"model": "tiny", "prompt": ["x", "y"]})).await;
    assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (502, Some("replica_failed")));
    soon(h.seen.cancelled.wait_for(|n| *n == 1)).await.unwrap();
}

#[tokio::test]
async fn choices_over_all_prompts_are_bounded() {
    let h = Harness::playing(vec![length()]).await;
    let told = h.post("/v1/completions", &json!({"model": "tiny", "prompt": ["x", "y"], "n": 65})).await;
    assert_eq!((told.status.as_u16(), told.error()["param"].as_str()), (400, Some("n")));
    let message = told.error()["message"].clone();
    assert_eq!(message, "`n` is 65 for each of 2 prompts, expected at most 128 choices in all");
}

#[tokio::test]
async fn terms_reach_the_replica() {
    let mut h = Harness::playing(vec![tokens(&ids("a")), tokens(&[END]), stop()]).await;
    let mut request = post("/v1/chat/completions", hi_with(json!({"cache_salt": "tenant-7"})).to_string());
    request.headers_mut().insert("x-priority", "high".parse().unwrap());
    request.headers_mut().insert("x-request-timeout-ms", "5000".parse().unwrap());
    assert_eq!(h.send(request).await.status, 200);
    let (_, sent) = h.seen.requests.recv().await.unwrap();
    assert_eq!((sent.priority, sent.cache_salt.as_str()), (Priority::High, "tenant-7"));
    assert!((1001..=6000).contains(&sent.deadline_ms), "{}: a second more than the gateway's own", sent.deadline_ms);
    assert_eq!(h.chat(&hi_with(json!({"priority": 3}))).await.status, 200);
    assert_eq!(h.seen.requests.recv().await.unwrap().1.priority, Priority::Low);

    let mut request = post("/v1/chat/completions", hi_with(json!({})).to_string());
    request.headers_mut().insert("x-request-timeout-ms", "600001".parse().unwrap());
    let told = h.send(request).await;
    assert_eq!((told.status.as_u16(), told.error()["param"].as_str()), (400, Some("x-request-timeout-ms")));
    let expected = "`x-request-timeout-ms` is 600001, expected a whole number of milliseconds, 1 to 600000";
    assert_eq!(told.error()["message"], expected);
}
