//! The cluster's configuration, directories and command lines.

use std::path::{Path, PathBuf};

use protocol::CoordinatorId;

use super::api::CoordinatorAddrs;
use super::daemon::Spec;
use crate::net::Net;

const INTERNAL_PORT: u16 = 7000;
const ADMIN_PORT: u16 = 8443;
const PUBLIC_PORT: u16 = 8000;

/// What is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// The `shardglm` binary.
    pub program: PathBuf,
    /// The checkpoint.
    pub model: PathBuf,
    /// Coordinators, each on a host `c1`, `c2`, …
    pub coordinators: u16,
    /// Nodes, each on a host `n1`, `n2`, …
    pub nodes: u16,
    /// Ranks of a replica.
    pub tp: u16,
    /// Replicas.
    pub replicas: u16,
    /// Seed of the network's chance.
    pub seed: u64,
    /// Whether each state directory is a disk of 64 MiB that can be filled.
    pub small_disks: bool,
    /// Whether each host has a clock that can be set, by `libfaketime`.
    pub own_clocks: bool,
    /// Lines of `[table]` and `key = value` that are added to the configuration.
    pub more_config: String,
    /// What the daemons log, as `--log` takes it.
    pub log_filter: String,
    /// Where logs go and stay; `None`: gone with the cluster.
    pub logs: Option<PathBuf>,
}

impl Options {
    /// Three coordinators, three nodes, one replica of two ranks of the built-in model.
    #[must_use]
    pub fn new(program: PathBuf) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        Self {
            program,
            model: root.join("models/autoglm-nano"),
            coordinators: 3,
            nodes: 3,
            tp: 2,
            replicas: 1,
            seed: 1,
            small_disks: false,
            own_clocks: false,
            more_config: String::new(),
            log_filter: "info".to_owned(),
            logs: None,
        }
    }
}

pub(super) fn host_names(options: &Options) -> Vec<String> {
    let coordinators = (1..=options.coordinators).map(|i| format!("c{i}"));
    let nodes = (1..=options.nodes).map(|i| format!("n{i}"));
    coordinators.chain(nodes).chain([super::CLIENT.to_owned()]).collect()
}

pub(super) fn trust_dir(dir: &Path) -> PathBuf {
    dir.join("trust")
}

pub(super) fn state_dir(dir: &Path, host: &str) -> PathBuf {
    dir.join(host).join("state")
}

/// What the template of the model of the clusters here says of tools; the built-in one has no words for them.
const TOOL_WORDS: &str = "{% if tools %}Tools: {{ tools | tojson }}. Call one by <tool_call>name\n<arg_key>key</arg_key>\n\
     <arg_value>value</arg_value>\n</tool_call>\n{% endif %}";

/// The checkpoint with a template that takes tools.
pub(super) fn write_model(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for file in std::fs::read_dir(from)? {
        let file = file?;
        std::fs::copy(file.path(), to.join(file.file_name()))?;
    }
    let template = to.join("chat_template.jinja");
    let words = std::fs::read_to_string(&template)?;
    std::fs::write(template, format!("{TOOL_WORDS}{words}"))
}

pub(super) fn model_dir(dir: &Path) -> PathBuf {
    dir.join("models/autoglm-nano")
}

/// Says how far the host's clock is off.
pub(super) fn clock_file(dir: &Path, host: &str) -> PathBuf {
    dir.join(host).join("clock")
}

/// Debian's place for it.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// Whether hosts can have clocks of their own here.
#[must_use]
pub fn clocks_possible() -> bool {
    Path::new(FAKETIME).exists()
}

/// What makes a process read its host's clock. Time-outs run on the monotonic clock, which no step moves.
fn clock_envs(dir: &Path, host: &str) -> Vec<(String, String)> {
    let file = clock_file(dir, host).display().to_string();
    let envs = [
        ("LD_PRELOAD", FAKETIME),
        ("FAKETIME_TIMESTAMP_FILE", &file),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    envs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

pub(super) fn coordinators(options: &Options, net: &Net) -> Vec<CoordinatorAddrs> {
    let of = |i: u16| {
        let host = net.host(&format!("c{i}"));
        CoordinatorAddrs { id: CoordinatorId(i.into()), admin: host.at(ADMIN_PORT), public: host.at(PUBLIC_PORT) }
    };
    (1..=options.coordinators).map(of).collect()
}

pub(super) fn cluster_toml(options: &Options, net: &Net, dir: &Path) -> String {
    let mut text = "[cluster]\nname = \"chaos\"\n".to_owned();
    for c in coordinators(options, net) {
        let internal = net.host(&super::Cluster::coordinator_name(c.id)).at(INTERNAL_PORT);
        let (id, admin, public) = (c.id, c.admin, c.public);
        text += &format!(
            "[[coordinators]]\nid = {id}\ninternal = \"{internal}\"\nadmin = \"{admin}\"\npublic = \"{public}\"\n"
        );
    }
    text += &format!(
        "[deployment]\nmodel = {:?}\ntp = {}\nreplicas = {}\n",
        model_dir(dir).display().to_string(),
        options.tp,
        options.replicas
    );
    let token = trust_dir(dir).join("join-token").display().to_string();
    text + &format!("[paths]\njoin_token_file = {token:?}\n{}", options.more_config)
}

/// Every daemon with the host that it runs on.
pub(super) fn daemons(options: &Options, net: &Net, dir: &Path, logs: &Path) -> Vec<(String, Spec)> {
    let spec = |host: &str, who: Vec<String>, identity: PathBuf| {
        let mut args = who;
        let path = |p: PathBuf| p.display().to_string();
        let common = [
            ("--config", path(dir.join("cluster.toml"))),
            ("--state-dir", path(state_dir(dir, host))),
            ("--identity-dir", path(identity)),
            ("--log", options.log_filter.clone()),
            ("--log-format", "json".to_owned()),
        ];
        args.extend(common.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
        args.push("--supervised".to_owned());
        let log = logs.join(format!("{host}.log"));
        let envs = if options.own_clocks { clock_envs(dir, host) } else { Vec::new() };
        (host.to_owned(), Spec { program: options.program.clone(), args, envs, log })
    };
    let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let coordinators = (1..=options.coordinators).map(|i| {
        let identity = trust_dir(dir).join(format!("coordinator-{i}"));
        spec(&format!("c{i}"), words(&["coordinator", "--id", &i.to_string()]), identity)
    });
    let nodes = (1..=options.nodes).map(|i| {
        let name = format!("n{i}");
        let listen = format!("node.listen_ip={}", net.host(&name).ip());
        spec(&name, words(&["node", "--name", &name, "--set", &listen]), dir.join(&name).join("identity"))
    });
    coordinators.chain(nodes).collect()
}
