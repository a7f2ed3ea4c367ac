//! A cluster that loses its power: everything is killed, some or all of it is started again, and it serves by itself.
//!
//! `up` lays the cluster out and stops; after that each daemon is a process of the test's, as a service manager would run it.
//! Times to serving are printed, not asserted.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Cluster, until};
use crate::processes::{self, Seen};

/// Within which a cluster must serve again: debug builds on a busy machine, and leases that run out first.
const AGAIN_WITHIN: Duration = Duration::from_secs(180);
/// How long one look at a cluster may take.
const LOOK: Duration = Duration::from_secs(20);
/// How long nodes are left without any coordinator: longer than their lease, and shorter than until they give up.
const NODES_ALONE: Duration = Duration::from_secs(8);

/// Tokens of an answer that is asked for to see whether anybody serves, and of one that outlasts what happens meanwhile.
const SHORT: u32 = 16;
const LONG: u32 = 400;

/// The daemons of a cluster that was laid out in `dir`.
struct Daemons {
    dir: TempDir,
    urls: [String; 3],
    http: reqwest::Client,
    running: Vec<(String, Child)>,
}

impl Daemons {
    /// Lays a cluster of three coordinators and two nodes out, which has served once.
    fn lay_out() -> Self {
        // The client's HTTP library asks for a provider even where it speaks plain HTTP.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("cluster");
        let shown = path.to_str().expect("a path of ours");
        let cluster = Cluster::start(&["--nodes", "2", "--tp", "2", "--state-dir", shown]);
        let urls = cluster.urls();
        cluster.interrupt_and_check_nothing_is_left();
        Self { dir, urls, http: reqwest::Client::new(), running: Vec::new() }
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("cluster")
    }

    fn start(&mut self, kind: &str, name: &str, who: [&str; 2]) {
        let home = self.home();
        let log = home.join("logs").join(format!("{name}.again.log"));
        let log = File::options().create(true).append(true).open(log).expect("creates");
        let mut command = Command::new(env!("CARGO_BIN_EXE_shardglm"));
        command.arg(kind).args(who).arg("--config").arg(home.join("cluster.toml"));
        command.arg("--state-dir").arg(home.join("state").join(name)).arg("--identity-dir").arg(home.join(name));
        command.arg("--supervised").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        self.running.push((name.to_owned(), command.spawn().expect("the binary runs")));
    }

    fn start_coordinators(&mut self, ids: &[usize]) {
        for id in ids {
            self.start("coordinator", &format!("coordinator-{id}"), ["--id", &id.to_string()]);
        }
    }

    fn start_node(&mut self, number: usize) {
        let name = format!("node-{number}");
        self.start("node", &name, ["--name", &name]);
    }

    /// SIGKILL to every daemon and every worker, at once.
    fn cut_power(&mut self) {
        let workers: Vec<Seen> = self.running.iter().flat_map(|(_, child)| processes::below(child.id())).collect();
        for (_, child) in &mut self.running {
            child.kill().expect("a child");
        }
        workers.iter().filter(|w| w.runs()).for_each(Seen::kill);
        self.running.drain(..).for_each(|(_, mut child)| drop(child.wait()));
    }

    /// SIGKILL to one daemon alone; its workers end by themselves.
    fn kill(&mut self, name: &str) {
        let at = self.running.iter().position(|(n, _)| n == name).expect("it runs");
        let (_, mut child) = self.running.swap_remove(at);
        child.kill().expect("a child");
        child.wait().expect("a child");
    }

    /// The worker below that node.
    fn worker_of(&self, name: &str) -> Option<Seen> {
        let (_, child) = self.running.iter().find(|(n, _)| n == name).expect("it runs");
        processes::below(child.id()).into_iter().find(|p| p.args.starts_with("shardglm worker"))
    }

    /// What the gateway of coordinator `id` says of its readiness, and whether it is ready.
    async fn health(&self, id: usize) -> Option<(bool, Value)> {
        let asked = self.http.get(format!("{}/health/ready", self.urls[id - 1])).timeout(LOOK).send().await.ok()?;
        let ready = asked.status().is_success();
        Some((ready, asked.json().await.ok()?))
    }

    /// The greedy answer through coordinator `id`; `None` where there is none.
    fn answer(&self, id: usize, max_tokens: u32) -> impl Future<Output = Option<String>> + use<> {
        let body = json!({
            "model": "autoglm-nano", "prompt": "power", "max_tokens": max_tokens, "temperature": 0, "ignore_eos": true,
        });
        let request = self.http.post(format!("{}/v1/completions", self.urls[id - 1])).json(&body).timeout(AGAIN_WITHIN);
        async move {
            let told = request.send().await.ok()?;
            if !told.status().is_success() {
                return None;
            }
            let told: Value = told.json().await.ok()?;
            Some(told["choices"][0]["text"].as_str()?.to_owned())
        }
    }

    /// Waits until coordinator `id` is ready and answers; the epoch that serves, and the answer.
    async fn serving(&self, id: usize, what: &str) -> (u64, String) {
        let started = Instant::now();
        let mut last = None;
        while started.elapsed() < AGAIN_WITHIN {
            last = self.health(id).await;
            if let Some((true, health)) = &last
                && let Some(answer) = self.answer(id, SHORT).await
            {
                let epoch = health["deployments"][0]["replicas"][0]["epoch"].as_u64().expect("an epoch");
                eprintln!("{what}: serving through coordinator {id} after {:?}, epoch {epoch}", started.elapsed());
                return (epoch, answer);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{what}: not serving within {AGAIN_WITHIN:?}: {last:?}\n{}", self.logs());
    }

    /// The ends of the daemons' logs, for a test that fails.
    fn logs(&self) -> String {
        let files = std::fs::read_dir(self.home().join("logs")).into_iter().flatten().flatten();
        let again = files.filter(|f| f.file_name().to_string_lossy().ends_with(".again.log"));
        let tail = |f: std::fs::DirEntry| {
            let text = std::fs::read_to_string(f.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(25).collect();
            let lines: Vec<&str> = lines.into_iter().rev().collect();
            format!("== {}\n{}\n", f.file_name().to_string_lossy(), lines.join("\n"))
        };
        again.map(tail).collect()
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        self.cut_power();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_lost_its_power_serves_again_by_itself_whatever_comes_back_first() {
    let mut cluster = Daemons::lay_out();
    cluster.start_coordinators(&[1, 2, 3]);
    cluster.start_node(1);
    cluster.start_node(2);
    let (mut epoch, expected) = cluster.serving(2, "first start").await;

    cluster.cut_power();
    cluster.start_coordinators(&[1, 2, 3]);
    cluster.start_node(1);
    cluster.start_node(2);
    let (now, answer) = cluster.serving(1, "everything at once").await;
    assert!(now >= epoch, "the epoch went back from {epoch} to {now}");
    assert_eq!(answer, expected);
    epoch = now;

    cluster.cut_power();
    cluster.start_node(1);
    cluster.start_node(2);
    tokio::time::sleep(NODES_ALONE).await;
    cluster.start_coordinators(&[1, 2, 3]);
    let (now, answer) = cluster.serving(3, "nodes first").await;
    assert!(now >= epoch, "the epoch went back from {epoch} to {now}");
    assert_eq!(answer, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_coordinator_serves_what_was_committed_and_ranks_come_back_without_a_leader() {
    let mut cluster = Daemons::lay_out();
    cluster.start_coordinators(&[1, 2, 3]);
    cluster.start_node(1);
    cluster.start_node(2);
    cluster.serving(1, "first start").await;
    let (epoch, expected) = cluster.serving(2, "first start").await;

    // The others die while the last one is in the middle of an answer.
    let whole = cluster.answer(2, LONG).await;
    let running = tokio::spawn(cluster.answer(2, LONG));
    cluster.kill("coordinator-1");
    cluster.kill("coordinator-3");
    assert!(whole.is_some() && running.await.expect("no panic") == whole, "an answer that had begun");
    assert_eq!(cluster.serving(2, "two of three killed").await, (epoch, expected.clone()));

    // One coordinator of three, started anew without any other, and both nodes.
    cluster.cut_power();
    cluster.start_coordinators(&[2]);
    cluster.start_node(1);
    cluster.start_node(2);
    assert_eq!(cluster.serving(2, "one coordinator of three").await, (epoch, expected.clone()));
    let (_, health) = cluster.health(2).await.expect("it answers");
    let warnings = health["warnings"].to_string();
    assert!(warnings.contains("no leader for") && warnings.contains("2 of 3 coordinators"), "{warnings}");

    // A rank, and then an agent, while nobody leads.
    for name in ["node-1", "node-2"] {
        let worker = cluster.worker_of(name).expect("a rank on each node");
        worker.kill();
        until("the killed rank has a successor", AGAIN_WITHIN, || cluster.worker_of(name).filter(|w| *w != worker));
        assert_eq!(cluster.serving(2, "a killed rank").await, (epoch, expected.clone()), "{name}");
    }
    cluster.kill("node-2");
    cluster.start_node(2);
    until("the new agent has a rank", AGAIN_WITHIN, || cluster.worker_of("node-2"));
    assert_eq!(cluster.serving(2, "a killed agent").await, (epoch, expected.clone()));

    // A leader comes back and takes the group over as it is.
    cluster.start_coordinators(&[1, 3]);
    let started = Instant::now();
    loop {
        if let Some((true, health)) = cluster.health(1).await
            && health["warnings"] == json!([])
        {
            break;
        }
        assert!(started.elapsed() < AGAIN_WITHIN, "no leader\n{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Longer than the leader waits for a node before it loses its groups.
    tokio::time::sleep(NODES_ALONE).await;
    assert_eq!(cluster.serving(3, "a leader again").await, (epoch, expected));
}
