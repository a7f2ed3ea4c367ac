//! What to say of nodes: new ones, changed ones, leaving ones, and those whose lease ran out.
//!
//! Invariant: a leader declares no node lost before the lease that it granted has run out; one that it has not heard, before two
//! leases of its own term are over (`orders::grace`). Nodes rely on it (node/src/agent/standing.rs): leaders that follow each
//! other faster have formed no group anew for want of a node's word. Where a rank's peer has said that it failed, they may have.

use std::time::Instant;

use super::observed::{Observed, Sighting};
use crate::state::{ClusterState, NodeCommand, NodeRecord, Standing};

pub(super) fn plan(state: &ClusterState, observed: &Observed, now: Instant) -> Vec<NodeCommand> {
    let heard = observed.nodes.values().filter_map(|s| register(state, s, now));
    let silent = state.nodes.iter().filter_map(|(node, record)| {
        let reason = gone(record, observed.nodes.get(node), now)?;
        Some(NodeCommand::Down { node: node.clone(), incarnation: record.incarnation, reason })
    });
    heard.chain(silent).collect()
}

fn register(state: &ClusterState, sighting: &Sighting, now: Instant) -> Option<NodeCommand> {
    let report = sighting.report.as_ref().filter(|_| sighting.lease_until > now)?;
    let known = state.nodes.get(&report.node).filter(|r| r.incarnation == report.incarnation);
    let as_known = known.is_some_and(|r| r.inventory == report.inventory && r.is_alive());
    let (node, incarnation) = (report.node.clone(), report.incarnation);
    match known {
        Some(record) if report.leaving => {
            (record.standing == Standing::Up).then_some(NodeCommand::Leaving { node, incarnation })
        }
        _ if as_known || report.leaving => None,
        _ => Some(NodeCommand::Register { node, incarnation, inventory: report.inventory.clone() }),
    }
}

/// Why a node that the state has alive is not.
fn gone(record: &NodeRecord, sighting: Option<&Sighting>, now: Instant) -> Option<String> {
    if !record.is_alive() {
        return None;
    }
    let sighting = sighting?;
    let left = record.standing == Standing::Leaving
        && sighting
            .report
            .as_ref()
            .is_some_and(|r| r.leaving && r.workers.is_empty() && r.incarnation == record.incarnation);
    if left {
        return Some("left the cluster".to_owned());
    }
    (sighting.lease_until <= now).then(|| match sighting.report {
        Some(_) => "its lease ran out: no report in time".to_owned(),
        None => "never heard by this leader".to_owned(),
    })
}
