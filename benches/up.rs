//! What a newcomer feels: `up` to ready, the first token, one stream's speed, and what the idle cluster costs.
//!
//! Run as `cargo bench --bench up -- [runs]`; prints a table for `benches/results`. Not here: throughput of many streams.
//! Figures are medians over the runs; the idle share is over ten seconds, from `/proc`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long idleness is watched.
const IDLE: Duration = Duration::from_secs(10);
/// Time for the work of the last request to be over before that.
const SETTLE: Duration = Duration::from_secs(2);
/// Longest that a cluster may take to be ready.
const READY: Duration = Duration::from_secs(60);

/// One run's figures.
struct Figures {
    ready_ms: f64,
    first_token_ms: f64,
    tokens_per_s: f64,
    idle_percent: f64,
    rss_mib: f64,
}

#[expect(clippy::print_stdout, reason = "the table is the result")]
fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // Only `cargo bench` passes this: a test run over all targets measures nothing.
    if !args.iter().any(|a| a == "--bench") {
        return;
    }
    let runs = args.iter().find_map(|a| a.parse().ok()).unwrap_or(3);
    let all: Vec<Figures> = (0..runs).map(|_| run()).collect();
    let row = |name: &str, unit: &str, of: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = all.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        let raw: Vec<String> = all.iter().map(|f| format!("{:.1}", of(f))).collect();
        println!("| {name} | {:.1} {unit} | {} |", values[values.len() / 2], raw.join(", "));
    };
    println!("| figure | median | runs |\n|---|---|---|");
    row("`up` (built) to ready", "ms", |f| f.ready_ms);
    row("first token of a short prompt", "ms", |f| f.first_token_ms);
    row("one stream", "tokens/s", |f| f.tokens_per_s);
    row("idle, share of one core", "%", |f| f.idle_percent);
    row("resident memory of all processes", "MiB", |f| f.rss_mib);
}

fn run() -> Figures {
    let listen = free_ports();
    let started = Instant::now();
    let mut up = Command::new(env!("CARGO_BIN_EXE_shardglm"))
        .args(["up", "--listen", &listen])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let out = up.stdout.take().expect("piped");
    let ready = BufReader::new(out).lines().map_while(Result::ok).any(|l| l.starts_with("ready in"));
    assert!(ready && started.elapsed() < READY, "up did not become ready");
    let ready_ms = started.elapsed().as_secs_f64() * 1e3;

    stream(&listen, 16);
    let mut first: Vec<f64> = (0..9).map(|_| stream(&listen, 8).0).collect();
    first.sort_by(f64::total_cmp);
    let (_, tokens_per_s) = stream(&listen, 512);

    std::thread::sleep(SETTLE);
    let processes = tree(up.id());
    let before = cpu_seconds(&processes);
    std::thread::sleep(IDLE);
    let idle_percent = (cpu_seconds(&processes) - before) / IDLE.as_secs_f64() * 100.0;
    let rss_mib = processes.iter().map(|pid| rss_kib(*pid)).sum::<f64>() / 1024.0;
    stop(&mut up);
    Figures { ready_ms, first_token_ms: first[first.len() / 2], tokens_per_s, idle_percent, rss_mib }
}

/// Three ports in a row below the range that the system hands out.
fn free_ports() -> String {
    let mut blocks = (20_000u16..32_000).step_by(3).cycle().skip(std::process::id() as usize % 4_000);
    let free = |first: &u16| (*first..first + 3).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    format!("127.0.0.1:{}", blocks.find(free).expect("endless"))
}

/// Streams an answer of up to `tokens` tokens: milliseconds to the first, and tokens per second after it.
fn stream(listen: &str, tokens: u32) -> (f64, f64) {
    // Hot and without penalty: the answer seldom ends before its bound.
    let body = format!(
        r#"{{"model":"autoglm-nano","messages":[{{"role":"user","content":"打开微信"}}],"temperature":2.0,"seed":3,"max_tokens":{tokens},"stream":true,"return_token_ids":true}}"#
    );
    let mut socket = TcpStream::connect(listen).expect("connects");
    socket.set_nodelay(true).expect("a socket");
    let started = Instant::now();
    write!(
        socket,
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("writes");
    let (mut first, mut last, mut count) = (None, started, 0u32);
    for line in BufReader::new(socket).lines().map_while(Result::ok) {
        let Some(data) = line.strip_prefix("data: ") else { continue };
        let Ok(chunk) = serde_json::from_str::<serde_json::Value>(data) else { continue };
        let ids = chunk["choices"][0]["token_ids"].as_array().map_or(0, Vec::len);
        if ids > 0 {
            last = Instant::now();
            first.get_or_insert(last);
            count += u32::try_from(ids).expect("few");
        }
    }
    let first = first.expect("a token");
    let rate = f64::from(count.saturating_sub(1)) / (last - first).as_secs_f64();
    ((first - started).as_secs_f64() * 1e3, rate)
}

/// A process and all below it.
fn tree(root: u32) -> Vec<u32> {
    let parent = |pid: u32| stat(pid).and_then(|fields| fields.get(1)?.parse::<u32>().ok());
    let pids = std::fs::read_dir("/proc").expect("this is Linux").flatten();
    let all: Vec<u32> = pids.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    let below = |pid: &u32| std::iter::successors(Some(*pid), |p| parent(*p)).any(|p| p == root);
    all.into_iter().filter(below).collect()
}

/// The fields of `/proc/PID/stat` after the name.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text[text.rfind(')')? + 2..].split(' ').map(str::to_owned).collect())
}

fn cpu_seconds(pids: &[u32]) -> f64 {
    let ticks = |pid: &u32| {
        let fields = stat(*pid)?;
        Some(fields[11].parse::<f64>().ok()? + fields[12].parse::<f64>().ok()?)
    };
    pids.iter().filter_map(ticks).sum::<f64>() / rustix::param::clock_ticks_per_second() as f64
}

fn rss_kib(pid: u32) -> f64 {
    let mut text = String::new();
    let read = std::fs::File::open(format!("/proc/{pid}/status")).and_then(|mut f| f.read_to_string(&mut text));
    let line = read.ok().and_then(|_| text.lines().find_map(|l| l.strip_prefix("VmRSS:")));
    line.and_then(|l| l.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or(0.0)
}

fn stop(up: &mut Child) {
    let pid = i32::try_from(up.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("up runs");
    up.wait().expect("a child");
}
