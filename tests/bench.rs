//! `bench serve` by the real binary against scripted endpoints: what it sends, what it counts, how it ends.
//!
//! Not here: a real cluster (`tests/cluster`). Invariant: every connection is answered once and closed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// One request as the endpoint saw it.
struct Seen {
    /// In lower case; the request's line is the first.
    headers: Vec<String>,
    /// `null` without one.
    body: Value,
}

/// An endpoint that answers by a script, each connection on a thread of its own.
fn endpoint(script: impl Fn(&Seen) -> String + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, script) = (stream.expect("accepts"), script.clone());
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().expect("clones"));
                let mut lines = Vec::new();
                for line in reader.by_ref().lines() {
                    match line {
                        Ok(line) if !line.is_empty() => lines.push(line.to_ascii_lowercase()),
                        _ => break,
                    }
                }
                if lines.is_empty() {
                    return;
                }
                let length = lines.iter().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
                let mut body = vec![0; length];
                reader.read_exact(&mut body).expect("a whole body");
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let seen = Seen { headers: lines, body };
                // A client that hung up is no fault of the script's.
                let _ = stream.write_all(script(&seen).as_bytes());
            });
        }
    });
    addr
}

fn http(head: &str, body: &str) -> String {
    format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

fn refusal(head: &str, code: &str) -> String {
    http(head, &json!({ "error": { "message": "no", "type": "t", "param": null, "code": code } }).to_string())
}

/// A chat's stream: one event a token, a finish, and counts where they were asked for.
fn stream(seen: &Seen, cached: Option<u32>) -> String {
    let num = seen.body["max_tokens"].as_u64().expect("max_tokens");
    let event = |v: Value| format!("data: {v}\n\n");
    let mut body = String::new();
    for _ in 0..num {
        body += &event(json!({ "choices": [{ "index": 0, "delta": { "content": "a" }, "finish_reason": null }] }));
    }
    body += &event(json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "length" }] }));
    if seen.body["stream_options"]["include_usage"] == true {
        let text = seen.body["messages"].to_string();
        let details = cached.map(|n| json!({ "cached_tokens": n }));
        let usage = json!({ "prompt_tokens": text.split(' ').count() + 10, "completion_tokens": num,
            "total_tokens": 0, "prompt_tokens_details": details });
        body += &event(json!({ "choices": [], "usage": usage }));
    }
    body += "data: [DONE]\n\n";
    http("200 OK\r\ncontent-type: text/event-stream", &body)
}

fn bench(addr: SocketAddr, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shardglm"));
    command.args(["bench", "serve", "--url", &format!("http://{addr}/v1"), "--model", "m"]).args(args);
    command.stdin(Stdio::null()).env_remove("OPENAI_API_KEY").env_remove("SHARDGLM_LOG");
    command
}

#[track_caller]
fn report(output: &Output, code: i32) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {stderr}"))
}

fn run(addr: SocketAddr, args: &[&str]) -> Output {
    bench(addr, args).args(["-o", "json"]).output().expect("the binary runs")
}

#[test]
fn a_plain_endpoint_is_asked_plainly_and_counted_by_its_events() {
    let addr = endpoint(|seen| {
        if seen.body.get("return_token_ids").is_some() {
            return refusal("400 Bad Request", "unknown_parameter");
        }
        stream(seen, Some(8))
    });
    let report = report(
        &run(addr, &["--concurrency", "3", "--requests", "12", "--max-tokens", "5", "--prompt-tokens", "80"]),
        0,
    );
    assert_eq!(report["dialect"], json!({ "prompt_ids": false, "token_ids": false, "usage": true }));
    assert_eq!((&report["requests"]["done"], &report["tokens"]["output"]), (&json!(12), &json!(60)), "{report}");
    let prompt = report["tokens"]["prompt"].as_u64().expect("a number");
    assert!((12 * 78..=12 * 82).contains(&prompt), "prompts of 80 tokens by the endpoint's own count: {prompt}");
    assert_eq!(report["tokens"]["cached"], 96);
    let figures = &report["figures"][0];
    assert_eq!((&figures["ttft_ms"]["count"], &figures["inter_token_ms"]["count"]), (&json!(12), &json!(48)));
    let at = |name: &str, p: &str| figures[name][p].as_f64().expect("ms");
    assert!(at("head_ms", "p50") <= at("ttft_ms", "p50") && at("ttft_ms", "max") <= at("e2e_ms", "max"));
}

#[test]
fn errors_are_counted_by_status_and_code_and_refusals_are_findings() {
    let addr = endpoint(|seen| {
        let index = seen.body["seed"].as_u64().unwrap_or(0);
        match index % 4 {
            1 => refusal("429 Too Many Requests\r\nretry-after: 7", "queue_full"),
            2 => refusal("500 Internal Server Error", "internal_error"),
            3 => http("200 OK", "data: {\"error\":{\"message\":\"a rank died\",\"code\":\"replica_lost\"}}\n\n"),
            _ => stream(seen, None),
        }
    });
    let report = report(&run(addr, &["--requests", "16", "--max-tokens", "2", "--temperature", "1"]), 0);
    let counts = &report["requests"];
    assert_eq!((&counts["done"], &counts["refused"], &counts["failed"]), (&json!(4), &json!(4), &json!(8)), "{report}");
    let errors = report["errors"].as_array().expect("errors");
    let of = |code: &str| errors.iter().find(|e| e["code"] == code).unwrap_or_else(|| panic!("{code} in {errors:?}"));
    assert_eq!((&of("queue_full")["status"], &of("queue_full")["retry_after_s"]), (&json!("429"), &json!([7, 7])));
    assert_eq!((&of("internal_error")["status"], &of("replica_lost")["status"]), (&json!("500"), &json!("stream")));
}

#[test]
fn exit_codes_tell_usage_refusal_no_answer_and_no_endpoint_apart() {
    let broken = endpoint(|seen| match seen.body["seed"].as_u64() {
        Some(0) if seen.body["max_tokens"] == 1 => stream(seen, None),
        _ => http("200 OK", ""),
    });
    let output = run(broken, &["--requests", "2", "--temperature", "1", "--max-tokens", "4"]);
    let report = report(&output, 1);
    assert_eq!((&report["errors"][0]["code"], &report["errors"][0]["count"]), (&json!("broken"), &json!(2)));

    let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
    assert_eq!(run(nobody, &[]).status.code(), Some(4));
    for usage in [
        &["--concurrency", "2", "--rate", "1"][..],
        &["--trace", "agent", "--api", "completions"],
        &["--long-every", "3"],
        &["--prompt-tokens", "9..3"],
        &["--cancel-share", "1.5"],
        &["--extra-body", "[1]"],
        &["--header", "no colon"],
        &["--url", "nonsense"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_shardglm")).args(["bench", "serve"]).args(usage).output();
        assert_eq!(output.expect("the binary runs").status.code(), Some(2), "{usage:?}");
    }
    assert_eq!(run(nobody, &["--save", "/nonexistent/x.json"]).status.code(), Some(3));
}

#[test]
fn headers_and_fields_are_sent_and_the_saved_report_holds_no_secret() {
    let addr = endpoint(|seen| {
        let has = |h: &str| seen.headers.iter().any(|l| l == h);
        let told = has("x-priority: low") && has("authorization: bearer s3cret");
        if !told || seen.body["top_k"] != 1 || seen.body["ignore_eos"] != true {
            return refusal("403 Forbidden", "not_told");
        }
        stream(seen, None)
    });
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("report.json");
    let mut command =
        bench(addr, &["--requests", "2", "--max-tokens", "2", "--ignore-eos", "--extra-body", "{\"top_k\":1}"]);
    command.args(["--header", "x-priority:low", "--save"]).arg(&file).env("OPENAI_API_KEY", "s3cret");
    let output = command.output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["2 done", "ttft", "inter-token", "end to end", "P99"] {
        assert!(table.contains(part), "`{part}` in {table}");
    }
    let text = std::fs::read_to_string(file).expect("saved");
    let saved: Value = serde_json::from_str(&text).expect("JSON");
    assert!(!text.contains("s3cret"), "{text}");
    assert_eq!((&saved["requests"]["done"], &saved["settings"]["extra_body"]["top_k"]), (&json!(2), &json!(1)));
    assert!(saved["date"].is_string() && saved["version"].is_string(), "{saved}");
}

#[test]
fn ctrl_c_ends_a_run_with_the_report_so_far() {
    let (heard, first) = mpsc::channel();
    let addr = endpoint(move |seen| {
        let answer = stream(seen, None);
        if seen.body["max_tokens"] == 3 {
            let _ = heard.send(());
        }
        answer
    });
    let child = bench(addr, &["--duration", "600", "--max-tokens", "3", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    // Two requests: the first is over when the second comes.
    (0..2).for_each(|_| first.recv_timeout(Duration::from_secs(60)).expect("a request"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    let started = Instant::now();
    let report = report(&child.wait_with_output().expect("ends"), 0);
    assert!(started.elapsed() < Duration::from_secs(60), "at once, and not when its time is over");
    assert_eq!(report["interrupted"], true);
    assert!(report["requests"]["done"].as_u64() >= Some(1), "{report}");
}
