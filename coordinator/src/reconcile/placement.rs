//! Where the next group of each waiting replica goes, or why there is no place for it.
//!
//! A node that goes on calling a rank alive whose group is lost may be dead: its lease says so much later. Where another can take its
//! place it is waited for until it has said that the rank is gone, or is late, and then another does. Invariant: nobody is waited for
//! longer than [`Observed::unaware`] bounds it; who is late and has no substitute is tried again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use protocol::lease::RANKS_PER_NODE_MAX;
use protocol::{DeploymentSpec, NodeId, Plan, ReplicaId};
use sharding::planner::{NodeCapacity, PlanRequest};
use sharding::spec::ModelSpec;

use super::deployments::unwanted;
use super::observed::Observed;
use super::planner::{FLEET_SETTLE, backoff};
use crate::state::{ClusterState, Command, Deployment, DeploymentCommand, Phase, Replica, ReplicaCommand, Standing};

/// Most plans that are looked at to keep nodes apart.
const WAYS_MAX: usize = 16;

pub(super) fn plan(state: &ClusterState, observed: &Observed, now: Instant) -> Vec<Command> {
    let mut fleet = Fleet::new(state, observed);
    state.deployments.values().flat_map(|d| place_deployment(state, observed, now, d, &mut fleet)).collect()
}

fn place_deployment(
    state: &ClusterState,
    observed: &Observed,
    now: Instant,
    deployment: &Deployment,
    fleet: &mut Fleet,
) -> Vec<Command> {
    let mut commands = Vec::new();
    let mut blocked = None;
    for (id, replica) in waiting(state, &deployment.spec.name) {
        if !is_due(state, observed, now, id, replica, fleet) {
            blocked = deployment.blocked.clone();
            continue;
        }
        let unaware = observed.unaware((id, replica.epoch));
        let Some(without) = fleet.spared(&replica.spec, &unaware, now) else {
            blocked = deployment.blocked.clone();
            continue;
        };
        match fleet.place_apart(&replica.spec, &without, observed, now) {
            Ok(plan) => {
                let form = ReplicaCommand::Form { replica: id, epoch: replica.epoch.next(), plan };
                commands.push(Command::Replica(form));
            }
            Err(reason) => {
                blocked = Some(format!("replica {id}: {reason}"));
                break;
            }
        }
    }
    if blocked != deployment.blocked {
        let (name, generation) = (deployment.spec.name.clone(), deployment.spec.generation);
        let block = DeploymentCommand::Block { name, generation, reason: blocked };
        commands.push(Command::Deployment(block));
    }
    commands
}

/// Waiting replicas that are wanted.
pub(super) fn waiting<'a>(
    state: &'a ClusterState,
    deployment: &'a str,
) -> impl Iterator<Item = (ReplicaId, &'a Replica)> {
    state
        .replicas_of(deployment)
        .filter(|(_, r)| matches!(r.phase, Phase::Waiting { .. }))
        .filter(|(id, r)| unwanted(state, *id, r).is_none())
}

/// Whether the next group may be formed now, rather than after its backoff, a drain or the arrival of more nodes.
fn is_due(
    state: &ClusterState,
    observed: &Observed,
    now: Instant,
    id: ReplicaId,
    replica: &Replica,
    fleet: &Fleet,
) -> bool {
    let since = observed.groups.get(&(id, replica.epoch)).map_or(now, |g| g.since);
    let draining = state.replicas_of(&replica.spec.name).any(|(_, r)| matches!(r.phase, Phase::Draining { .. }));
    if draining || now < since + backoff(replica.failed_formings) {
        return false;
    }
    let few = fleet.nodes.len() < usize::from(replica.spec.tp.get());
    let growing = replica.epoch.0 == 0 && observed.fleet_grew.is_some_and(|at| now < at + FLEET_SETTLE);
    !(few && (growing || fleet.unheard))
}

/// The nodes that ranks may go to, with what is free on them.
struct Fleet {
    nodes: BTreeMap<NodeId, Free>,
    /// A node that should be up was not heard in this term yet.
    unheard: bool,
    /// Nodes that are up and only not used because admins keep ranks off them.
    num_cordoned: usize,
}

struct Free {
    memory: u64,
    ranks: usize,
}

impl Fleet {
    fn new(state: &ClusterState, observed: &Observed) -> Self {
        let up = state.nodes.iter().filter(|(_, r)| r.standing == Standing::Up);
        let num_cordoned = up.filter(|(_, r)| r.cordon.is_set).count();
        let mut fleet = Self { nodes: BTreeMap::new(), unheard: false, num_cordoned };
        for (node, record) in state.nodes.iter().filter(|(_, r)| r.takes_ranks()) {
            let report = observed.nodes.get(node).and_then(|s| s.report.as_ref());
            match report.filter(|r| r.incarnation == record.incarnation) {
                Some(r) if r.leaving => {}
                Some(_) => {
                    let free = Free { memory: record.inventory.memory_bytes, ranks: RANKS_PER_NODE_MAX };
                    fleet.nodes.insert(node.clone(), free);
                }
                None => fleet.unheard = true,
            }
        }
        state.replicas.values().filter_map(Replica::plan).for_each(|plan| fleet.take(plan));
        fleet
    }

    fn take(&mut self, plan: &Plan) {
        for rank in &plan.ranks {
            if let Some(free) = self.nodes.get_mut(&rank.node) {
                free.memory = free.memory.saturating_sub(rank.budget.total());
                free.ranks = free.ranks.saturating_sub(1);
            }
        }
    }

    /// A plan for one replica, whose memory is taken from the fleet; or why there is none, in one line. Nodes that lately could not
    /// become a group are kept apart where as many others can take their place; where not, they are tried again.
    fn place_apart(
        &mut self,
        spec: &DeploymentSpec,
        without: &BTreeSet<NodeId>,
        observed: &Observed,
        now: Instant,
    ) -> Result<Plan, String> {
        let first = self.place(spec, without)?;
        let num_nodes = nodes_of(&first).len();
        let mut ways = VecDeque::from([(without.clone(), first.clone())]);
        let mut plan = first;
        for _ in 0..WAYS_MAX {
            let Some((without, way)) = ways.pop_front() else { break };
            let Some(quarrel) = observed.quarrel(&nodes_of(&way), now) else {
                plan = way;
                break;
            };
            for node in quarrel {
                let without: BTreeSet<_> = without.iter().chain([node]).cloned().collect();
                let way = self.place(spec, &without).ok().filter(|way| nodes_of(way).len() >= num_nodes);
                ways.extend(way.map(|way| (without, way)));
            }
        }
        self.take(&plan);
        Ok(plan)
    }

    /// Which of the nodes that are late to leave out: as many as others can take the place of, first who was not heard for longest.
    /// `None` while one that could be left out is not late yet.
    fn spared(
        &self,
        spec: &DeploymentSpec,
        unaware: &BTreeMap<NodeId, Instant>,
        now: Instant,
    ) -> Option<BTreeSet<NodeId>> {
        let mut without = BTreeSet::new();
        if unaware.is_empty() {
            return Some(without);
        }
        let num_nodes = |without: &BTreeSet<NodeId>| self.place(spec, without).map_or(0, |plan| nodes_of(&plan).len());
        let wanted = num_nodes(&without).max(1);
        let (mut late, early): (Vec<_>, Vec<_>) = unaware.iter().partition(|(_, late)| **late <= now);
        if early.iter().any(|(node, _)| num_nodes(&BTreeSet::from([(*node).clone()])) >= wanted) {
            return None;
        }
        late.sort_by_key(|(_, late)| **late);
        for (node, _) in late {
            without.insert(node.clone());
            if num_nodes(&without) < wanted {
                without.remove(node);
            }
        }
        Some(without)
    }

    /// A plan for one replica that leaves some nodes out, or why there is none.
    fn place(&self, spec: &DeploymentSpec, without: &BTreeSet<NodeId>) -> Result<Plan, String> {
        let model = ModelSpec::from_config_json(&spec.model.config_json).map_err(|e| e.to_string())?;
        let ranks = usize::from(spec.tp.get());
        let with_room = self.nodes.iter().filter(|(n, free)| free.ranks >= ranks && !without.contains(*n));
        let nodes: Vec<_> =
            with_room.map(|(n, free)| NodeCapacity { node: n.clone(), memory_free: free.memory }).collect();
        let request = PlanRequest {
            world_size: spec.tp,
            dtype: spec.dtype,
            stored_f32: spec.model.stored_f32,
            kv_tokens: spec.kv_tokens,
            context_tokens: spec.context_tokens,
            step_tokens: spec.step_tokens,
            max_seqs: spec.max_seqs,
            nodes: &nodes,
        };
        sharding::planner::plan(&model, &request).map_err(|e| match self.num_cordoned {
            0 => e.to_string(),
            cordoned => format!("{e} (nodes that are up, but cordoned: {cordoned})"),
        })
    }
}

fn nodes_of(plan: &Plan) -> BTreeSet<NodeId> {
    plan.ranks.iter().map(|r| r.node.clone()).collect()
}
