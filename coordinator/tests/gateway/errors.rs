//! Every way to ask wrongly, and what is said then.

use coordinator::GatewayLimits;
use coordinator::gateway::dispatch::DispatchError;
use http_body_util::Full;
use hyper::Request;
use protocol::generate::GenerateEvent;
use serde_json::{Value, json};

use crate::chat::hi_with;
use crate::files::VOCAB;
use crate::harness::{CONTEXT, Harness, post};
use crate::scripted::{Step, length, tokens};

/// Status, code, param and a piece of the message.
async fn refused(h: &Harness, path: &str, body: &Value) -> (u16, String, Value, String) {
    let told = h.post(path, body).await;
    let error = told.error();
    let text = |key: &str| error[key].as_str().unwrap().to_owned();
    (told.status.as_u16(), text("code"), error["param"].clone(), text("message"))
}

#[tokio::test]
async fn wrong_fields_are_named() {
    let h = Harness::playing(vec![length()]).await;
    let long = "x".repeat(2000);
    let cases = [
        (
            json!({"temperature": "hot"}),
            "invalid_type",
            "temperature",
            "`temperature` must be a number, found a string",
        ),
        (json!({"temperature": 2.5}), "invalid_value", "temperature", "`temperature` is 2.5, expected 0 to 2"),
        (json!({"temperature": -1}), "invalid_value", "temperature", "-1, expected 0 to 2"),
        (json!({"top_p": 0}), "invalid_value", "top_p", "`top_p` is 0, expected above 0 and at most 1"),
        (json!({"top_p": []}), "invalid_type", "top_p", "must be a number, found an array"),
        (json!({"top_k": -2}), "invalid_value", "top_k", "-2"),
        (json!({"top_k": 1.5}), "invalid_type", "top_k", "must be an integer, found a number"),
        (json!({"min_p": 1.1}), "invalid_value", "min_p", "0 to 1"),
        (json!({"repetition_penalty": 0}), "invalid_value", "repetition_penalty", "0.01 to 100"),
        (json!({"presence_penalty": 3}), "invalid_value", "presence_penalty", "-2 to 2"),
        (json!({"frequency_penalty": -2.5}), "invalid_value", "frequency_penalty", "-2 to 2"),
        (json!({"max_tokens": 0}), "invalid_value", "max_tokens", "`max_tokens` is 0, expected 1 to"),
        (json!({"max_tokens": "5"}), "invalid_type", "max_tokens", "must be an integer"),
        (json!({"max_completion_tokens": -1}), "invalid_value", "max_completion_tokens", "-1"),
        (json!({"min_tokens": 9, "max_tokens": 8}), "invalid_value", "min_tokens", "at most max_tokens, here 8"),
        (json!({"seed": 1.5}), "invalid_type", "seed", "must be an integer"),
        (json!({"stop": 5}), "invalid_type", "stop", "must be a string or an array of strings, found an integer"),
        (json!({"stop": ["a", 1]}), "invalid_type", "stop[1]", "must be a string"),
        (json!({"stop": ""}), "invalid_value", "stop", "empty"),
        (json!({"stop": [long]}), "invalid_value", "stop[0]", "2000 bytes"),
        (json!({"stop": vec!["a"; 17]}), "invalid_value", "stop", "17 texts, expected at most 16"),
        (json!({"stop_token_ids": [VOCAB]}), "invalid_value", "stop_token_ids[0]", "272, expected 0 to 271"),
        (json!({"stop_token_ids": 7}), "invalid_type", "stop_token_ids", "must be an array"),
        (json!({"stop_token_ids": (0..63).collect::<Vec<u32>>()}), "invalid_value", "stop_token_ids", "65 ids"),
        (json!({"logit_bias": [1]}), "invalid_type", "logit_bias", "must be an object"),
        (json!({"logit_bias": {"x": 1}}), "invalid_value", "logit_bias", "for token x, expected token ids below 272"),
        (json!({"logit_bias": {"272": 1}}), "invalid_value", "logit_bias", "for token 272"),
        (json!({"logit_bias": {"1": 101}}), "invalid_value", "logit_bias.1", "-100 to 100"),
        (json!({"logprobs": 1}), "invalid_type", "logprobs", "must be a boolean"),
        (json!({"top_logprobs": 2}), "invalid_value", "top_logprobs", "0 unless `logprobs` is true"),
        (json!({"logprobs": true, "top_logprobs": 21}), "invalid_value", "top_logprobs", "0 to 20"),
        (json!({"stream": "yes"}), "invalid_type", "stream", "must be a boolean"),
        (json!({"stream_options": {}}), "invalid_value", "stream_options", "together with `stream`"),
        (json!({"stream": true, "stream_options": 1}), "invalid_type", "stream_options", "an object"),
        (
            json!({"stream": true, "stream_options": {"include_usage": 1}}),
            "invalid_type",
            "stream_options.include_usage",
            "a boolean",
        ),
        (json!({"model": 5}), "invalid_type", "model", "must be a string"),
        (json!({"response_format": "json"}), "invalid_type", "response_format", "must be an object, found a string"),
        (
            json!({"response_format": {"type": "x"}}),
            "invalid_value",
            "response_format.type",
            "json_object or json_schema",
        ),
        (
            json!({"guided_regex": "a", "guided_choice": ["a"]}),
            "invalid_value",
            "guided_choice",
            "besides `guided_regex`",
        ),
        (json!({"n": 0}), "invalid_value", "n", "`n` is 0, expected 1 to 128"),
        (json!({"n": 129}), "invalid_value", "n", "1 to 128"),
        (json!({"n": 1.5}), "invalid_type", "n", "must be an integer"),
        (json!({"prompt_logprobs": 21}), "invalid_value", "prompt_logprobs", "0 to 20"),
        (json!({"prompt_logprobs": 1, "stream": true}), "invalid_value", "prompt_logprobs", "only without `stream`"),
        (json!({"return_tokens_as_token_ids": 1}), "invalid_type", "return_tokens_as_token_ids", "a boolean"),
        (json!({"priority": "high"}), "invalid_type", "priority", "must be an integer"),
        (json!({"cache_salt": "s".repeat(257)}), "invalid_value", "cache_salt", "at most 256 bytes"),
        (json!({"model": null}), "missing_required_parameter", "model", "`model` is required"),
        (json!({"chat_template_kwargs": []}), "invalid_type", "chat_template_kwargs", "an object"),
    ];
    for (fields, code, param, message) in cases {
        let (status, found_code, found_param, found) =
            refused(&h, "/v1/chat/completions", &hi_with(fields.clone())).await;
        assert_eq!((status, found_code.as_str(), found_param.as_str()), (400, code, Some(param)), "{fields}: {found}");
        assert!(found.contains(message), "{found}");
    }
}

#[tokio::test]
async fn wrong_messages_are_named() {
    let h = Harness::playing(vec![length()]).await;
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    let image = json!([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:"}}]);
    let cases = [
        (json!(null), "missing_required_parameter", "messages", "`messages` is required"),
        (json!("hi"), "invalid_type", "messages", "must be an array, found a string"),
        (json!([]), "invalid_value", "messages", "0 messages"),
        (json!([1]), "invalid_type", "messages[0]", "an object"),
        (json!([{"content": "x"}]), "missing_required_parameter", "messages[0].role", "required"),
        (
            json!([{"role": "wizard", "content": "x"}]),
            "invalid_value",
            "messages[0].role",
            "one of system, developer, user, assistant",
        ),
        (json!([{"role": "tool", "content": "x"}]), "unsupported_parameter", "messages[0].role", "tool calls"),
        (json!([{"role": "user"}]), "missing_required_parameter", "messages[0].content", "required"),
        (user(json!(5)), "invalid_type", "messages[0].content", "a string or an array of parts"),
        (user(image), "unsupported_parameter", "messages[0].content[1].image_url", "the model reads text alone"),
        (
            user(json!([{"type": "video_url", "video_url": {"url": "data:"}}])),
            "unsupported_parameter",
            "messages[0].content[0].video_url",
            "parts of type `text` and `image_url` only",
        ),
        (user(json!([{"text": "x"}])), "missing_required_parameter", "messages[0].content[0].type", "required"),
        (user(json!([{"type": "text"}])), "missing_required_parameter", "messages[0].content[0].text", "required"),
        (user(json!(["x"])), "invalid_type", "messages[0].content[0]", "an object"),
        (
            json!([{"role": "assistant", "content": "", "tool_calls": [{}]}]),
            "unsupported_parameter",
            "messages[0].tool_calls",
            "tool calls",
        ),
    ];
    for (messages, code, param, message) in cases {
        let body = json!({"model": "tiny", "messages": messages});
        let (status, found_code, found_param, found) = refused(&h, "/v1/chat/completions", &body).await;
        assert_eq!(
            (status, found_code.as_str(), found_param.as_str()),
            (400, code, Some(param)),
            "{messages}: {found}"
        );
        assert!(found.contains(message), "{found}");
    }
}

#[tokio::test]
async fn what_would_change_the_answer_is_refused_by_name() {
    let h = Harness::playing(vec![length()]).await;
    let chat = json!({
        "best_of": 2, "tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required",
        "functions": [{}], "guided_whitespace_pattern": " ", "structural_tag": {"x": 1},
        "modalities": ["text", "audio"], "echo": true, "chat_template": "x", "bad_words": ["x"],
        "continue_final_message": true,
    });
    for (param, value) in chat.as_object().unwrap() {
        let (status, code, found, message) = refused(&h, "/v1/chat/completions", &hi_with(json!({param: value}))).await;
        assert_eq!(
            (status, code.as_str(), found.as_str()),
            (400, "unsupported_parameter", Some(param.as_str())),
            "{message}"
        );
    }
    for (param, value) in json!({"suffix": "x", "best_of": 3}).as_object().unwrap() {
        let (_, code, found, _) =
            refused(&h, "/v1/completions", &json!({"model": "tiny", "prompt": "x", param: value})).await;
        assert_eq!((code.as_str(), found.as_str()), ("unsupported_parameter", Some(param.as_str())));
    }
}

#[tokio::test]
async fn wrong_prompts_are_named() {
    let h = Harness::playing(vec![length()]).await;
    let cases = [
        (json!(null), "missing_required_parameter", "prompt"),
        (json!(""), "invalid_value", "prompt"),
        (json!([]), "invalid_value", "prompt"),
        (json!(5), "invalid_type", "prompt"),
        (json!(["a", ""]), "invalid_value", "prompt"),
        (json!(["a", 1]), "invalid_type", "prompt[1]"),
        (json!(vec!["a"; 129]), "invalid_value", "prompt"),
        (json!([1, VOCAB]), "invalid_value", "prompt[1]"),
        (json!([1, -1]), "invalid_value", "prompt[1]"),
        (json!([1, 1.5]), "invalid_type", "prompt[1]"),
        (json!([[1, "a"]]), "invalid_type", "prompt[0][1]"),
        (json!([{}]), "invalid_type", "prompt[0]"),
    ];
    for (prompt, code, param) in cases {
        let (status, found, found_param, message) =
            refused(&h, "/v1/completions", &json!({"model": "tiny", "prompt": prompt})).await;
        assert_eq!((status, found.as_str(), found_param.as_str()), (400, code, Some(param)), "{prompt}: {message}");
    }
}

#[tokio::test]
async fn a_prompt_beyond_the_context_is_refused_with_the_numbers() {
    let mut h = Harness::playing(vec![length()]).await;
    let most = CONTEXT as usize;
    let ask = |tokens: usize, max: Value| json!({"model": "tiny", "prompt": "x".repeat(tokens), "max_tokens": max});
    for (body, param, numbers) in [
        (ask(most, json!(null)), "prompt", ["maximum context length is 256", "the prompt has 256 tokens"]),
        (ask(most - 1, json!(2)), "max_tokens", ["255 tokens", "2 more were asked for"]),
        // Too long even to be encoded: no token has more than 13 bytes.
        (ask(most * 13 + 1, json!(1)), "prompt", ["is 256 tokens", "at least 257 tokens"]),
    ] {
        let (status, code, found, message) = refused(&h, "/v1/completions", &body).await;
        assert_eq!((status, code.as_str(), found.as_str()), (400, "context_length_exceeded", Some(param)), "{message}");
        assert!(numbers.iter().all(|n| message.contains(n)), "{message}");
    }
    assert_eq!(h.post("/v1/completions", &ask(most - 1, json!(1))).await.status, 200);
    assert_eq!(h.seen.requests.recv().await.unwrap().1.sampling.max_tokens, 1);
}

#[tokio::test]
async fn what_is_no_request_at_all_gets_the_same_object() {
    let h = Harness::playing(vec![length()]).await;
    let told = h.send(post("/v1/chat/completions", "{\n\"model\": \"tiny\",,}")).await;
    assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (400, Some("invalid_json")));
    assert!(told.error()["message"].as_str().unwrap().ends_with("at line 2 column 17"), "{}", told.body);
    let told = h.send(post("/v1/chat/completions", "[]")).await;
    assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (400, Some("invalid_type")));
    let told = h.send(post("/v1/chat/completions", "")).await;
    assert_eq!(told.error()["code"], "invalid_json");
    let told = h.get("/v1/nothing").await;
    assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (404, Some("unknown_url")));
    assert_eq!(h.get("/").await.error()["message"], "unknown request URL: GET /");
    let told = h.get("/v1/chat/completions").await;
    assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (405, Some("method_not_allowed")));
    let delete = Request::delete("/v1/models").header("host", "x").body(Full::default()).unwrap();
    let told = h.send(delete).await;
    assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (405, Some("method_not_allowed")));
    let (status, code, param, message) = refused(&h, "/v1/chat/completions", &hi_with(json!({"model": "gpt"}))).await;
    assert_eq!((status, code.as_str(), param.as_str()), (404, "model_not_found", Some("model")));
    assert_eq!(message, "the model `gpt` does not exist");
}

#[tokio::test]
async fn a_body_over_the_limit_is_413() {
    let limits = GatewayLimits { body_bytes_max: 1000, ..GatewayLimits::default() };
    let h = Harness::with(vec![Ok(vec![length()])], 1, limits).await;
    let told = h.chat(&hi_with(json!({"user": "x".repeat(1000)}))).await;
    assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (413, Some("request_too_large")));
    assert_eq!(h.chat(&hi_with(json!({"user": "x".repeat(800)}))).await.status, 200);
}

#[tokio::test]
async fn request_ids_are_returned_and_followed() {
    let mut h = Harness::playing(vec![length()]).await;
    let hex = "00112233445566778899aabbccddeeff";
    for sent in [hex, "my-own-id"] {
        let mut request = post("/v1/chat/completions", hi_with(json!({})).to_string());
        request.headers_mut().insert("x-request-id", sent.parse().unwrap());
        let told = h.send(request).await;
        assert_eq!(told.headers["x-request-id"], sent);
        let inside = h.seen.requests.recv().await.unwrap().1.request_id.to_string();
        assert_eq!(told.json()["id"], format!("chatcmpl-{inside}"));
        assert_eq!(inside == hex, sent == hex);
    }
    assert!(h.get("/v1/nothing").await.headers.contains_key("x-request-id"));
}

#[tokio::test]
async fn no_replica_is_503_with_a_time_to_retry() {
    let h = Harness::playing(vec![length()]).await;
    h.serve(0);
    let told = h.chat(&hi_with(json!({}))).await;
    assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (503, Some("no_replica_ready")));
    assert_eq!(told.headers["retry-after"], "2");
    assert_eq!(told.error()["type"], "server_error");
}

#[tokio::test]
async fn failures_before_the_first_token_are_told_by_status() {
    let reason = || "down".to_owned();
    let failed = |retryable| vec![Step::Event(GenerateEvent::Failed { reason: reason(), retryable })];
    let cases = [
        (Err(DispatchError::Unreachable { reason: reason() }), 502, "replica_lost", true),
        (Err(DispatchError::Busy { reason: reason(), retry: None }), 503, "replica_overloaded", true),
        (Err(DispatchError::Refused { reason: reason() }), 502, "replica_failed", false),
        (Err(DispatchError::BadRequest { reason: reason() }), 400, "invalid_request", false),
        (Ok(vec![Step::Break(DispatchError::Lost { reason: reason() })]), 502, "replica_lost", true),
        (Ok(vec![Step::Break(DispatchError::Deadline)]), 504, "deadline_exceeded", false),
        (Ok(failed(true)), 502, "replica_lost", true),
        (Ok(failed(false)), 502, "replica_failed", false),
    ];
    for (script, status, code, elsewhere) in cases {
        let h = Harness::with(vec![script.clone()], 1, GatewayLimits::default()).await;
        for stream in [false, true] {
            let told = h.chat(&hi_with(json!({"stream": stream}))).await;
            assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (status, Some(code)), "{script:?}");
        }
        // With a second replica the client does not notice, unless the request itself is to blame.
        let good = Ok(vec![tokens(&[107]), length()]);
        let h = Harness::with(vec![script.clone(), good], 2, GatewayLimits::default()).await;
        let told = h.chat(&hi_with(json!({}))).await;
        assert_eq!(told.status.as_u16(), if elsewhere { 200 } else { status }, "{script:?}");
    }
}

#[tokio::test]
async fn a_client_that_still_sends_sees_the_refusal() {
    let limits = GatewayLimits { body_bytes_max: 1000, ..GatewayLimits::default() };
    let h = Harness::with(vec![Ok(vec![length()])], 1, limits).await;
    let large = "x".repeat(8 << 20);
    let told = h.send(post("/v1/chat/completions", large.clone())).await;
    assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (413, Some("request_too_large")));
    assert_eq!(h.send(post("/v1/nothing", large)).await.error()["code"], "unknown_url");
}
