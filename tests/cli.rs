//! The command line, by the real binary: exit codes, and what the one line of an error names.
//!
//! Not here: a running cluster (`tests/cluster`). Invariant: no test here needs a port that another could take.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

const NANO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/autoglm-nano");

fn shardglm(args: &[&str]) -> Output {
    command(args).output().expect("the binary runs")
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shardglm"));
    command.args(args).stdin(Stdio::null()).env_remove("SHARDGLM_LOG").env_remove("SHARDGLM_JOIN_TOKEN");
    command
}

#[track_caller]
fn expect(output: &Output, code: i32, stderr_has: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "stderr: {stderr}");
    for text in stderr_has {
        assert!(stderr.contains(text), "`{text}` in: {stderr}");
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// A configuration of one coordinator at ports that nobody listens on.
fn config(dir: &Path, more: &str) -> String {
    let path = dir.join("cluster.toml");
    let text = format!(
        "[[coordinators]]\nid = 1\ninternal = '127.0.0.1:9'\nadmin = '127.0.0.1:9'\npublic = '127.0.0.1:7'\n\
         [paths]\nstate_dir = 'state'\nidentity_dir = 'trust/admin'\njoin_token_file = 'trust/join-token'\n\
         [deployment]\nmodel = '{NANO}'\n{more}"
    );
    std::fs::write(&path, text).expect("writes");
    path.display().to_string()
}

fn temp() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[test]
fn usage_errors_exit_2_and_help_exits_0() {
    for args in [&["--help"][..], &["up", "--help"], &["node", "list", "--help"], &["--version"]] {
        expect(&shardglm(args), 0, &[]);
    }
    for args in [
        &[][..],
        &["bogus"],
        &["up", "--tp", "0"],
        &["up", "--dtype", "f16"],
        &["up", "--listen", "127.0.0.1:65535"],
        &["node"],
        &["node", "--name", "Not_A_Label"],
        &["node", "cordon"],
        &["node", "cordon", "Not_A_Label"],
        &["deploy", "scale", "default"],
        &["deploy", "scale", "default", "--replicas", "300"],
        &["deploy", "scale", "de/fault", "--replicas", "1"],
        &["deploy", "scale", "default", "--replicas", "1", "--timeout", "5"],
        &["chat", "--log", "=,=", "hi"],
        &["chat", "--url", "nonsense", "hi"],
        &["chat", "--url", "ftp://127.0.0.1", "hi"],
    ] {
        expect(&shardglm(args), 2, &[]);
    }
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = shardglm(&["completions", shell]);
        expect(&output, 0, &[]);
        assert!(stdout(&output).contains("shardglm"), "{shell}");
    }
}

#[test]
fn check_prints_the_effective_configuration_and_the_plan_of_each_rank() {
    let dir = temp();
    let file = config(dir.path(), "tp = 3\n");
    let output = shardglm(&["check", "--config", &file]);
    expect(&output, 0, &[]);
    let text = stdout(&output);
    for part in ["tp = 3", "election_min_ms = 500", "rank  node", "node-3"] {
        assert!(text.contains(part), "`{part}` in {text}");
    }
    let output = shardglm(&["check", "--config", &file, "-o", "json"]);
    expect(&output, 0, &[]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["config"]["deployment"]["tp"], 3);
    let ranks = json["plan"]["replicas"][0]["ranks"].as_array().expect("ranks");
    assert_eq!(ranks.len(), 3);
    assert!(ranks.iter().all(|r| r["budget"]["weights"].as_u64().is_some_and(|b| b > 0)));
}

#[test]
fn check_reports_every_fault_at_once_and_exits_2() {
    let dir = temp();
    let file = config(dir.path(), "tpp = 3\nreplicas = 0\ndtype = 'f8'\n");
    let output = shardglm(&["check", "--config", &file]);
    expect(
        &output,
        2,
        &[
            "3 faults",
            "did you mean `deployment.tp`?",
            "deployment.replicas = 0: accepted: a whole number 1..=256",
            "f8",
        ],
    );
    expect(&shardglm(&["check", "--config", &file, "--syntax-only"]), 2, &[]);
    expect(&shardglm(&["check", "--config", "/nonexistent/x.toml"]), 2, &["/nonexistent/x.toml"]);
}

#[test]
fn check_exits_3_with_the_number_that_does_not_fit() {
    let dir = temp();
    let file = config(dir.path(), "");
    let short = shardglm(&["check", "--config", &file, "--set", "node.memory_bytes=1000000"]);
    expect(&short, 3, &["does not fit", "1000000 bytes"]);
    let missing = shardglm(&["check", "--config", &file, "--set", "deployment.model=/nonexistent/model"]);
    expect(&missing, 3, &["/nonexistent/model"]);
    let long = shardglm(&["check", "--config", &file, "--set", "deployment.context_tokens=1000000"]);
    expect(&long, 3, &["8192", "1000000"]);
}

#[test]
fn admin_commands_need_an_identity_and_exit_4_when_nobody_answers() {
    let dir = temp();
    let file = config(dir.path(), "");
    expect(&shardglm(&["node", "list", "--config", &file]), 3, &["trust/admin/ca.pem"]);
    let trust = dir.path().join("trust").display().to_string();
    let created = shardglm(&["ca", "create", "--config", &file, "--out", &trust]);
    expect(&created, 0, &[]);
    assert!(stdout(&created).starts_with("cluster "), "{}", stdout(&created));
    for verb in [
        &["node", "list"][..],
        &["member", "list"],
        &["deploy", "status"],
        &["node", "cordon", "node-1"],
        &["deploy", "scale", "default", "--replicas", "2"],
    ] {
        let args = [verb, &["--config", &file]].concat();
        expect(&shardglm(&args), 4, &["no coordinator answers", "127.0.0.1:9"]);
    }
    expect(&shardglm(&["ca", "create", "--config", &file, "--out", &trust]), 3, &["is not empty"]);
}

#[test]
fn a_new_ca_has_what_an_installer_copies_and_keeps_its_secrets() {
    use std::os::unix::fs::PermissionsExt;
    let dir = temp();
    let file = config(dir.path(), "");
    let out = dir.path().join("trust");
    expect(&shardglm(&["ca", "create", "--config", &file, "--out", &out.display().to_string()]), 0, &[]);
    for secret in ["ca/ca.key.pem", "coordinator-1/key.pem", "coordinator-1/ca.key.pem", "admin/key.pem", "join-token"]
    {
        let mode = std::fs::metadata(out.join(secret)).expect(secret).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    assert!(!out.join("admin/ca.key.pem").exists(), "an admin does not sign");
}

#[test]
fn a_node_without_certificate_needs_a_token_that_is_one() {
    let dir = temp();
    let file = config(dir.path(), "");
    let node = |token: Option<&str>| {
        let mut command = command(&["node", "--config", &file, "--name", "node-1"]);
        if let Some(token) = token {
            command.env("SHARDGLM_JOIN_TOKEN", token);
        }
        command.output().expect("the binary runs")
    };
    expect(&node(None), 3, &["no certificate", "no join token", "trust/join-token"]);
    expect(&node(Some("sglm1-secret")), 3, &["SHARDGLM_JOIN_TOKEN: not a join token", "found 12 characters"]);
    assert!(!dir.path().join("trust").exists(), "nothing half made stays behind");
}

#[test]
fn a_coordinator_that_the_configuration_does_not_know_is_a_usage_error() {
    let dir = temp();
    let file = config(dir.path(), "");
    expect(&shardglm(&["coordinator", "--config", &file, "--id", "7"]), 2, &["has coordinators 1"]);
}

/// Runs `up` with a temporary directory of its own, which must be empty afterwards.
fn up(args: &[&str]) -> Output {
    let temp = temp();
    let output = command(&[&["up"], args].concat()).env("TMPDIR", temp.path()).output().expect("the binary runs");
    let left: Vec<_> = std::fs::read_dir(temp.path()).expect("exists").flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    output
}

#[test]
fn up_refuses_a_port_in_use_and_names_it() {
    let held = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = held.local_addr().expect("bound").to_string();
    expect(&up(&["--coordinators", "1", "--listen", &addr]), 3, &[&addr]);
}

#[test]
fn up_refuses_a_model_that_is_not_whole_and_a_plan_that_does_not_fit() {
    let listen = ["--coordinators", "1", "--listen", "127.0.0.1:9"];
    let missing = up(&[&listen[..], &["--model", "/nonexistent/model"]].concat());
    expect(&missing, 3, &["/nonexistent/model"]);

    let dir = temp();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        std::fs::copy(Path::new(NANO).join(file), dir.path().join(file)).expect("copies");
    }
    let mut weights = std::fs::read(Path::new(NANO).join("model.safetensors")).expect("reads");
    weights.truncate(weights.len() - 1000);
    std::fs::write(dir.path().join("model.safetensors"), weights).expect("writes");
    let truncated = up(&[&listen[..], &["--model", &dir.path().display().to_string()]].concat());
    expect(&truncated, 3, &["model.safetensors"]);
    assert_eq!(String::from_utf8_lossy(&truncated.stderr).lines().count(), 1, "one line");
}

#[test]
fn a_chat_template_that_is_none_is_refused_before_anything_starts() {
    let dir = temp();
    for entry in std::fs::read_dir(NANO).expect("exists").flatten() {
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copies");
    }
    std::fs::write(dir.path().join("chat_template.jinja"), "{% for m in messages %}").expect("writes");
    let model = dir.path().display().to_string();
    let refused = up(&["--coordinators", "1", "--listen", "127.0.0.1:9", "--model", &model]);
    expect(&refused, 3, &["chat_template.jinja"]);
    assert_eq!(String::from_utf8_lossy(&refused.stderr).lines().count(), 1, "one line");
    let other = temp();
    let file = config(other.path(), "");
    let checked = shardglm(&["check", "--config", &file, "--set", &format!("deployment.model={model}")]);
    expect(&checked, 3, &["chat_template.jinja"]);
}

#[test]
fn up_refuses_a_directory_that_is_not_its_own_and_leaves_it_alone() {
    let dir = temp();
    let shown = dir.path().display().to_string();
    let listen = ["--coordinators", "1", "--listen", "127.0.0.1:9", "--state-dir"];
    std::fs::write(dir.path().join("notes.txt"), "mine").expect("writes");
    expect(&up(&[&listen[..], &[&shown]].concat()), 3, &[&shown, "not a state directory"]);
    assert!(dir.path().join("notes.txt").exists());

    let marker = r#"{"format":1,"cluster_id":"00000000000000000000000000000001","coordinators":3,"nodes":2}"#;
    std::fs::write(dir.path().join("up.json"), marker).expect("writes");
    expect(&up(&[&listen[..], &[&shown]].concat()), 3, &["3 coordinators and 2 nodes, expected 1 and 2"]);
}

/// A server that answers every request with `response`, until it is dropped with the test.
fn stub(response: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accepts");
            let mut seen = Vec::new();
            let mut buffer = [0; 4096];
            // Requests of these tests fit one buffer after their blank line.
            while !seen.windows(4).any(|w| w == b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(n) if n > 0 => seen.extend_from_slice(&buffer[..n]),
                    _ => break,
                }
            }
            let _ = stream.write_all(response.as_bytes());
        }
    });
    addr
}

fn http(status: &str, kind: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn chat(addr: SocketAddr) -> Output {
    shardglm(&["chat", "--url", &format!("http://{addr}/v1"), "--model", "m", "hello", "there"])
}

#[test]
fn chat_streams_the_answer_and_exits_0() {
    let chunk = |delta: &str, finish: &str| {
        format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n")
    };
    let body = chunk("{\"role\":\"assistant\",\"content\":\"\"}", "null")
        + &chunk("{\"content\":\"打开\"}", "null")
        + &chunk("{\"content\":\"微信\"}", "\"stop\"")
        + "data: [DONE]\n\n";
    let output = chat(stub(http("200 OK", "text/event-stream", &body)));
    expect(&output, 0, &[]);
    assert_eq!(stdout(&output), "打开微信\n");
}

#[test]
fn chat_exits_1_with_the_servers_words_and_on_an_answer_that_is_cut() {
    let body = r#"{"error":{"message":"no model `m`","type":"invalid_request_error","param":"model","code":"model_not_found"}}"#;
    let refused = chat(stub(http("404 Not Found", "application/json", body)));
    expect(&refused, 1, &["no model `m` (model_not_found)"]);
    let event = r#"{"error":{"message":"a rank died","type":"server_error","param":null,"code":"replica_lost"}}"#;
    let broken = chat(stub(http("200 OK", "text/event-stream", &format!("data: {event}\n\n"))));
    expect(&broken, 1, &["a rank died (replica_lost)"]);
    let cut = chat(stub(http("200 OK", "text/event-stream", "")));
    expect(&cut, 1, &["without a finish reason"]);
}

#[test]
fn chat_exits_4_when_nobody_listens() {
    expect(&shardglm(&["chat", "--url", "http://127.0.0.1:9", "hi"]), 4, &["no answer from http://127.0.0.1:9"]);
}
