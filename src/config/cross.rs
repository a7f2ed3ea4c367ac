//! Checks between keys: values that are fine by themselves and do not go together.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{Config, Fault};

/// Every conflict of a configuration.
pub(super) fn check(config: &Config) -> Vec<Fault> {
    let mut faults = Vec::new();
    timings(config, &mut faults);
    members(config, &mut faults);
    deployment(config, &mut faults);
    faults
}

fn conflict(path: &str, found: impl ToString, accepts: String) -> Fault {
    Fault::Conflict { path: path.to_owned(), found: found.to_string(), accepts }
}

fn timings(config: &Config, faults: &mut Vec<Fault>) {
    let raft = &config.raft;
    if raft.election_min_ms < 3 * raft.heartbeat_ms {
        let accepts = format!("at least 3 × raft.heartbeat_ms = {} ms", 3 * raft.heartbeat_ms);
        faults.push(conflict("raft.election_min_ms", raft.election_min_ms, accepts));
    }
    if raft.election_max_ms <= raft.election_min_ms {
        let accepts = format!("more than raft.election_min_ms = {} ms", raft.election_min_ms);
        faults.push(conflict("raft.election_max_ms", raft.election_max_ms, accepts));
    }
    let lease = &config.lease;
    if lease.lease_ms < 3 * lease.heartbeat_ms {
        let accepts = format!("at least 3 × lease.heartbeat_ms = {} ms", 3 * lease.heartbeat_ms);
        faults.push(conflict("lease.lease_ms", lease.lease_ms, accepts));
    }
}

fn members(config: &Config, faults: &mut Vec<Fault>) {
    let mut ids = BTreeMap::new();
    let mut taken: BTreeMap<(&str, SocketAddr), String> = BTreeMap::new();
    for (i, c) in config.coordinators.iter().enumerate() {
        if let Some(first) = ids.insert(c.id, i) {
            let accepts = format!("an id that coordinators[{first}] does not have");
            faults.push(conflict(&format!("coordinators[{i}].id"), c.id, accepts));
        }
        for (name, protocol, addr) in
            [("internal", "udp", c.internal), ("admin", "tcp", c.admin), ("public", "tcp", c.public)]
        {
            let path = format!("coordinators[{i}].{name}");
            if addr.port() == 0 {
                faults.push(conflict(&path, addr, "a port of 1..=65535: others must know it".to_owned()));
            } else if let Some(other) = taken.insert((protocol, addr), path.clone()) {
                faults.push(conflict(&path, addr, format!("an address that {other} does not have")));
            }
        }
    }
}

fn deployment(config: &Config, faults: &mut Vec<Fault>) {
    let d = &config.deployment;
    if let (Some(kv), Some(context)) = (d.kv_tokens(), d.context_tokens())
        && kv < context
    {
        let accepts = format!("0, or at least deployment.context_tokens = {context} tokens");
        faults.push(conflict("deployment.kv_tokens", kv, accepts));
    }
    if d.step_tokens < u32::from(d.max_seqs) {
        let accepts = format!("at least deployment.max_seqs = {}: each sequence brings a token a step", d.max_seqs);
        faults.push(conflict("deployment.step_tokens", d.step_tokens, accepts));
    }
}
