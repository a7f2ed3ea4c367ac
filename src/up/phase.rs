//! How far a starting cluster is, from what the admin API says. Pure.
//!
//! ```text
//!  Electing ─▶ Joining ─▶ Placing ─▶ Loading ─▶ Forming ─▶ Formed
//! ```
//! Invariant: phases are ordered, so that progress is a phase greater than any before.

use std::fmt;

use protocol::admin::{DeploymentInfo, MemberInfo, NodeHealth, NodeInfo, ReplicaPhase};
use protocol::lease::WorkerPhase;

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// No coordinator leads yet.
    Electing,
    /// Nodes are missing.
    Joining {
        /// Nodes that are up.
        up: u16,
        /// Nodes that there should be.
        nodes: u16,
    },
    /// No replica has ranks yet.
    Placing,
    /// Ranks read their shards.
    Loading {
        /// Bytes read by all of them.
        bytes_read: u64,
        /// Bytes that they will read.
        bytes_total: u64,
    },
    /// Every rank is loaded; they prove that they reach each other.
    Forming {
        /// Replicas that are ready.
        ready: u16,
        /// Replicas that there should be.
        replicas: u16,
    },
    /// Every replica is ready.
    Formed,
}

impl Phase {
    /// Reads it off three answers of the admin API.
    pub(super) fn of(
        members: &[MemberInfo],
        nodes: &[NodeInfo],
        deployments: &[DeploymentInfo],
        expected: u16,
    ) -> Self {
        if !members.iter().any(|m| m.role == "leader") {
            return Self::Electing;
        }
        let up = nodes.iter().filter(|n| n.health == NodeHealth::Up).count();
        let up = u16::try_from(up).unwrap_or(u16::MAX);
        if up < expected {
            return Self::Joining { up, nodes: expected };
        }
        let replicas: Vec<_> = deployments.iter().flat_map(|d| &d.replicas).collect();
        let wanted: u16 = deployments.iter().map(|d| d.replicas_wanted).sum();
        let ready = replicas.iter().filter(|r| r.phase == ReplicaPhase::Ready).count();
        let ready = u16::try_from(ready).unwrap_or(u16::MAX);
        if wanted > 0 && ready >= wanted {
            return Self::Formed;
        }
        let ranks: Vec<_> = replicas.iter().flat_map(|r| &r.ranks).collect();
        if ranks.is_empty() {
            return Self::Placing;
        }
        let (mut bytes_read, mut bytes_total, mut loading) = (0, 0, false);
        for rank in ranks {
            match &rank.phase {
                Some(WorkerPhase::Loading { bytes_read: read, bytes_total: total }) => {
                    loading = true;
                    bytes_read += read;
                    bytes_total += total;
                }
                Some(WorkerPhase::Starting) | None => {
                    loading = true;
                    bytes_total += rank.budget.weights;
                }
                Some(_) => {
                    bytes_read += rank.budget.weights;
                    bytes_total += rank.budget.weights;
                }
            }
        }
        if loading { Self::Loading { bytes_read, bytes_total } } else { Self::Forming { ready, replicas: wanted } }
    }

    /// The phase without its numbers of bytes.
    pub(super) fn word(&self) -> String {
        match self {
            Self::Loading { .. } => "loading".to_owned(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Electing => f.write_str("electing a leader"),
            Self::Joining { up, nodes } => write!(f, "leader elected, {up}/{nodes} nodes joined"),
            Self::Placing => f.write_str("all nodes joined, placing the replica"),
            Self::Loading { bytes_read, bytes_total } => {
                write!(f, "loading {} %", bytes_read * 100 / (*bytes_total).max(1))
            }
            Self::Forming { ready, replicas } => write!(f, "loaded, forming the group, {ready}/{replicas} ready"),
            Self::Formed => f.write_str("formed, waiting for the gateways"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(role: &str) -> MemberInfo {
        serde_json::from_value(serde_json::json!({
            "id": 1, "role": role, "votes": true, "term": 1, "internal_addr": "", "admin_addr": "", "public_addr": ""
        }))
        .expect("a member")
    }

    fn node(health: &str) -> NodeInfo {
        serde_json::from_value(serde_json::json!({
            "node": "node-1", "health": health, "ranks": [],
            "inventory": { "cores": 2, "memory_bytes": 1, "version": "0" }
        }))
        .expect("a node")
    }

    fn deployment(ready: bool, phases: &[serde_json::Value]) -> DeploymentInfo {
        let ranks = phases.iter().enumerate().map(|(i, phase)| {
            serde_json::json!({
                "replica": 1, "epoch": 1, "rank": i, "node": "node-1", "bytes_read": null, "phase": phase,
                "budget": { "weights": 100, "kv_cache": 0, "activations": 0 }
            })
        });
        let replica = serde_json::json!({
            "replica": 1, "epoch": 1, "phase": if ready { "ready" } else { "forming" }, "reason": null,
            "ranks": ranks.collect::<Vec<_>>(), "load": null
        });
        serde_json::from_value(serde_json::json!({
            "name": "default", "generation": 1, "model": "m@1", "served_names": ["m"], "tp": 2, "replicas_wanted": 1,
            "dtype": "f32", "context_tokens": null, "kv_tokens": null, "blocked": null,
            "replicas": if phases.is_empty() { vec![] } else { vec![replica] }
        }))
        .expect("a deployment")
    }

    #[test]
    fn each_phase_is_seen_and_is_greater_than_the_one_before() {
        let leader = [member("leader")];
        let up = [node("up"), node("up")];
        let loading = serde_json::json!({ "Loading": { "bytes_read": 30, "bytes_total": 100 } });
        let connected = serde_json::json!("Connected");
        let none = serde_json::Value::Null;
        let phases = [
            Phase::of(&[member("follower")], &up, &[], 2),
            Phase::of(&leader, &[node("up"), node("down")], &[], 2),
            Phase::of(&leader, &up, &[deployment(false, &[])], 2),
            Phase::of(&leader, &up, &[deployment(false, &[none.clone(), none])], 2),
            Phase::of(&leader, &up, &[deployment(false, &[loading, connected.clone()])], 2),
            Phase::of(&leader, &up, &[deployment(false, &[connected.clone(), connected.clone()])], 2),
            Phase::of(&leader, &up, &[deployment(true, &[connected.clone(), connected])], 2),
        ];
        assert!(phases.is_sorted() && phases.windows(2).all(|p| p[0] != p[1]), "{phases:#?}");
        assert_eq!(phases[4], Phase::Loading { bytes_read: 130, bytes_total: 200 });
        assert_eq!(phases[6], Phase::Formed);
    }
}
