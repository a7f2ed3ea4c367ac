//! The daemons of a cluster that `up` has laid out, each a process of the test's, as a service manager would run it.
//!
//! Not here: what is done to them (each test). Invariant: none outlives its [`Daemons`].

use std::fs::File;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Cluster, shardglm, until};
use crate::processes::{self, Seen};

/// Within which a cluster must serve again: debug builds on a busy machine, and leases that run out first.
pub(crate) const AGAIN_WITHIN: Duration = Duration::from_secs(180);
/// How long one look at a cluster may take.
const LOOK: Duration = Duration::from_secs(20);
/// Tokens of an answer that is asked for to see whether anybody serves, and of one that outlasts what happens meanwhile.
const SHORT: u32 = 16;
pub(crate) const LONG: u32 = 400;

/// Where a coordinator listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addrs {
    pub(crate) internal: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) public: SocketAddr,
}

impl Addrs {
    /// Addresses that nobody listens on now.
    pub(crate) fn free() -> Self {
        let tcp = || TcpListener::bind("127.0.0.1:0").expect("a free port");
        let (admin, public) = (tcp(), tcp());
        let internal = UdpSocket::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
        Self { internal, admin: admin.local_addr().expect("bound"), public: public.local_addr().expect("bound") }
    }
}

/// The daemons of a cluster that was laid out in `dir`.
pub(crate) struct Daemons {
    dir: TempDir,
    /// Of each coordinator, in the order of their ids.
    urls: Vec<String>,
    http: reqwest::Client,
    running: Vec<(String, Child)>,
}

impl Daemons {
    /// Lays a cluster of three coordinators and two nodes out, which has served once.
    pub(crate) fn lay_out() -> Self {
        // The client's HTTP library asks for a provider even where it speaks plain HTTP.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("cluster");
        let shown = path.to_str().expect("a path of ours");
        let cluster = Cluster::start(&["--nodes", "2", "--tp", "2", "--state-dir", shown]);
        let urls = cluster.urls().to_vec();
        cluster.interrupt_and_check_nothing_is_left();
        Self { dir, urls, http: reqwest::Client::new(), running: Vec::new() }
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.dir.path().join("cluster")
    }

    fn start(&mut self, kind: &str, name: &str, who: [&str; 2], config: &Path) {
        let home = self.home();
        let log = home.join("logs").join(format!("{name}.again.log"));
        let log = File::options().create(true).append(true).open(log).expect("creates");
        let mut command = Command::new(env!("CARGO_BIN_EXE_shardglm"));
        command.arg(kind).args(who).arg("--config").arg(config);
        command.arg("--state-dir").arg(home.join("state").join(name)).arg("--identity-dir").arg(home.join(name));
        command.arg("--supervised").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        self.running.push((name.to_owned(), command.spawn().expect("the binary runs")));
    }

    pub(crate) fn start_coordinators(&mut self, ids: &[usize]) {
        let config = self.home().join("cluster.toml");
        for id in ids {
            self.start("coordinator", &format!("coordinator-{id}"), ["--id", &id.to_string()], &config);
        }
    }

    /// Starts one more coordinator on an empty disk, whose configuration names it and the first ones, and gives it the next
    /// id.
    pub(crate) fn start_new_coordinator(&mut self, addrs: Addrs) -> usize {
        let (home, id) = (self.home(), self.urls.len() + 1);
        let Addrs { internal, admin, public } = addrs;
        self.urls.push(format!("http://{public}"));
        let of_all = std::fs::read_to_string(home.join("cluster.toml")).expect("up's configuration");
        let own = format!(
            "\n[[coordinators]]\nid = {id}\ninternal = \"{internal}\"\nadmin = \"{admin}\"\npublic = \"{public}\"\n"
        );
        let config = home.join(format!("coordinator-{id}.toml"));
        std::fs::write(&config, of_all + &own).expect("writes");
        self.start("coordinator", &format!("coordinator-{id}"), ["--id", &id.to_string()], &config);
        id
    }

    /// Another command of the binary, with the configuration and the admin's identity of this cluster where `admin`.
    pub(crate) fn shardglm(&self, args: &[&str], admin: bool) -> Output {
        shardglm(args, admin.then(|| self.home()))
    }

    /// How a daemon has ended by itself.
    pub(crate) fn ends(&mut self, name: &str) -> ExitStatus {
        let at = self.running.iter().position(|(n, _)| n == name).expect("it was started");
        let child = &mut self.running[at].1;
        let status = until("a daemon ends by itself", AGAIN_WITHIN, || child.try_wait().expect("a child"));
        self.running.swap_remove(at);
        status
    }

    /// All that were laid out.
    pub(crate) fn start_all(&mut self) {
        self.start_coordinators(&[1, 2, 3]);
        self.start_nodes();
    }

    pub(crate) fn start_nodes(&mut self) {
        self.start_node(1);
        self.start_node(2);
    }

    pub(crate) fn start_node(&mut self, number: usize) {
        let name = format!("node-{number}");
        let config = self.home().join("cluster.toml");
        self.start("node", &name, ["--name", &name], &config);
    }

    /// SIGKILL to every daemon and every worker, at once.
    pub(crate) fn cut_power(&mut self) {
        let workers: Vec<Seen> = self.running.iter().flat_map(|(_, child)| processes::below(child.id())).collect();
        for (_, child) in &mut self.running {
            child.kill().expect("a child");
        }
        workers.iter().filter(|w| w.runs()).for_each(Seen::kill);
        self.running.drain(..).for_each(|(_, mut child)| drop(child.wait()));
    }

    /// SIGKILL to one daemon alone; its workers end by themselves.
    pub(crate) fn kill(&mut self, name: &str) {
        let at = self.running.iter().position(|(n, _)| n == name).expect("it runs");
        let (_, mut child) = self.running.swap_remove(at);
        child.kill().expect("a child");
        child.wait().expect("a child");
    }

    /// The worker below that node.
    pub(crate) fn worker_of(&self, name: &str) -> Option<Seen> {
        let (_, child) = self.running.iter().find(|(n, _)| n == name).expect("it runs");
        processes::below(child.id()).into_iter().find(|p| p.args.starts_with("shardglm worker"))
    }

    /// What the gateway of coordinator `id` says of its readiness, and whether it is ready.
    pub(crate) async fn health(&self, id: usize) -> Option<(bool, Value)> {
        let asked = self.http.get(format!("{}/health/ready", self.urls[id - 1])).timeout(LOOK).send().await.ok()?;
        let ready = asked.status().is_success();
        Some((ready, asked.json().await.ok()?))
    }

    /// The greedy answer through coordinator `id`; `None` where there is none.
    pub(crate) fn answer(&self, id: usize, max_tokens: u32) -> impl Future<Output = Option<String>> + use<> {
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
    pub(crate) async fn serving(&self, id: usize, what: &str) -> (u64, String) {
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
    pub(crate) fn logs(&self) -> String {
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
