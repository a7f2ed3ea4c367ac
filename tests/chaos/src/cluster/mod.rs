//! A whole cluster of real processes, each on a host of its own, as a user would set it up: configuration, CA, identities,
//! join.
//!
//! Not here: what goes wrong with it (`fault`). Invariant: everything it started or made is gone when it is dropped; its
//! logs stay where [`Options::logs`] says.

mod api;
mod config;
mod daemon;
mod disk;
mod leftovers;
mod log;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use api::{Api, CoordinatorAddrs, Outlook};
pub use config::{Options, clocks_possible};
pub use daemon::Daemon;
pub use log::{Event, Mark};

use disk::Disk;
use protocol::CoordinatorId;
use protocol::admin::{DeploymentInfo, Listing, NodeHealth, NodeInfo, ReplicaPhase};
use rustix::process::Signal;

use crate::net::{Host, Net, NetError, Weather};

/// The host of clients and of the admin.
pub const CLIENT: &str = "client";
/// How long a cluster may take to serve: debug builds on a busy machine.
pub const SERVES_WITHIN: Duration = Duration::from_secs(120);
/// Pause between two looks at a condition.
pub const LOOK: Duration = Duration::from_millis(25);

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No hosts.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A file or a process.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The CA could not be created, or what it issued not be read.
    #[error("{}: {reason}", dir.display())]
    Trust {
        /// Where.
        dir: PathBuf,
        /// Why.
        reason: String,
    },
    /// No HTTP client.
    #[error("no HTTP client: {0}")]
    Http(#[source] reqwest::Error),
    /// It did not come up.
    #[error("not within {within:?}: {what}; logs in {}", logs.display())]
    Late {
        /// What was waited for.
        what: String,
        /// For so long.
        within: Duration,
        /// Where to look.
        logs: PathBuf,
    },
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> ClusterError {
    let what = what.into();
    move |source| ClusterError::Io { what, source }
}

/// The running cluster.
#[derive(Debug)]
pub struct Cluster {
    // Dropped in this order: runtime of the client, processes, their disks, the hosts, the files.
    client: tokio::runtime::Runtime,
    daemons: BTreeMap<String, Daemon>,
    disks: BTreeMap<String, Disk>,
    net: Net,
    api: Api,
    options: Options,
    logs: PathBuf,
    _dir: tempfile::TempDir,
    dir: PathBuf,
}

impl Cluster {
    /// Sets it up, starts it and waits until it serves.
    ///
    /// # Errors
    /// [`ClusterError`]; nothing is left running.
    pub fn start(options: Options) -> Result<Self, ClusterError> {
        let mut cluster = Self::set_up(options)?;
        for name in cluster.daemons.keys().cloned().collect::<Vec<_>>() {
            cluster.start_daemon(&name)?;
        }
        cluster.wait("the cluster serves", SERVES_WITHIN, async |c| c.serves().await.then_some(()))?;
        Ok(cluster)
    }

    fn set_up(options: Options) -> Result<Self, ClusterError> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        leftovers::remove(&std::env::temp_dir());
        let temp = tempfile::Builder::new().prefix(&leftovers::prefix()).tempdir();
        let temp = temp.map_err(io("a temporary directory"))?;
        let dir = temp.path().to_owned();
        let names = config::host_names(&options);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let net = Net::new(&names, options.seed)?;
        let logs = options.logs.clone().unwrap_or_else(|| dir.join("logs"));
        std::fs::create_dir_all(&logs).map_err(io(format!("create {}", logs.display())))?;

        config::write_model(&options.model, &config::model_dir(&dir)).map_err(io("copy the model"))?;
        let config_file = dir.join("cluster.toml");
        std::fs::write(&config_file, config::cluster_toml(&options, &net, &dir)).map_err(io("write cluster.toml"))?;
        let mut ca = Command::new(&options.program);
        ca.args(["ca", "create", "--config"]).arg(&config_file).arg("--out").arg(config::trust_dir(&dir));
        let made = ca.stdin(Stdio::null()).output().map_err(io(format!("run {}", options.program.display())))?;
        if !made.status.success() {
            let reason = String::from_utf8_lossy(&made.stderr).into_owned();
            return Err(ClusterError::Trust { dir: config::trust_dir(&dir), reason });
        }

        let (mut daemons, mut disks) = (BTreeMap::new(), BTreeMap::new());
        for (name, spec) in config::daemons(&options, &net, &dir, &logs) {
            let state = config::state_dir(&dir, &name);
            std::fs::create_dir_all(&state).map_err(io(format!("create {}", state.display())))?;
            if options.small_disks {
                let image = dir.join(format!("{name}.ext4"));
                let disk = Disk::mount(&image, &state).map_err(io(format!("a disk for {name}")))?;
                disks.insert(name.clone(), disk);
            }
            if options.own_clocks {
                std::fs::write(config::clock_file(&dir, &name), "+0s\n").map_err(io(format!("the clock of {name}")))?;
            }
            daemons.insert(name.clone(), Daemon::new(&name, spec));
        }
        let api = Api::new(config::coordinators(&options, &net), &config::trust_dir(&dir).join("admin"))?;
        let client = net.host(CLIENT).runtime()?;
        Ok(Self { client, daemons, disks, net, api, options, logs, _dir: temp, dir })
    }

    /// How it was set up.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Its listeners.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The admin's certificate, key and CA.
    #[must_use]
    pub fn admin_identity_dir(&self) -> PathBuf {
        config::trust_dir(&self.dir).join("admin")
    }

    /// Where the logs are.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// Runs a future on the client's host.
    pub fn on_client<F: Future + Send>(&self, future: F) -> F::Output
    where
        F::Output: Send,
    {
        // Not `block_on` here: it would poll on this thread, which is on no host of the cluster.
        std::thread::scope(|scope| {
            let run = || {
                self.net.host(CLIENT).enter().expect("the host is there as long as the cluster");
                self.client.block_on(future)
            };
            match scope.spawn(run).join() {
                Ok(output) => output,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// The runtime on the client's host, for tasks that run while faults happen.
    #[must_use]
    pub fn client(&self) -> &tokio::runtime::Handle {
        self.client.handle()
    }

    /// The state of every link.
    #[must_use]
    pub fn weather(&self) -> Arc<Weather> {
        self.net.weather()
    }

    /// A host.
    #[must_use]
    pub fn host(&self, name: &str) -> &Host {
        self.net.host(name)
    }

    /// The names of the coordinators' hosts.
    pub fn coordinator_names(&self) -> impl Iterator<Item = String> + use<> {
        (1..=self.options.coordinators).map(|i| format!("c{i}"))
    }

    /// The names of the nodes' hosts, which are the nodes' own.
    pub fn node_names(&self) -> impl Iterator<Item = String> + use<> {
        (1..=self.options.nodes).map(|i| format!("n{i}"))
    }

    /// The daemon of a host.
    ///
    /// # Panics
    /// For a host without one.
    #[must_use]
    #[track_caller]
    pub fn daemon(&self, name: &str) -> &Daemon {
        self.daemons.get(name).unwrap_or_else(|| panic!("no daemon on {name}"))
    }

    fn daemon_mut(&mut self, name: &str) -> &mut Daemon {
        self.daemons.get_mut(name).unwrap_or_else(|| panic!("no daemon on {name}"))
    }

    /// Starts a daemon that does not run.
    ///
    /// # Errors
    /// [`ClusterError::Io`].
    pub fn start_daemon(&mut self, name: &str) -> Result<(), ClusterError> {
        let host = self.net.host(name);
        let daemon = self.daemons.get_mut(name).unwrap_or_else(|| panic!("no daemon on {name}"));
        daemon.start(host).map_err(io(format!("start the daemon of {name}")))
    }

    /// SIGKILL to a daemon.
    pub fn kill_daemon(&mut self, name: &str) {
        self.daemon_mut(name).kill();
    }

    /// Whether the process of a daemon is there.
    pub fn daemon_runs(&mut self, name: &str) -> bool {
        self.daemon_mut(name).runs()
    }

    /// SIGSTOP or SIGCONT to a daemon.
    pub fn signal_daemon(&self, name: &str, signal: Signal) -> bool {
        self.daemon(name).signal(signal)
    }

    /// SIGKILL to everything at once, as a power cut does.
    pub fn cut_power(&mut self) {
        for daemon in self.daemons.values() {
            daemon.signal(Signal::KILL);
        }
        self.daemons.values_mut().for_each(Daemon::kill);
    }

    /// Takes all room of a host's disk, or gives it back. False without a small disk.
    pub fn fill_disk(&self, name: &str, full: bool) -> bool {
        let Some(disk) = self.disks.get(name) else { return false };
        if full { disk.fill().is_ok() } else { disk.clear().is_ok() }
    }

    /// Daemons whose process has ended.
    pub fn stopped_daemons(&mut self) -> Vec<String> {
        self.daemons.iter_mut().filter_map(|(name, d)| (!d.runs()).then(|| name.clone())).collect()
    }

    /// Sets a host's clock off by so many seconds. False without a clock of its own.
    #[must_use]
    pub fn step_clock(&self, name: &str, seconds: i32) -> bool {
        self.options.own_clocks
            && std::fs::write(config::clock_file(&self.dir, name), format!("{seconds:+}s\n")).is_ok()
    }

    /// The hosts.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        self.net.hosts()
    }

    /// The ends of all logs.
    #[must_use]
    pub fn marks(&self) -> Vec<Mark> {
        self.daemons.values().map(|d| Mark::end_of(d.name(), d.log())).collect()
    }

    /// Whether every gateway says ready and as many replicas are ready as are wanted.
    pub async fn serves(&self) -> bool {
        let Some(outlook) = self.api.look().await else { return false };
        let wanted = usize::from(self.options.replicas);
        let ready = |d: &DeploymentInfo| d.replicas.iter().filter(|r| r.phase == ReplicaPhase::Ready).count() >= wanted;
        if !outlook.deployment.as_ref().is_some_and(ready) {
            return false;
        }
        for c in self.api.coordinators() {
            if self.api.health(c.public, "ready").await != Some(200) {
                return false;
            }
        }
        true
    }

    /// Whether it serves, somebody leads, and every node has its lease: whatever was done to it is over.
    pub async fn is_whole(&self) -> bool {
        let Some(Outlook { leader: Some(leader), .. }) = self.api.look().await else { return false };
        let at = self.api.coordinators().iter().find(|c| c.id == leader).map(|c| c.admin);
        let nodes = match at {
            Some(at) => self.api.get::<Listing<NodeInfo>>(at, "/v1/nodes").await,
            None => None,
        };
        let up = |nodes: Listing<NodeInfo>| nodes.items.iter().filter(|n| n.health == NodeHealth::Up).count();
        nodes.map_or(0, up) == usize::from(self.options.nodes) && self.serves().await
    }

    /// Waits, on the client's host, until `condition` gives something.
    ///
    /// # Errors
    /// [`ClusterError::Late`].
    pub fn wait<T: Send>(
        &self,
        what: &str,
        within: Duration,
        condition: impl AsyncFn(&Self) -> Option<T> + Sync,
    ) -> Result<T, ClusterError>
    where
        Self: Sync,
    {
        let until = Instant::now() + within;
        let handle = self.client.handle().clone();
        let waited = std::thread::scope(|scope| {
            let run = || {
                self.net.host(CLIENT).enter().expect("the host is there as long as the cluster");
                handle.block_on(async {
                    while Instant::now() < until {
                        if let Some(found) = condition(self).await {
                            return Some(found);
                        }
                        tokio::time::sleep(LOOK).await;
                    }
                    None
                })
            };
            match scope.spawn(run).join() {
                Ok(found) => found,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        });
        waited.ok_or_else(|| ClusterError::Late { what: what.to_owned(), within, logs: self.logs.clone() })
    }

    /// The name of a coordinator's host.
    #[must_use]
    pub fn coordinator_name(id: CoordinatorId) -> String {
        format!("c{id}")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Those that are stopped in their tracks too; all at once rather than one after the other.
        self.cut_power();
    }
}
