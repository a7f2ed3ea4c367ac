//! The prompt told with its answer: `echo`, `prompt_logprobs`, and tokens named by their ids.

use serde_json::{Value, json};

use crate::chat::{hi_with, usage};
use crate::files::{USER, ids};
use crate::harness::Harness;
use crate::scripted::{Step, length, length_of, prompt, scored, tokens, tokens_of};

fn of(prompt: Value, more: Value) -> Value {
    let mut body = json!({"model": "tiny", "prompt": prompt, "echo": true});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn the_prompt_comes_before_the_text_of_every_choice() {
    let script = vec![tokens_of(0, &ids("c")), tokens_of(1, &ids("d")), length_of(0), length_of(1)];
    let h = Harness::playing(script).await;
    for (given, text) in [(json!("aé"), "aé"), (json!([97, USER]), "a<|user|>"), (json!("a<|user|>"), "a<|user|>")] {
        let answer = h.post("/v1/completions", &of(given.clone(), json!({"n": 2}))).await.json();
        let texts: Vec<&str> = (0..2).map(|i| answer["choices"][i]["text"].as_str().unwrap()).collect();
        assert_eq!(texts, [format!("{text}c"), format!("{text}d")], "{given}");
        assert_eq!(answer["choices"][0]["logprobs"], json!(null));
    }
}

#[tokio::test]
async fn echoed_logprobs_have_null_first_and_offsets_over_both() {
    let mut h = Harness::playing(vec![
        prompt(&[(-1.5, &[(98, -0.5)])]),
        prompt(&[(-0.25, &[(0xc3, -0.25)]), (-0.125, &[(0xa9, -0.125)])]),
        scored(33, -0.75, &[(33, -0.75)]),
        length(),
    ])
    .await;
    let answer = h.post("/v1/completions", &of(json!("axé"), json!({"logprobs": 1}))).await.json();
    assert_eq!(answer["choices"][0]["text"], "axé!");
    let expected = json!({
        "text_offset": [0, 1, 2, 2, 3],
        "token_logprobs": [null, -1.5, -0.25, -0.125, -0.75],
        "tokens": ["a", "x", "bytes:\\xc3", "bytes:\\xa9", "!"],
        "top_logprobs": [null, {"b": -0.5, "x": -1.5}, {"bytes:\\xc3": -0.25}, {"bytes:\\xa9": -0.125}, {"!": -0.75}],
    });
    assert_eq!(answer["choices"][0]["logprobs"], expected);
    assert_eq!(h.seen.requests.recv().await.unwrap().1.sampling.prompt_logprobs, Some(1));
}

#[tokio::test]
async fn a_tokens_logprob_is_the_same_number_wherever_it_is_told() {
    // No f64 has few digits for it: written once as f32 and once as f64, it would be two numbers.
    let logprob = -9.293_977_f32;
    let h = Harness::playing(vec![scored(33, logprob, &[(33, logprob)]), length()]).await;
    let body = json!({"model": "tiny", "prompt": "a", "logprobs": 1});
    let told = h.post("/v1/completions", &body).await.json()["choices"][0]["logprobs"].clone();
    assert_eq!(told["token_logprobs"][0], told["top_logprobs"][0]["!"]);
}

#[tokio::test]
async fn without_an_answer_only_the_prompt_is_told() {
    let script = vec![prompt(&[(-1.5, &[(98, -0.5)])]), scored(33, -0.75, &[(33, -0.75)]), length()];
    for stream in [false, true] {
        let mut h = Harness::playing(script.clone()).await;
        let body = of(json!("ab"), json!({"logprobs": 1, "max_tokens": 0, "stream": stream}));
        let told = h.post("/v1/completions", &body).await;
        assert_eq!(told.status, 200, "{}", told.body);
        let choice = if stream { told.chunks()[0]["choices"][0].clone() } else { told.json()["choices"][0].clone() };
        assert_eq!(choice["text"], "ab");
        assert_eq!(choice["logprobs"]["token_logprobs"], json!([null, -1.5]));
        assert_eq!(choice["logprobs"]["tokens"], json!(["a", "b"]));
        if stream {
            assert_eq!(told.chunks()[1]["choices"][0]["finish_reason"], "length");
            assert_eq!(told.chunks().len(), 2);
        } else {
            assert_eq!((&choice["finish_reason"], &told.json()["usage"]), (&json!("length"), &usage(2, 0)));
        }
        let (_, sent) = h.seen.requests.recv().await.unwrap();
        assert_eq!(sent.sampling.max_tokens, 1, "the token that the prompt's own step brings");
    }
    let h = Harness::playing(vec![length()]).await;
    for body in [of(json!("ab"), json!({"max_tokens": 0, "echo": false})), of(json!("ab"), json!({"max_tokens": -1}))] {
        assert_eq!(h.post("/v1/completions", &body).await.error()["param"], "max_tokens");
    }
}

#[tokio::test]
async fn a_stream_begins_with_the_prompt() {
    let script = vec![prompt(&[(-1.5, &[])]), scored(99, -0.5, &[]), scored(100, -0.25, &[]), length()];
    let h = Harness::playing(script).await;
    let chunks = h.post("/v1/completions", &of(json!("ab"), json!({"logprobs": 0, "stream": true}))).await.chunks();
    let choice = |i: usize| &chunks[i]["choices"][0];
    let seen: Vec<_> =
        (0..4).map(|i| (choice(i)["text"].clone(), choice(i)["logprobs"]["text_offset"].clone())).collect();
    let expected = [("ab", json!([0, 1])), ("c", json!([2])), ("d", json!([3])), ("", json!(null))];
    assert_eq!(seen, expected.map(|(text, offsets)| (json!(text), offsets)));
}

#[tokio::test]
async fn prompt_logprobs_are_by_id_as_in_vllm() {
    let script = vec![prompt(&[(-1.5, &[(98, -0.5), (97, -1.25)])]), tokens(&ids("c")), length()];
    let h = Harness::playing(script).await;
    let entry =
        |logprob: f64, rank: Value, text: &str| json!({"logprob": logprob, "rank": rank, "decoded_token": text});
    let expected = json!([null, {"97": entry(-1.25, json!(2), "a"), "98": entry(-0.5, json!(1), "b"), "120": entry(-1.5, json!(null), "x")}]);
    let body = json!({"model": "tiny", "prompt": "ax", "prompt_logprobs": 2});
    let answer = h.post("/v1/completions", &body).await.json();
    assert_eq!(answer["choices"][0]["prompt_logprobs"], expected);
    assert_eq!((&answer["choices"][0]["text"], &answer["choices"][0]["logprobs"]), (&json!("c"), &json!(null)));

    let h = Harness::playing(vec![prompt(&[(-1.0, &[]), (-2.0, &[]), (-3.0, &[])]), length()]).await;
    let answer = h.chat(&hi_with(json!({"prompt_logprobs": 0}))).await.json();
    let told = answer["prompt_logprobs"].as_array().unwrap();
    assert_eq!((told.len(), &told[1]["104"]["logprob"]), (4, &json!(-1.0)));
}

#[tokio::test]
async fn tokens_of_one_text_are_told_apart_by_their_ids() {
    // 0xff and 271 are no text of their own, and 270 and 271 none at all.
    let script = vec![scored(270, -2.0, &[(33, -0.25), (271, -1.0), (269, -1.5)]), length()];
    let h = Harness::playing(script).await;
    let mut body = json!({"model": "tiny", "prompt": "x", "logprobs": 3});
    let collapsed = h.post("/v1/completions", &body).await.json();
    assert_eq!(collapsed["choices"][0]["logprobs"]["top_logprobs"], json!([{"!": -0.25, "": -1.0}]), "the likeliest");
    body["return_tokens_as_token_ids"] = true.into();
    let told = h.post("/v1/completions", &body).await.json()["choices"][0]["logprobs"].clone();
    assert_eq!(told["tokens"], json!(["token_id:270"]));
    let expected = json!([{"token_id:33": -0.25, "token_id:271": -1.0, "token_id:269": -1.5, "token_id:270": -2.0}]);
    assert_eq!(told["top_logprobs"], expected);
    let chat = hi_with(json!({"logprobs": true, "top_logprobs": 1, "return_tokens_as_token_ids": true}));
    let told = h.chat(&chat).await.json()["choices"][0]["logprobs"]["content"][0].clone();
    assert_eq!((&told["token"], &told["top_logprobs"][0]["token"]), (&json!("token_id:270"), &json!("token_id:33")));
}

#[tokio::test]
async fn prompt_logprobs_that_are_missing_are_a_failure_not_a_short_answer() {
    let too_many = prompt(&[(-1.0, &[]), (-1.0, &[])]);
    for script in [vec![tokens(&ids("c")), Step::Hang], vec![too_many, Step::Hang]] {
        let h = Harness::playing(script).await;
        let told = h.post("/v1/completions", &of(json!("ab"), json!({"logprobs": 0}))).await;
        assert_eq!(told.error()["code"], "replica_failed");
        assert!(
            told.error()["message"].as_str().unwrap().contains("prompt logprobs where 1 were due"),
            "{}",
            told.body
        );
    }
}
