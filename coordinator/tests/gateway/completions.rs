//! `/v1/completions` and `/v1/models`.

use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::chat::usage;
use crate::client::{h2c, soon};
use crate::files::{END, ids};
use crate::harness::{CONTEXT, Harness, post};
use crate::scripted::{Step, length, scored, stop, tokens};

fn of(prompt: Value) -> Value {
    json!({"model": "tiny", "prompt": prompt})
}

#[tokio::test]
async fn a_prompt_is_text_or_ids_or_a_list_of_one_of_these() {
    let mut h = Harness::playing(vec![length()]).await;
    for prompt in [json!("ab"), json!([97, 98]), json!(["ab"]), json!([[97, 98]])] {
        let told = h.post("/v1/completions", &of(prompt)).await;
        assert_eq!(told.status, 200, "{}", told.body);
        let (_, request) = h.seen.requests.recv().await.unwrap();
        assert_eq!(request.prompt_ids, [97, 98]);
        assert_eq!(request.sampling.max_tokens, CONTEXT - 2);
    }
}

#[tokio::test]
async fn an_answer_has_openais_form() {
    let h = Harness::playing(vec![tokens(&ids("cd")), tokens(&[END]), stop()]).await;
    let mut body = of(json!([97]));
    body["return_token_ids"] = true.into();
    let answer = h.post("/v1/completions", &body).await.json();
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(answer["object"], "text_completion");
    let expected = json!([{"index": 0, "text": "cd", "logprobs": null, "finish_reason": "stop", "stop_reason": null,
        "token_ids": [99, 100, END], "prompt_token_ids": [97]}]);
    assert_eq!(answer["choices"], expected);
    assert_eq!(answer["usage"], usage(1, 3));
}

#[tokio::test]
async fn logprobs_have_openais_older_form() {
    let script = vec![
        scored(0xe4, -0.25, &[(0xe4, -0.25), (97, -2.0)]),
        scored(0xbd, -0.5, &[(0xbd, -0.5), (97, -2.0)]),
        scored(0xa0, -1.0, &[(97, -0.5), (98, -0.75)]),
        scored(33, -0.125, &[(33, -0.125), (97, -3.0)]),
        length(),
    ];
    let h = Harness::playing(script).await;
    let body = json!({"model": "tiny", "prompt": "x", "logprobs": 1});
    let answer = h.post("/v1/completions", &body).await.json();
    assert_eq!(answer["choices"][0]["text"], "你!");
    let expected = json!({
        "text_offset": [0, 0, 0, 1],
        "token_logprobs": [-0.25, -0.5, -1.0, -0.125],
        "tokens": ["bytes:\\xe4", "bytes:\\xbd", "bytes:\\xa0", "!"],
        "top_logprobs": [{"bytes:\\xe4": -0.25}, {"bytes:\\xbd": -0.5}, {"a": -0.5, "bytes:\\xa0": -1.0}, {"!": -0.125}],
    });
    assert_eq!(answer["choices"][0]["logprobs"], expected);
}

#[tokio::test]
async fn a_stream_tells_the_same_text_ids_and_logprobs() {
    let script = vec![scored(0xc3, -0.5, &[]), scored(0xa9, -0.25, &[]), length()];
    let h = Harness::playing(script).await;
    let body = json!({"model": "tiny", "prompt": "x", "stream": true, "logprobs": 0, "return_token_ids": true,
        "stream_options": {"include_usage": true}});
    let chunks = h.post("/v1/completions", &body).await.chunks();
    let choice = |i: usize| &chunks[i]["choices"][0];
    assert_eq!((choice(0)["text"].as_str(), &choice(0)["token_ids"]), (Some(""), &json!([0xc3])));
    assert_eq!(choice(0)["prompt_token_ids"], json!([120]));
    assert_eq!((choice(1)["text"].as_str(), &choice(1)["token_ids"]), (Some("é"), &json!([0xa9])));
    assert_eq!(choice(1).get("prompt_token_ids"), None);
    assert_eq!(choice(1)["logprobs"]["token_logprobs"], json!([-0.25]));
    assert_eq!((choice(2)["text"].as_str(), &choice(2)["finish_reason"]), (Some(""), &json!("length")));
    assert_eq!(chunks[2]["usage"], json!(null));
    assert_eq!(chunks[3]["choices"], json!([]));
    assert_eq!(chunks[3]["usage"], usage(1, 2));
    assert_eq!(chunks.len(), 4);
}

#[tokio::test]
async fn models_are_listed_under_every_name() {
    let h = Harness::playing(vec![]).await;
    for path in ["/v1/models", "/api/paas/v4/models"] {
        let list = h.get(path).await.json();
        assert_eq!(list["object"], "list");
        let entry = |i: usize| (list["data"][i]["id"].clone(), list["data"][i]["max_model_len"].clone());
        assert_eq!([entry(0), entry(1)], [(json!("tiny"), json!(CONTEXT)), (json!("org/alias"), json!(CONTEXT))]);
    }
    assert_eq!(h.get("/v1/models/org/alias").await.json()["id"], "org/alias");
    let error = h.get("/v1/models/nope").await.error();
    assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")));
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let h = Harness::unready(vec![], coordinator::GatewayLimits::default()).await;
    std::fs::remove_file(h.dir.path().join("tokenizer.json")).unwrap();
    h.serve(1);
    let body = of(json!("x"));
    soon(async {
        while h.post("/v1/completions", &body).await.error()["code"] == "model_loading" {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let told = h.post("/v1/completions", &body).await;
    assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (503, Some("model_unavailable")));
    assert!(told.error()["message"].as_str().unwrap().contains("tokenizer.json: No such file"), "{}", told.body);
    let reason = h.get("/health/ready").await.json()["reasons"][0].as_str().unwrap().to_owned();
    assert!(reason.contains("deployment `main`: ") && reason.contains("tokenizer.json"), "{reason}");
}

#[tokio::test]
async fn http2_without_tls_is_served_and_a_reset_cancels() {
    let mut h = Harness::playing(vec![tokens(&ids("ok")), Step::Hang]).await;
    let (mut sender, connection) = h2c(h.gateway.addr()).await;
    let mut body = of(json!("x"));
    body["stream"] = true.into();
    let mut request = post("/v1/completions", body.to_string());
    *request.uri_mut() = format!("http://{}/v1/completions", h.gateway.addr()).parse().unwrap();
    request.headers_mut().remove("host");
    let mut response = soon(sender.send_request(request)).await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, hyper::Version::HTTP_2));
    let frame = soon(response.body_mut().frame()).await.unwrap().unwrap();
    assert!(frame.into_data().unwrap().starts_with(b"data: {"));
    drop(response);
    soon(h.seen.cancelled.wait_for(|n| *n == 1)).await.unwrap();
    assert!(!connection.is_finished(), "only the stream was reset");
    connection.abort();
}
