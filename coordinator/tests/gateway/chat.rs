//! `/v1/chat/completions`, answered in one piece; and what reaches the replica.

use protocol::generate::Grammar;
use serde_json::{Value, json};

use crate::files::{ANSWER, ASSISTANT, END, USER, ids};
use crate::harness::{CONTEXT, Harness};
use crate::scripted::{length, scored, stop, tokens};

fn hi() -> Value {
    json!({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]})
}

/// `hi` with further fields.
pub(crate) fn hi_with(more: Value) -> Value {
    let mut body = hi();
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// `usage` of an answer to a prompt that was not cached.
pub(crate) fn usage(prompt: u32, completion: u32) -> Value {
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0}})
}

/// The ids of `hi` by the tiny model's template.
pub(crate) fn hi_ids() -> Vec<u32> {
    [vec![USER], ids("hi"), vec![ASSISTANT]].concat()
}

#[tokio::test]
async fn an_answer_has_openais_form() {
    let h = Harness::playing(vec![tokens(&ids("你好")), tokens(&[END]), stop()]).await;
    let told = h.chat(&hi()).await;
    assert_eq!(told.status, 200, "{}", told.body);
    let answer = told.json();
    let request_id = told.headers["x-request-id"].to_str().unwrap();
    assert_eq!(answer["id"], format!("chatcmpl-{request_id}"));
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "tiny");
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    let expected = json!([{"index": 0, "message": {"role": "assistant", "content": "你好", "refusal": null},
        "logprobs": null, "finish_reason": "stop", "stop_reason": null}]);
    assert_eq!(answer["choices"], expected);
    assert_eq!(answer["usage"], usage(4, 7));
    assert_eq!(answer.get("prompt_token_ids"), None);
}

#[tokio::test]
async fn the_replica_gets_the_rendered_prompt_and_the_models_defaults() {
    let mut h = Harness::playing(vec![length()]).await;
    assert_eq!(h.chat(&hi()).await.status, 200);
    let (_, request) = h.seen.requests.recv().await.unwrap();
    assert_eq!(request.prompt_ids, hi_ids());
    let s = &request.sampling;
    assert_eq!((s.temperature, s.top_p, s.top_k, s.min_p), (0.0, 1.0, 0, 0.0), "do_sample is false");
    assert_eq!(s.max_tokens, CONTEXT - 4);
    assert_eq!(s.stop_token_ids, [END, USER]);
    assert_eq!(s.logprobs, None);
    assert!(request.deadline_ms > 500_000);
}

#[tokio::test]
async fn every_sampling_field_reaches_the_replica() {
    let mut h = Harness::playing(vec![length()]).await;
    let body = hi_with(json!({
        "max_completion_tokens": 9, "max_tokens": 5, "temperature": 0.5, "top_p": 0.25, "top_k": -1, "min_p": 0.1,
        "repetition_penalty": 1.5, "presence_penalty": -2, "frequency_penalty": 2, "logit_bias": {"7": -100, "271": 1.5},
        "seed": -1, "stop_token_ids": [ANSWER], "ignore_eos": true, "min_tokens": 2, "logprobs": true, "top_logprobs": 20,
        "user": "u", "metadata": {"a": "b"}, "store": true, "n": 1, "tools": [], "response_format": {"type": "text"},
        "some_unknown_field": {"x": 1}, "stop": null,
    }));
    let told = h.chat(&body).await;
    assert_eq!(told.status, 200, "{}", told.body);
    let (_, request) = h.seen.requests.recv().await.unwrap();
    let s = request.sampling;
    assert_eq!((s.max_tokens, s.min_tokens, s.seed, s.logprobs), (9, 2, u64::MAX, Some(20)));
    assert_eq!((s.temperature, s.top_p, s.top_k, s.min_p), (0.5, 0.25, 0, 0.1));
    assert_eq!((s.repetition_penalty, s.presence_penalty, s.frequency_penalty), (1.5, -2.0, 2.0));
    assert_eq!((s.logit_bias, s.stop_token_ids), (vec![(7, -100.0), (271, 1.5)], vec![ANSWER]));
}

#[tokio::test]
async fn what_the_output_must_match_reaches_the_replica_from_both_endpoints() {
    let mut h = Harness::playing(vec![length()]).await;
    let schema = json!({"type": "object", "properties": {"z": {"type": "string"}, "a": true}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema}});
    let told = h.chat(&hi_with(json!({"response_format": format}))).await;
    assert_eq!(told.status, 200, "{}", told.body);
    let (_, request) = h.seen.requests.recv().await.unwrap();
    assert_eq!(request.sampling.grammar, Some(Grammar::JsonSchema(schema.to_string())), "members keep their order");
    let body = json!({"model": "tiny", "prompt": "hi", "structured_outputs": {"regex": "a+"}});
    assert_eq!(h.post("/v1/completions", &body).await.status, 200);
    let (_, request) = h.seen.requests.recv().await.unwrap();
    assert_eq!(request.sampling.grammar, Some(Grammar::Regex("a+".to_owned())));
}

#[tokio::test]
async fn a_request_without_a_seed_gets_one_of_its_own() {
    let mut h = Harness::playing(vec![length()]).await;
    let mut seeds = Vec::new();
    for _ in 0..2 {
        h.chat(&hi()).await;
        seeds.push(h.seen.requests.recv().await.unwrap().1.sampling.seed);
    }
    assert_ne!(seeds[0], seeds[1]);
}

#[tokio::test]
async fn parts_of_text_are_one_text() {
    let mut h = Harness::playing(vec![length()]).await;
    let parts = json!([{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]);
    let messages = json!([{"role": "developer", "content": "be"}, {"role": "user", "content": parts}]);
    let kwargs = json!({"suffix": "!"});
    let told = h.chat(&json!({"model": "org/alias", "messages": messages, "chat_template_kwargs": kwargs})).await;
    assert_eq!(told.json()["model"], "org/alias");
    let (_, request) = h.seen.requests.recv().await.unwrap();
    // The tiny template does not read parts, so they are joined for it, as vLLM does; `<|system|>` is no special token.
    let expected = [ids("<|system|>be"), vec![USER], ids("h\ni"), vec![ASSISTANT], ids("!")].concat();
    assert_eq!(request.prompt_ids, expected);
}

#[tokio::test]
async fn stop_tokens_are_never_shown_but_counted() {
    let h = Harness::playing(vec![tokens(&[&ids("ok")[..], &[USER]].concat()), stop()]).await;
    let answer = h.chat(&hi_with(json!({"skip_special_tokens": false, "return_token_ids": true}))).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "ok");
    assert_eq!(answer["choices"][0]["token_ids"], json!([111, 107, USER]));
    assert_eq!(answer["prompt_token_ids"], json!(hi_ids()));
    assert_eq!(answer["usage"]["completion_tokens"], 3);

    let shown = hi_with(json!({"skip_special_tokens": false, "include_stop_str_in_output": true}));
    assert_eq!(h.chat(&shown).await.json()["choices"][0]["message"]["content"], "ok<|user|>");
    let skipped = hi_with(json!({"include_stop_str_in_output": true}));
    assert_eq!(h.chat(&skipped).await.json()["choices"][0]["message"]["content"], "ok");
}

#[tokio::test]
async fn a_stop_token_of_the_request_is_named_as_the_reason() {
    let h = Harness::playing(vec![tokens(&[107, ANSWER]), stop()]).await;
    let choice = &h.chat(&hi_with(json!({"stop_token_ids": [ANSWER]}))).await.json()["choices"][0];
    assert_eq!((&choice["message"]["content"], &choice["stop_reason"]), (&json!("k"), &json!(ANSWER)));
}

#[tokio::test]
async fn an_ignored_stop_token_is_text_like_any_other() {
    let h = Harness::playing(vec![tokens(&[107, END, 107]), length()]).await;
    let choice =
        h.chat(&hi_with(json!({"ignore_eos": true, "skip_special_tokens": false}))).await.json()["choices"][0].clone();
    assert_eq!(choice["message"]["content"], "k<|endoftext|>k");
    assert_eq!(choice["finish_reason"], "length");
}

#[tokio::test]
async fn a_stop_string_ends_the_answer_and_cancels_at_the_replica() {
    let mut h = Harness::playing(vec![tokens(&ids("one\ntw")), tokens(&ids("o three")), tokens(&ids("never"))]).await;
    let answer = h.chat(&hi_with(json!({"stop": ["x", "two"], "return_token_ids": true}))).await.json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["content"], "one\n");
    assert_eq!((&choice["finish_reason"], &choice["stop_reason"]), (&json!("stop"), &json!("two")));
    assert_eq!(choice["token_ids"], json!(ids("one\ntwo")), "tokens after the stop string do not count");
    assert_eq!(answer["usage"]["completion_tokens"], 7);
    crate::client::soon(h.seen.cancelled.wait_for(|n| *n == 1)).await.unwrap();

    let answer = h.chat(&hi_with(json!({"stop": "two", "include_stop_str_in_output": true}))).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "one\ntwo");
    let answer = h.chat(&hi_with(json!({"stop": "ne", "min_tokens": 3, "max_tokens": 100}))).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "one\ntwo three", "not in the first three tokens");
}

#[tokio::test]
async fn logprobs_have_text_bytes_and_alternatives() {
    let e4 = 0xe4;
    let h =
        Harness::playing(vec![scored(104, -0.5, &[(104, -0.5), (e4, -1.5), (105, f32::NEG_INFINITY)]), length()]).await;
    let answer = h.chat(&hi_with(json!({"logprobs": true, "top_logprobs": 3}))).await.json();
    let entry = |token: &str, logprob: f64, bytes: Value| json!({"token": token, "logprob": logprob, "bytes": bytes});
    let top = json!([
        entry("h", -0.5, json!([104])),
        entry("\u{fffd}", -1.5, json!([e4])),
        entry("i", -9999.0, json!([105]))
    ]);
    let mut chosen = entry("h", -0.5, json!([104]));
    chosen["top_logprobs"] = top;
    assert_eq!(answer["choices"][0]["logprobs"], json!({"content": [chosen], "refusal": null}));

    let answer = h.chat(&hi_with(json!({"logprobs": true}))).await.json();
    assert_eq!(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"], json!([]));
}

#[tokio::test]
async fn glms_own_path_is_the_same_api() {
    let h = Harness::playing(vec![tokens(&ids("ok")), length()]).await;
    let told = h.post("/api/paas/v4/chat/completions", &hi()).await;
    assert_eq!(told.json()["choices"][0]["message"]["content"], "ok");
}

#[tokio::test]
async fn an_unfinished_character_at_the_end_is_told_as_such() {
    let h = Harness::playing(vec![tokens(&ids("a")), tokens(&[0xe4, 0xbd]), length()]).await;
    assert_eq!(h.chat(&hi()).await.json()["choices"][0]["message"]["content"], "a\u{fffd}");
}
