//! A client's view, by the `async-openai` crate: the reference's answers, streams, errors, stop, logprobs, unicode; and
//! the binary's own commands against the same cluster.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::types::chat::{CreateChatCompletionRequest, CreateChatCompletionResponse, FinishReason};
use async_openai::types::completions::CreateCompletionRequest;
use coordinator::metrics::names;
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::goldens::{Golden, about_pictures, text_only};
use crate::harness::Cluster;

/// Within which a coordinator must tell what an engine counted.
const TOLD_WITHIN: Duration = Duration::from_secs(30);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(100);

type OpenAi = Client<OpenAIConfig>;

fn client(cluster: &Cluster) -> OpenAi {
    // The client's HTTP library asks for a provider even where it speaks plain HTTP.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = OpenAIConfig::new().with_api_base(format!("{}/v1", cluster.url())).with_api_key("none");
    Client::with_config(config)
}

fn request(golden: &Golden, more: Value) -> CreateChatCompletionRequest {
    let mut request = json!({
        "model": "autoglm-nano", "messages": golden.messages, "temperature": 0.0,
        "frequency_penalty": golden.frequency_penalty, "max_tokens": golden.max_tokens,
    });
    let fields = request.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("an object").clone());
    serde_json::from_value(request).expect("a request")
}

async fn ask(client: &OpenAi, golden: &Golden, more: Value) -> CreateChatCompletionResponse {
    client.chat().create(request(golden, more)).await.unwrap_or_else(|e| panic!("{}: {e}", golden.id))
}

fn text(response: &CreateChatCompletionResponse) -> &str {
    response.choices[0].message.content.as_deref().expect("content")
}

async fn stream(client: &OpenAi, golden: &Golden, more: Value) -> (Vec<String>, Option<FinishReason>) {
    let mut stream = client.chat().create_stream(request(golden, more)).await.expect("a stream");
    let (mut pieces, mut finish) = (Vec::new(), None);
    while let Some(chunk) = stream.next().await {
        for choice in chunk.unwrap_or_else(|e| panic!("{}: {e}", golden.id)).choices {
            pieces.extend(choice.delta.content);
            finish = choice.finish_reason.or(finish);
        }
    }
    (pieces, finish)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_answers_as_the_reference_does_and_leaves_nothing_behind() {
    let cluster = Cluster::start(&[]);
    let client = client(&cluster);
    let goldens = text_only();

    let models = client.models().list().await.expect("models");
    assert_eq!(models.data.iter().map(|m| m.id.as_str()).collect::<Vec<_>>(), ["autoglm-nano"]);

    equals_the_reference(&client, &goldens).await;
    neighbours_change_nothing(&client, &goldens).await;
    stops_and_limits(&client, &goldens[0]).await;
    logprobs(&client, &goldens[0]).await;
    completions(&client, &goldens[0]).await;
    structured(&client, &goldens[0]).await;
    choices(&client, &goldens[0]).await;
    echo(&client, &goldens[0]).await;
    pictures(&cluster, &client).await;
    errors(&client, &goldens[0]).await;
    terms(&cluster, &goldens[0]).await;
    commands(&cluster);
    strangers(&cluster);

    cluster.interrupt_and_check_nothing_is_left();
}

async fn equals_the_reference(client: &OpenAi, goldens: &[Golden]) {
    let mut wrong = String::new();
    for golden in goldens {
        let whole = ask(client, golden, json!({})).await;
        if text(&whole) != golden.text {
            writeln!(wrong, "{}: expected {:?}, found {:?}", golden.id, golden.text, text(&whole)).expect("a String");
            continue;
        }
        let expected = if golden.stops { FinishReason::Stop } else { FinishReason::Length };
        assert_eq!(whole.choices[0].finish_reason, Some(expected), "{}", golden.id);
        let usage = whole.usage.expect("usage");
        assert_eq!(usage.prompt_tokens as usize, golden.prompt_ids.len(), "{}", golden.id);
        assert_eq!(usage.completion_tokens as usize, golden.ids.len(), "{}", golden.id);
        let (pieces, finish) = stream(client, golden, json!({})).await;
        assert_eq!(pieces.concat(), golden.text, "{} streamed", golden.id);
        assert!(pieces.iter().all(|p| !p.contains('\u{fffd}')), "{}: a split code point in {pieces:?}", golden.id);
        assert_eq!(finish, Some(expected), "{}", golden.id);
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Answers about pictures, alone and beside each other; each picture is encoded once, however often it comes.
async fn pictures(cluster: &Cluster, client: &OpenAi) {
    let goldens = about_pictures();
    equals_the_reference(client, &goldens).await;
    neighbours_change_nothing(client, &goldens).await;
    let started = Instant::now();
    let encoded = loop {
        let metrics = reqwest::get(format!("{}/metrics", cluster.url())).await.expect("an answer");
        let text = metrics.text().await.expect("text");
        let value = |metric: names::Metric| {
            let line = text.lines().find(|l| l.starts_with(metric.name) && !l.starts_with('#'))?;
            line.rsplit_once(' ')?.1.parse::<f64>().ok()
        };
        // Whole, streamed, and eight of them once more.
        if value(names::PICTURE_QUERIES).is_some_and(|queries| queries >= 2.0 * 16.0 + 8.0) {
            break value(names::PICTURES_ENCODED);
        }
        assert!(started.elapsed() < TOLD_WITHIN, "{text}");
        tokio::time::sleep(LOOK).await;
    };
    assert_eq!(encoded, Some(8.0));
}

async fn neighbours_change_nothing(client: &OpenAi, goldens: &[Golden]) {
    let asked = goldens.iter().take(8).map(|g| async move { (g, ask(client, g, json!({})).await) });
    for (golden, answer) in futures_util::future::join_all(asked).await {
        assert_eq!(text(&answer), golden.text, "{} among eight", golden.id);
    }
}

async fn stops_and_limits(client: &OpenAi, golden: &Golden) {
    let middle = golden.text.char_indices().nth(golden.text.chars().count() / 2).expect("a middle").0;
    let stop: String = golden.text[middle..].chars().take(3).collect();
    let before = golden.text.split(&stop).next().expect("a first part");
    let whole = ask(client, golden, json!({ "stop": [stop] })).await;
    assert_eq!(text(&whole), before, "stop at {stop:?}");
    let (pieces, finish) = stream(client, golden, json!({ "stop": [stop] })).await;
    assert_eq!((pieces.concat().as_str(), finish), (before, Some(FinishReason::Stop)));

    let cut = ask(client, golden, json!({ "max_tokens": 3 })).await;
    assert_eq!(cut.choices[0].finish_reason, Some(FinishReason::Length));
    assert_eq!(cut.usage.expect("usage").completion_tokens, 3);
}

async fn logprobs(client: &OpenAi, golden: &Golden) {
    let answer = ask(client, golden, json!({ "logprobs": true, "top_logprobs": 4 })).await;
    let tokens = answer.choices[0].logprobs.as_ref().and_then(|l| l.content.as_ref()).expect("logprobs");
    assert!(tokens.len() + 1 >= golden.ids.len(), "{} of {}", tokens.len(), golden.ids.len());
    for token in tokens {
        let best: Vec<f32> = token.top_logprobs.iter().map(|t| t.logprob).collect();
        assert_eq!(best.len(), 4);
        assert!(best.is_sorted_by(|a, b| a >= b) && token.logprob <= 0.0, "{token:?}");
        assert!((token.logprob - best[0]).abs() < 1e-6, "greedy takes the best: {token:?}");
    }
}

async fn completions(client: &OpenAi, golden: &Golden) {
    let request: CreateCompletionRequest = serde_json::from_value(json!({
        "model": "autoglm-nano", "prompt": golden.prompt_ids, "temperature": 0.0,
        "frequency_penalty": golden.frequency_penalty, "max_tokens": golden.max_tokens,
    }))
    .expect("a request");
    let answer = client.completions().create(request).await.expect("a completion");
    assert_eq!(answer.choices[0].text, golden.text);
}

/// JSON that a schema admits, whole and streamed; a bad schema is told to whoever sent it.
async fn structured(client: &OpenAi, golden: &Golden) {
    let format = |schema: Value| {
        let schema = json!({ "name": "tap", "strict": true, "schema": schema });
        json!({ "response_format": { "type": "json_schema", "json_schema": schema }, "max_tokens": 400 })
    };
    let tap = format(json!({
        "type": "object", "required": ["app", "at"], "additionalProperties": false,
        "properties": {
            "app": { "type": "string", "maxLength": 10 },
            "at": { "type": "array", "items": { "type": "integer", "minimum": 0, "maximum": 2400 }, "minItems": 2, "maxItems": 2 },
        },
    }));
    let whole = ask(client, golden, tap.clone()).await;
    assert_eq!(whole.choices[0].finish_reason, Some(FinishReason::Stop));
    let object: Value = serde_json::from_str(text(&whole)).expect("JSON");
    assert_eq!(object.as_object().expect("an object").len(), 2, "{object}");
    assert!(object["app"].as_str().is_some_and(|app| app.chars().count() <= 10), "{object}");
    assert!(object["at"].as_array().is_some_and(|at| at.len() == 2 && at.iter().all(Value::is_u64)), "{object}");
    assert_eq!(stream(client, golden, tap).await.0.concat(), text(&whole));
    match client.chat().create(request(golden, format(json!({ "type": "strnig" })))).await {
        Err(OpenAIError::ApiError(e)) => {
            assert_eq!((e.status_code.as_u16(), e.api_error.code.as_deref()), (400, Some("invalid_request")), "{e}");
            assert!(e.api_error.message.contains("strnig"), "{e}");
        }
        other => panic!("a schema without a type, and {other:?}"),
    }
}

async fn choices(client: &OpenAi, golden: &Golden) {
    let greedy = ask(client, golden, json!({ "n": 2 })).await;
    let texts: Vec<_> = greedy.choices.iter().map(|c| (c.index, c.message.content.as_deref())).collect();
    assert_eq!(texts, [(0, Some(golden.text.as_str())), (1, Some(golden.text.as_str()))]);
    let usage = greedy.usage.expect("usage");
    let expected = (golden.prompt_ids.len(), 2 * golden.ids.len());
    assert_eq!((usage.prompt_tokens as usize, usage.completion_tokens as usize), expected);
    assert!(usage.prompt_tokens_details.and_then(|d| d.cached_tokens).is_some(), "found in the cache by now");

    let sampled = json!({ "n": 3, "temperature": 2.0, "seed": 7, "max_tokens": 16 });
    let whole = ask(client, golden, sampled.clone()).await;
    let whole: Vec<String> = whole.choices.into_iter().map(|c| c.message.content.expect("content")).collect();
    assert!(whole.iter().any(|text| *text != whole[0]), "three times {:?}", whole[0]);
    let mut stream = client.chat().create_stream(request(golden, sampled)).await.expect("a stream");
    let mut streamed = vec![String::new(); 3];
    while let Some(chunk) = stream.next().await {
        for choice in chunk.expect("a chunk").choices {
            streamed[choice.index as usize] += &choice.delta.content.unwrap_or_default();
        }
    }
    assert_eq!(streamed, whole);
}

/// Tokens have the same logprobs, to the last digit told, whether they were generated one by one or stand in a prompt.
async fn echo(client: &OpenAi, golden: &Golden) {
    let complete = async |prompt: Value, more: Value| {
        let mut request = json!({
            "model": "autoglm-nano", "prompt": prompt, "temperature": 0.0, "logprobs": 1,
            "frequency_penalty": golden.frequency_penalty,
        });
        request.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let request: CreateCompletionRequest = serde_json::from_value(request).expect("a request");
        client.completions().create(request).await.expect("a completion")
    };
    let tokens = golden.ids.len().min(8);
    let told = complete(json!(golden.prompt_ids), json!({ "max_tokens": tokens })).await;
    let generated = told.choices[0].logprobs.clone().expect("logprobs").token_logprobs;
    let whole = [golden.prompt_ids.as_slice(), &golden.ids[..tokens]].concat();
    let told = complete(json!([whole, whole]), json!({ "max_tokens": 0, "echo": true, "n": 2 })).await;
    assert_eq!(told.usage.expect("usage").completion_tokens, 0);
    assert_eq!(told.choices.iter().map(|c| c.index).collect::<Vec<_>>(), [0, 1, 2, 3]);
    for choice in &told.choices {
        let logprobs = choice.logprobs.as_ref().expect("logprobs");
        assert_eq!((logprobs.token_logprobs.len(), logprobs.token_logprobs[0]), (whole.len(), None));
        assert_eq!(logprobs.token_logprobs[golden.prompt_ids.len()..], generated);
        assert_eq!((logprobs.tokens.len(), logprobs.text_offset.len()), (whole.len(), whole.len()));
    }
}

async fn terms(cluster: &Cluster, golden: &Golden) {
    let late: &[&str] = &["queue_timeout", "deadline_unmeetable", "deadline_exceeded"];
    for (header, value, codes) in [
        ("x-priority", "urgent", ["invalid_value"].as_slice()),
        ("x-request-timeout-ms", "0", &["invalid_value"]),
        ("x-request-timeout-ms", "1", late),
    ] {
        let base = format!("{}/v1", cluster.url());
        let config = OpenAIConfig::new().with_api_base(base).with_api_key("none").with_header(header, value);
        let client = Client::with_config(config.expect("a header"));
        match client.chat().create(request(golden, json!({}))).await {
            Err(OpenAIError::ApiError(e)) => {
                // Of a server's own failures this crate keeps the body as the message.
                let told = e.api_error.code.as_deref().unwrap_or(&e.api_error.message);
                assert!(codes.iter().any(|code| told.contains(code)), "{header}: {value}: {e}");
            }
            other => panic!("{header}: {value}: {other:?}"),
        }
    }
}

async fn errors(client: &OpenAi, golden: &Golden) {
    let long = json!([{ "role": "user", "content": "打开微信 ".repeat(20_000) }]);
    for (more, status, code) in [
        (json!({ "model": "no-such-model" }), 404, "model_not_found"),
        (json!({ "temperature": 9.0 }), 400, "invalid_value"),
        (json!({ "messages": long }), 400, "context_length_exceeded"),
    ] {
        match client.chat().create(request(golden, more.clone())).await {
            Err(OpenAIError::ApiError(e)) => {
                assert_eq!((e.status_code.as_u16(), e.api_error.code.as_deref()), (status, Some(code)), "{e}");
            }
            other => panic!("expected {code}, found {other:?}"),
        }
    }
    assert_eq!(text(&ask(client, golden, json!({})).await), golden.text, "the server goes on");
}

/// A host with a token of another cluster, or with a wrong secret, is refused, and nothing of it stays.
fn strangers(cluster: &Cluster) {
    let home = cluster.state_dir();
    let token = std::fs::read_to_string(home.join("join-token")).expect("the token");
    let token = token.trim();
    let (ca, secret) = (&token[6..70], &token[71..]);
    let wrong_secret = format!("sglm1-{ca}-{}", "0".repeat(secret.len()));
    let wrong_ca = format!("sglm1-{}-{secret}", "0".repeat(ca.len()));
    for (token, said) in [(wrong_secret, "not this cluster's"), (wrong_ca, "not of the join token's cluster")] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let identity = dir.path().join("identity");
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_shardglm"))
            .args(["node", "--name", "stranger", "--config"])
            .arg(home.join("cluster.toml"))
            .arg("--identity-dir")
            .arg(&identity)
            .env("SHARDGLM_JOIN_TOKEN", token)
            .output()
            .expect("the binary runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        assert!(stderr.lines().count() == 1 && stderr.contains(said), "{stderr}");
        assert!(!identity.exists(), "nothing half made stays behind");
    }
}

/// The binary's own commands.
fn commands(cluster: &Cluster) {
    let json = |args: &[&str]| {
        let output = cluster.shardglm(args, true);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let nodes = json(&["node", "list", "-o", "json"]);
    assert_eq!(nodes["items"].as_array().map(Vec::len), Some(2), "{nodes}");
    let members = json(&["member", "list", "-o", "json"]);
    let leaders = members["items"].as_array().expect("items").iter().filter(|m| m["role"] == "leader").count();
    assert_eq!((members["items"].as_array().map(Vec::len), leaders), (Some(3), 1), "{members}");
    let deployments = json(&["deploy", "status", "-o", "json"]);
    let replica = &deployments["items"][0]["replicas"][0];
    assert_eq!(replica["phase"], "ready", "{deployments}");
    let read: u64 = replica["ranks"].as_array().expect("ranks").iter().filter_map(|r| r["bytes_read"].as_u64()).sum();
    assert!(read > 0, "{deployments}");
    for verb in [["node", "list"], ["member", "list"], ["deploy", "status"]] {
        let output = cluster.shardglm(&verb, true);
        assert!(output.status.success() && output.stdout.len() > 40, "{verb:?}");
    }

    let chat = cluster.shardglm(&["chat", "--url", &cluster.url(), "--temperature", "0", "打开微信"], false);
    assert!(chat.status.success() && chat.stdout.len() > 1, "{chat:?}");

    let args: Vec<String> = cluster.processes().into_iter().map(|p| p.args).collect();
    for (role, count) in [("coordinator", 3), ("node", 2), ("worker", 2)] {
        let shown = args.iter().filter(|a| a.starts_with(&format!("shardglm {role} "))).count();
        assert_eq!(shown, count, "{role} in {args:#?}");
    }
}
