//! Answers told as server-sent events.

use serde_json::{Value, json};

use crate::chat::{hi_ids, hi_with, usage};
use crate::client::soon;
use crate::files::{ANSWER, END, ids};
use crate::harness::Harness;
use crate::scripted::{Step, length, scored, stop, tokens};

fn streamed(more: Value) -> Value {
    let mut body = hi_with(more);
    body["stream"] = true.into();
    body
}

fn contents(chunks: &[Value]) -> Vec<String> {
    let delta = |c: &Value| c["choices"][0]["delta"]["content"].as_str().map(str::to_owned);
    chunks.iter().filter_map(delta).collect()
}

#[tokio::test]
async fn a_stream_has_openais_chunks() {
    let h = Harness::playing(vec![tokens(&ids("a")), tokens(&ids("b")), tokens(&[END]), stop()]).await;
    let told = h.chat(&streamed(json!({"stream_options": {"include_usage": true}}))).await;
    let chunks = told.chunks();
    let choices: Vec<Value> = chunks.iter().map(|c| c["choices"].clone()).collect();
    let choice =
        |delta: Value, finish: Value| json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]);
    let expected = [
        choice(json!({"role": "assistant", "content": ""}), json!(null)),
        choice(json!({"content": "a"}), json!(null)),
        choice(json!({"content": "b"}), json!(null)),
        choice(json!({}), json!("stop")),
        json!([]),
    ];
    assert_eq!(choices, expected);
    assert_eq!(chunks[4]["usage"], usage(4, 3));
    assert!(chunks[..4].iter().all(|c| c.get("usage") == Some(&json!(null))));
    let same = |key: &str| chunks.iter().all(|c| c[key] == chunks[0][key]);
    assert!(same("id") && same("created") && same("model") && same("object") && same("system_fingerprint"));
    assert_eq!(chunks[0]["object"], "chat.completion.chunk");
    let plain = h.chat(&streamed(json!({}))).await.chunks();
    assert!(plain.iter().all(|c| c.get("usage").is_none()));
    assert_eq!(plain.len(), 4);
}

#[tokio::test]
async fn no_character_is_split_across_chunks() {
    let text = "é你😀!";
    let mut script: Vec<Step> = text.bytes().map(|b| tokens(&[u32::from(b)])).collect();
    script.push(length());
    let h = Harness::playing(script).await;
    let chunks = h.chat(&streamed(json!({}))).await.chunks();
    assert_eq!(contents(&chunks), ["", "é", "你", "😀", "!"]);
}

#[tokio::test]
async fn ids_come_with_every_chunk_and_add_up() {
    let h = Harness::playing(vec![tokens(&[0xe4, 0xbd]), tokens(&[0xa0, 33]), tokens(&[END]), stop()]).await;
    let chunks = h.chat(&streamed(json!({"return_token_ids": true}))).await.chunks();
    assert_eq!(chunks[0]["prompt_token_ids"], json!(hi_ids()));
    assert!(chunks[1..].iter().all(|c| c.get("prompt_token_ids").is_none()));
    assert_eq!(contents(&chunks), ["", "", "\u{4f60}!", ""]);
    let told: Vec<u64> = chunks[1..]
        .iter()
        .flat_map(|c| c["choices"][0]["token_ids"].as_array().unwrap().clone())
        .map(|id| id.as_u64().unwrap())
        .collect();
    assert_eq!(told, [0xe4, 0xbd, 0xa0, 33, u64::from(END)]);
}

#[tokio::test]
async fn a_stop_string_is_held_back_until_it_is_certain() {
    let h = Harness::playing(vec![
        tokens(&ids("x<")),
        tokens(&ids("/a")),
        tokens(&ids("b</ans")),
        tokens(&[119]),
        tokens(&ids("er>z")),
    ])
    .await;
    let body = streamed(json!({"stop": "</answer>"}));
    let chunks = h.chat(&body).await.chunks();
    assert_eq!(contents(&chunks), ["", "x", "</ab"]);
    assert_eq!(chunks.last().unwrap()["choices"][0]["stop_reason"], "</answer>");
    // As one added token, too.
    let h = Harness::playing(vec![tokens(&ids("x")), tokens(&[ANSWER]), tokens(&ids("y"))]).await;
    assert_eq!(contents(&h.chat(&body).await.chunks()), ["", "x"]);
}

#[tokio::test]
async fn a_stop_string_that_does_not_come_is_told_in_the_end() {
    let h = Harness::playing(vec![tokens(&ids("x</ans")), length()]).await;
    let chunks = h.chat(&streamed(json!({"stop": "</answer>"}))).await.chunks();
    assert_eq!(contents(&chunks).concat(), "x</ans");
}

#[tokio::test]
async fn logprobs_come_with_their_tokens() {
    let h = Harness::playing(vec![scored(97, -0.5, &[(97, -0.5)]), scored(98, -0.25, &[(98, -0.25)]), length()]).await;
    let chunks = h.chat(&streamed(json!({"logprobs": true, "top_logprobs": 1}))).await.chunks();
    let logprob = |c: &Value| c["choices"][0]["logprobs"]["content"][0]["logprob"].as_f64();
    assert_eq!(chunks.iter().filter_map(logprob).collect::<Vec<_>>(), [-0.5, -0.25]);
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_at_the_replica() {
    let mut h = Harness::playing(vec![tokens(&ids("a")), Step::Hang]).await;
    let mut open = h.open("/v1/chat/completions", &streamed(json!({}))).await;
    assert!(open.event().await.unwrap().contains("\"role\":\"assistant\""));
    assert!(open.event().await.unwrap().contains("\"content\":\"a\""));
    assert_eq!(*h.seen.cancelled.borrow(), 0);
    drop(open);
    soon(h.seen.cancelled.wait_for(|n| *n == 1)).await.unwrap();
}

#[tokio::test]
async fn a_client_that_goes_away_before_the_first_token_cancels_too() {
    for body in [streamed(json!({})), hi_with(json!({}))] {
        let mut h = Harness::playing(vec![Step::Hang]).await;
        let (addr, body) = (h.gateway.addr(), body.to_string());
        let waiting = tokio::spawn(async move {
            crate::client::Open::start(addr, crate::harness::post("/v1/chat/completions", body)).await
        });
        soon(h.seen.requests.recv()).await.unwrap();
        waiting.abort();
        soon(h.seen.cancelled.wait_for(|n| *n == 1)).await.unwrap();
    }
}

#[tokio::test]
async fn a_replica_that_sends_too_much_is_cut_off() {
    let mut h = Harness::playing(vec![tokens(&ids("abc")), Step::Hang]).await;
    let told = h.chat(&hi_with(json!({"max_tokens": 2}))).await;
    assert_eq!(told.error()["code"], "replica_failed");
    soon(h.seen.cancelled.wait_for(|n| *n == 1)).await.unwrap();
}
