//! Epochs never go back, and never name two groups.

use std::collections::BTreeMap;

use coordinator::state::ClusterState;
use protocol::{Epoch, NodeId, ReplicaId};

use super::Invariant;
use crate::fact::Fact;

/// What was seen in the replicated state, by index.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    /// The first and the last index at which each epoch was a replica's.
    seen: BTreeMap<(ReplicaId, Epoch), (u64, u64)>,
    /// The nodes of each group, by rank.
    groups: BTreeMap<(ReplicaId, Epoch), Vec<NodeId>>,
}

impl Epochs {
    fn applied(&mut self, index: u64, state: &ClusterState) -> Result<(), String> {
        for (id, replica) in &state.replicas {
            let key = (*id, replica.epoch);
            let (first, last) = self.seen.entry(key).or_insert((index, index));
            (*first, *last) = (index.min(*first), index.max(*last));
            let (first, last) = (*first, *last);
            let earlier = self.seen.range((*id, Epoch(0))..key).next_back();
            if let Some(((_, epoch), _)) = earlier.filter(|(_, (_, until))| *until > first) {
                return Err(format!(
                    "replica {id} has epoch {epoch} after {}, at index {first} or later",
                    replica.epoch
                ));
            }
            let later = self.seen.range(key..=(*id, Epoch(u64::MAX))).nth(1);
            if let Some(((_, epoch), _)) = later.filter(|(_, (from, _))| *from < last) {
                return Err(format!("replica {id} has epoch {} after {epoch}, at index {last}", replica.epoch));
            }
            let Some(plan) = replica.plan() else { continue };
            let nodes: Vec<_> = plan.ranks.iter().map(|r| r.node.clone()).collect();
            let group = self.groups.entry(key).or_insert_with(|| nodes.clone());
            if *group != nodes {
                return Err(format!("replica {id} has two groups of epoch {}: {group:?} and {nodes:?}", replica.epoch));
            }
        }
        Ok(())
    }
}

impl Invariant for Epochs {
    fn name(&self) -> &'static str {
        "epochs never go back"
    }

    fn see(&mut self, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::Applied { applied, .. } => self.applied(applied.index, &applied.state),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use coordinator::state::Phase;

    use super::super::fixtures::{plan, seen};
    use super::*;

    fn at(index: u64, epoch: u64, nodes: &[u16]) -> Fact {
        seen(index, 1, vec![(epoch, Phase::Forming { plan: plan(nodes) })])
    }

    fn check(facts: &[Fact]) -> Result<(), String> {
        let mut invariant = Epochs::default();
        facts.iter().try_for_each(|fact| invariant.see(fact))
    }

    #[test]
    fn epochs_that_go_back_or_name_two_groups_are_found_in_whatever_order_they_are_seen() {
        check(&[at(1, 1, &[1, 2]), at(5, 3, &[1, 2]), at(2, 1, &[1, 2]), at(3, 2, &[2, 3])]).expect("as it should be");
        check(&[at(1, 2, &[1, 2]), at(2, 1, &[1, 2])]).expect_err("it goes back");
        check(&[at(2, 1, &[1, 2]), at(1, 2, &[1, 2])]).expect_err("it goes back, seen late");
        check(&[at(1, 1, &[1, 2]), at(2, 1, &[1, 3])]).expect_err("two groups");
    }
}
