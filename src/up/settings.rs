//! The effective configuration of an `up`: its flags, this machine's memory, and addresses.

use std::net::SocketAddr;
use std::path::Path;

use toml::{Table, Value};

use super::home::Home;
use super::{UpSpec, ports};
use crate::cli::Failure;
use crate::config::{Config, RawConfig};
use crate::{host, trust};

/// Time that Ctrl-C leaves to running requests, ms.
const DRAIN_MS: i64 = 10_000;

/// Settles it through the same checks as any other `cluster.toml`.
///
/// # Errors
/// Exit 2 for flags that do not go together, exit 3 for addresses in use.
pub(super) fn settle(spec: &UpSpec, home: &Home, public: &[SocketAddr], model: &Path) -> Result<Config, Failure> {
    let text = |s: &dyn ToString| Value::String(s.to_string());
    let number = |n: u64| Value::Integer(i64::try_from(n).unwrap_or(i64::MAX));
    let keys = |entries: Vec<(&str, Value)>| entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Table>();
    let table = |entries: Vec<(&str, Value)>| Value::Table(keys(entries));
    let coordinators = addresses(spec, home, public)?.into_iter().zip(spec.coordinator_ids()).map(|(addrs, id)| {
        let (public, internal, admin) = addrs;
        let (public, internal, admin) = (text(&public), text(&internal), text(&admin));
        table(vec![("id", number(id.0)), ("internal", internal), ("admin", admin), ("public", public)])
    });
    let served = spec.served_model_name.iter().map(|name| text(name)).collect();
    let dir = home.dir();
    let root = keys(vec![
        ("cluster", table(vec![("name", text(&"up"))])),
        ("coordinators", Value::Array(coordinators.collect())),
        ("gateway", table(vec![("drain_ms", Value::Integer(DRAIN_MS))])),
        (
            "node",
            table(vec![
                ("memory_bytes", number(host::memory_for_ranks()? / u64::from(spec.nodes))),
                ("listen_ip", text(&spec.listen_ip())),
            ]),
        ),
        (
            "deployment",
            table(vec![
                ("model", text(&model.display())),
                ("served_names", Value::Array(served)),
                ("tp", number(u64::from(spec.tp.get()))),
                ("replicas", number(u64::from(spec.replicas))),
                ("dtype", text(&spec.dtype.as_str())),
                ("threads_per_worker", number(u64::from(spec.threads_per_worker))),
            ]),
        ),
        (
            "paths",
            table(vec![
                ("state_dir", text(&dir.join("state").display())),
                ("identity_dir", text(&trust::admin_dir(dir).display())),
                ("join_token_file", text(&trust::join_token_file(dir).display())),
            ]),
        ),
    ]);
    RawConfig::from_table(root, "shardglm up", dir).settle(&[]).map_err(Failure::usage)
}

type Addresses = (SocketAddr, SocketAddr, SocketAddr);

/// Public, internal and admin address of each coordinator. A directory that is used again keeps its internal and
/// admin addresses: they stand in the replicated state.
fn addresses(spec: &UpSpec, home: &Home, public: &[SocketAddr]) -> Result<Vec<Addresses>, Failure> {
    let inner: Vec<(SocketAddr, SocketAddr)> = match home.previous() {
        Some(previous) => previous.coordinators.iter().map(|c| (c.internal, c.admin)).collect(),
        None => ports::ephemeral(spec.listen_ip(), public.len())?,
    };
    for (internal, admin) in &inner {
        ports::free_udp(*internal)?;
        ports::free_tcp(*admin)?;
    }
    Ok(public.iter().zip(inner).map(|(public, (internal, admin))| (*public, internal, admin)).collect())
}
