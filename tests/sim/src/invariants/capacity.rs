//! Capacity: what serves is not taken down below what is wanted, stays while nothing goes wrong, and comes back after.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coordinator::state::{ClusterState, Phase, Replica, Standing};
use node::agent::supervisor::RankKey;
use protocol::ReplicaId;

use super::Invariant;
use crate::agent::host_of;
use crate::fact::Fact;
use crate::host::HostId;
use crate::operator::DEPLOYMENT;

/// The newest state, and what serves in the end.
#[derive(Debug, Default)]
pub(super) struct Capacity {
    newest: Option<(u64, Arc<ClusterState>)>,
    calm: bool,
    serving: BTreeMap<HostId, BTreeSet<RankKey>>,
}

fn ready(state: &ClusterState) -> BTreeMap<ReplicaId, &Replica> {
    state.replicas_of(DEPLOYMENT).filter(|(_, r)| matches!(r.phase, Phase::Ready { .. })).collect()
}

fn wanted(state: &ClusterState) -> usize {
    state.deployments.get(DEPLOYMENT).map_or(0, |d| usize::from(d.spec.replicas))
}

impl Capacity {
    fn applied(&mut self, index: u64, state: &Arc<ClusterState>) -> Result<(), String> {
        let Some((last, before)) = self.newest.replace((index, Arc::clone(state))) else { return Ok(()) };
        if last >= index {
            self.newest = Some((last, before));
            return Ok(());
        }
        let (had, wanted) = (ready(&before), wanted(state));
        let drained = had.iter().filter(|(id, r)| {
            let now = state.replicas.get(*id).filter(|now| now.epoch == r.epoch);
            let leaving = |n| state.nodes.get(n).is_some_and(|record| record.standing != Standing::Up);
            let moves = r.plan().is_some_and(|plan| plan.ranks.iter().any(|rank| leaving(&rank.node)));
            now.is_some_and(|now| matches!(now.phase, Phase::Draining { .. })) && !moves
        });
        let drained = drained.count();
        if drained > 0 && had.len() - drained < wanted {
            let had = had.len();
            return Err(format!(
                "{drained} of {had} serving replicas are drained, {wanted} are wanted, by index {index}"
            ));
        }
        let lost = had.iter().find(|(id, r)| {
            !state.replicas.get(*id).is_some_and(|now| now.epoch == r.epoch && matches!(now.phase, Phase::Ready { .. }))
        });
        match lost.filter(|_| self.calm) {
            Some((id, r)) => {
                let now = state.replicas.get(id).map(|now| &now.phase);
                Err(format!("replica {id}, epoch {} served, and nothing went wrong; now {now:?}", r.epoch))
            }
            None => Ok(()),
        }
    }

    fn settled(&self, state: &ClusterState) -> Result<(), String> {
        let (there, wanted) = (ready(state), wanted(state));
        if there.len() != wanted {
            let phases: Vec<_> = state.replicas_of(DEPLOYMENT).map(|(id, r)| format!("{id}: {:?}", r.phase)).collect();
            return Err(format!("{} of {wanted} replicas are ready: {}", there.len(), phases.join("; ")));
        }
        let mut due = BTreeMap::<HostId, BTreeSet<RankKey>>::new();
        for (id, replica) in there {
            for rank in replica.plan().into_iter().flat_map(|plan| &plan.ranks) {
                let key = RankKey { replica: id, epoch: replica.epoch, rank: rank.rank };
                due.entry(host_of(&rank.node)).or_default().insert(key);
            }
        }
        let serving: BTreeMap<_, _> = self.serving.iter().filter(|(_, ranks)| !ranks.is_empty()).collect();
        let due: BTreeMap<_, _> = due.iter().collect();
        if serving == due { Ok(()) } else { Err(format!("these ranks should serve: {due:?}, these do: {serving:?}")) }
    }
}

impl Invariant for Capacity {
    fn name(&self) -> &'static str {
        "capacity is kept and comes back"
    }

    fn see(&mut self, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::Applied { applied, .. } => self.applied(applied.index, &applied.state),
            Fact::Calm => {
                self.calm = true;
                Ok(())
            }
            Fact::Serving { host, ranks } => {
                self.serving.insert(*host, ranks.iter().copied().collect());
                Ok(())
            }
            Fact::Settled { applied: Some(applied), .. } => self.settled(&applied.state),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::{CoordinatorId, Epoch, Rank};

    use super::super::fixtures::{applied, plan, ready, seen};
    use super::*;

    fn draining() -> Phase {
        Phase::Draining { plan: plan(&[1, 2]), reason: "because".into() }
    }

    fn waiting() -> Phase {
        Phase::Waiting { reason: None }
    }

    fn check(facts: &[Fact]) -> Result<(), String> {
        let mut invariant = Capacity::default();
        facts.iter().try_for_each(|fact| invariant.see(fact))
    }

    #[test]
    fn what_is_wanted_is_not_drained_and_what_is_too_many_is() {
        let two = || seen(1, 2, vec![(1, ready(&[1, 2])), (1, ready(&[2, 3]))]);
        check(&[two(), seen(2, 1, vec![(1, ready(&[1, 2])), (1, draining())])]).expect("one is too many");
        check(&[two(), seen(2, 2, vec![(1, ready(&[1, 2])), (1, draining())])]).expect_err("two are wanted");
    }

    #[test]
    fn a_replica_that_is_lost_while_all_is_well_is_found() {
        let (serves, lost) = (|index| seen(index, 1, vec![(1, ready(&[1, 2]))]), seen(3, 1, vec![(1, waiting())]));
        check(&[serves(1), serves(2), lost.clone()]).expect("something may have gone wrong");
        check(&[serves(1), Fact::Calm, serves(2), lost]).expect_err("nothing went wrong");
    }

    #[test]
    fn in_the_end_as_many_serve_as_are_wanted_and_nobody_else() {
        let key = |rank| RankKey { replica: ReplicaId(1), epoch: Epoch(1), rank: Rank(rank) };
        let serving = |n: u16, ranks: Vec<RankKey>| Fact::Serving { host: HostId::Node(n), ranks };
        let settled = |wanted, replicas| Fact::Settled {
            coordinator: CoordinatorId(1),
            applied: Some(applied(9, wanted, replicas)),
            knows_leader: true,
        };
        let one = || vec![(1, ready(&[1, 2]))];
        let (first, second) = (|| serving(1, vec![key(0)]), || serving(2, vec![key(1)]));
        check(&[first(), second(), settled(1, one())]).expect("as it should be");
        check(&[first(), second(), settled(2, one())]).expect_err("two are wanted");
        check(&[first(), settled(1, one())]).expect_err("rank 1 does not serve");
        check(&[first(), second(), serving(3, vec![key(1)]), settled(1, one())]).expect_err("rank 1 serves twice");
    }
}
