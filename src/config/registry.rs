//! Every key of `cluster.toml`: its path, kind and range, default, unit and why one would change it.
//!
//! Not here: the values. Invariant: a key that is not in [`KEYS`] is refused, and the checked-in `cluster.toml`
//! carries each of them (a test holds the two together).

use std::net::{IpAddr, SocketAddr};

use toml::Value;

/// What a value must be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// A whole number.
    Int {
        /// Smallest legal one.
        min: i64,
        /// Largest legal one.
        max: i64,
    },
    /// A DNS label: it goes into certificates or paths.
    Label,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of distinct non-empty texts, at most this many.
    Names(usize),
    /// `ip:port`.
    Addr,
    /// An IP address.
    Ip,
    /// A path; a relative one counts from the file's directory.
    Path,
}

/// What stands where the file says nothing.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fallback {
    /// A number.
    Int(i64),
    /// A text, path or address.
    Text(&'static str),
    /// No names.
    NoNames,
    /// The file must say it.
    Required,
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    /// `section.key`; `coordinators[].key` for the array of tables.
    pub(super) path: &'static str,
    /// What its value must be.
    pub(super) kind: Kind,
    /// What stands where the file says nothing.
    pub(super) default: Fallback,
    /// Its unit, or nothing.
    pub(super) unit: &'static str,
    /// Why one would change it.
    pub(super) reason: &'static str,
}

const fn key(path: &'static str, kind: Kind, default: Fallback, unit: &'static str, reason: &'static str) -> Key {
    Key { path, kind, default, unit, reason }
}

const fn int(min: i64, max: i64) -> Kind {
    Kind::Int { min, max }
}

use Fallback::{Int, NoNames, Required, Text};

/// Every key, in the order of the file.
pub(super) const KEYS: &[Key] = &[
    key("cluster.name", Kind::Label, Text("local"), "", "tells clusters apart in logs and prompts"),
    key("coordinators[].id", int(1, 65_535), Required, "", "the Raft member's number; never reused"),
    key("coordinators[].internal", Kind::Addr, Required, "", "QUIC between coordinators and nodes, mutual TLS"),
    key("coordinators[].admin", Kind::Addr, Required, "", "HTTPS for the CLI and for joining nodes"),
    key("coordinators[].public", Kind::Addr, Required, "", "HTTP for clients: /v1, /health, /metrics"),
    key("raft.heartbeat_ms", int(10, 10_000), Int(100), "ms", "raise it on slow or far links, with the elections"),
    key("raft.election_min_ms", int(50, 60_000), Int(500), "ms", "shortest silence after which a leader is replaced"),
    key("raft.election_max_ms", int(100, 120_000), Int(1_000), "ms", "the spread avoids split votes"),
    key("lease.heartbeat_ms", int(50, 60_000), Int(500), "ms", "how often a node reports when nothing changes"),
    key("lease.lease_ms", int(200, 600_000), Int(3_000), "ms", "silence after which a node counts as down"),
    key("gateway.body_bytes_max", int(1_024, 1 << 30), Int(32 << 20), "bytes", "pictures travel in request bodies"),
    key("gateway.requests_max", int(1, 1_000_000), Int(512), "requests", "in flight a coordinator; more get a 429"),
    key(
        "gateway.queue_tokens_max",
        int(0, 1 << 40),
        Int(1 << 18),
        "KV tokens",
        "that wait for a replica; more get a 429",
    ),
    key(
        "gateway.queue_bytes_max",
        int(0, 1 << 40),
        Int(256 << 20),
        "bytes",
        "memory of those who wait; more get a 429",
    ),
    key(
        "gateway.picture_bytes_max",
        int(0, 1 << 40),
        Int(1 << 30),
        "bytes",
        "memory of pictures in flight; more get a 429",
    ),
    key("gateway.picture_hosts", Kind::Names(64), NoNames, "", "http(s) pictures come from these alone; none: never"),
    key(
        "gateway.replica_wait_ms",
        int(0, 3_600_000),
        Int(10_000),
        "ms",
        "that a request waits while no replica stands and one is formed; 0: a 503 at once",
    ),
    key(
        "gateway.request_timeout_ms",
        int(1_000, 86_400_000),
        Int(600_000),
        "ms",
        "longest life of one request, and default",
    ),
    key("gateway.drain_ms", int(0, 3_600_000), Int(30_000), "ms", "time that SIGTERM leaves to running requests"),
    key(
        "gateway.metrics",
        Kind::Choice(&["on", "off"]),
        Text("on"),
        "",
        "off where the public port must not tell: /metrics is 404",
    ),
    key("node.memory_bytes", int(0, 1 << 50), Int(0), "bytes", "for ranks in all; 0: 90 % of what the host has free"),
    key("node.listen_ip", Kind::Ip, Text("127.0.0.1"), "", "where this host's workers listen; differs by host"),
    key(
        "node.worker_silence_ms",
        int(500, 600_000),
        Int(2_000),
        "ms",
        "a rank that says nothing for so long is killed; workers speak every 250 ms",
    ),
    key(
        "node.orphan_ms",
        int(1_000, 86_400_000),
        Int(30_000),
        "ms",
        "a node that reaches no coordinator for so long stops its ranks",
    ),
    key("deployment.name", Kind::Label, Text("default"), "", "names it in the admin API"),
    key("deployment.model", Kind::Path, Required, "", "Hugging Face checkpoint directory, the same path on every host"),
    key("deployment.served_names", Kind::Names(16), NoNames, "", "model names for clients; none: the directory's name"),
    key("deployment.tp", int(1, 64), Int(2), "ranks", "processes that compute one replica together"),
    key("deployment.replicas", int(1, 256), Int(1), "replicas", "full copies of the model"),
    key("deployment.dtype", Kind::Choice(&["f32", "bf16"]), Text("f32"), "", "f32 rounds no weight; bf16 rounds all"),
    key("deployment.threads_per_worker", int(1, 1_024), Int(1), "threads", "compute threads of each rank"),
    key("deployment.kv_tokens", int(0, 1 << 30), Int(0), "tokens", "KV cache of a replica; 0: by the model's context"),
    key("deployment.context_tokens", int(0, 1 << 24), Int(0), "tokens", "longest context; 0: the model's own"),
    key("deployment.max_seqs", int(1, 4_096), Int(32), "sequences", "most that decode together"),
    key("deployment.step_tokens", int(16, 131_072), Int(512), "tokens", "most in one step; bounds activation memory"),
    key("deployment.pictures_max", int(0, 64), Int(10), "pictures", "most in one prompt, where the model sees"),
    key(
        "deployment.picture_pixels_max",
        int(0, 1 << 28),
        Int(0),
        "pixels",
        "of a picture, over two frames; 0: the model's own, at most 5000000",
    ),
    key("paths.state_dir", Kind::Path, Text("/var/lib/shardglm/state"), "", "Raft log and snapshots, node state"),
    key("paths.identity_dir", Kind::Path, Text("/var/lib/shardglm/identity"), "", "ca.pem, cert.pem, key.pem"),
    key("paths.join_token_file", Kind::Path, Text("/var/lib/shardglm/join-token"), "", "or SHARDGLM_JOIN_TOKEN"),
];

/// Most coordinators that a cluster has.
pub(super) const COORDINATORS_MAX: usize = 9;

/// The key at a path whose array indices are written `[]`.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.path == path)
}

/// The registered path nearest to a misspelt one, if it is near enough to be meant.
pub(super) fn nearest(path: &str) -> Option<&'static str> {
    let distance = |known: &str| edit_distance(path, known);
    let sections = KEYS.iter().filter_map(|k| k.path.split(['.', '[']).next());
    let best = KEYS.iter().map(|k| k.path).chain(sections).min_by_key(|known| distance(known))?;
    (distance(best) <= 2 + path.len() / 6).then_some(best)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

impl Key {
    /// What is accepted, for a fault's report.
    pub(super) fn accepts(&self) -> String {
        let unit = if self.unit.is_empty() { String::new() } else { format!(" {}", self.unit) };
        match self.kind {
            Kind::Int { min, max } => format!("a whole number {min}..={max}{unit}"),
            Kind::Label => "a DNS label (1 to 63 of a-z, 0-9 and '-')".to_owned(),
            Kind::Choice(words) => format!("one of {}", words.join(", ")),
            Kind::Names(max) => format!("a list of at most {max} distinct texts"),
            Kind::Addr => "an ip:port, such as 127.0.0.1:8000".to_owned(),
            Kind::Ip => "an IP address".to_owned(),
            Kind::Path => "a path".to_owned(),
        }
    }

    /// Whether a value is of this key's kind and in its range.
    pub(super) fn admits(&self, value: &Value) -> bool {
        match (self.kind, value) {
            (Kind::Int { min, max }, Value::Integer(n)) => (min..=max).contains(n),
            (Kind::Label, Value::String(s)) => protocol::NodeId::new(s.as_str()).is_ok(),
            (Kind::Choice(words), Value::String(s)) => words.contains(&s.as_str()),
            (Kind::Names(max), Value::Array(list)) => distinct_texts(list, max),
            (Kind::Addr, Value::String(s)) => s.parse::<SocketAddr>().is_ok(),
            (Kind::Ip, Value::String(s)) => s.parse::<IpAddr>().is_ok(),
            (Kind::Path, Value::String(s)) => !s.is_empty() && !s.contains('\0'),
            _ => false,
        }
    }

    /// What stands where the file says nothing; `None` where the file must say it.
    pub(super) fn default_value(&self) -> Option<Value> {
        match self.default {
            Fallback::Int(n) => Some(Value::Integer(n)),
            Fallback::Text(s) => Some(Value::String(s.to_owned())),
            Fallback::NoNames => Some(Value::Array(Vec::new())),
            Fallback::Required => None,
        }
    }

    /// A flag's text as a value of this kind; text that cannot be one stays text, and is then not admitted.
    pub(super) fn value_from_flag(&self, text: &str) -> Value {
        match self.kind {
            Kind::Int { .. } => text.parse().map_or_else(|_| Value::String(text.to_owned()), Value::Integer),
            Kind::Names(_) => {
                Value::Array(text.split(',').filter(|s| !s.is_empty()).map(|s| Value::String(s.to_owned())).collect())
            }
            _ => Value::String(text.to_owned()),
        }
    }
}

fn distinct_texts(list: &[Value], max: usize) -> bool {
    let texts: Vec<&str> = list.iter().filter_map(Value::as_str).filter(|s| !s.is_empty() && s.len() <= 128).collect();
    let distinct: std::collections::BTreeSet<_> = texts.iter().collect();
    texts.len() == list.len() && distinct.len() == list.len() && list.len() <= max
}
