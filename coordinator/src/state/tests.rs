//! Properties of [`ClusterState::apply`] over random commands of a small world, and one test per refused edge.

use std::collections::BTreeMap;

use proptest::prelude::*;
use protocol::{Epoch, Generation, NodeId, ReplicaId, Revision};

use super::fixtures::{addr, inventory, node, plan, spec};
use super::*;

fn node_command() -> impl Strategy<Value = NodeCommand> {
    (0..4u16, 0..2u64, 0..4u8).prop_map(|(n, incarnation, kind)| {
        let node = node(n);
        match kind {
            0 | 1 => NodeCommand::Register { node, incarnation, inventory: inventory(1 << 30) },
            2 => NodeCommand::Leaving { node, incarnation },
            _ => NodeCommand::Down { node, incarnation, reason: "lease".into() },
        }
    })
}

fn cordon_command() -> impl Strategy<Value = NodeCommand> {
    (0..4u16, any::<bool>(), prop::option::of(0..4u64)).prop_map(|(n, is_set, expected)| NodeCommand::SetCordon {
        node: node(n),
        is_set,
        expected: expected.map(Revision),
    })
}

fn deployment_command() -> impl Strategy<Value = DeploymentCommand> {
    (1..3u16, 0..3u16, 0..4u64, 0..8u8).prop_map(|(tp, replicas, generation, kind)| match kind {
        0 => DeploymentCommand::Put { expected: None, spec: Box::new(spec(tp, replicas)) },
        1 => DeploymentCommand::Put { expected: Some(Generation(generation)), spec: Box::new(spec(tp, replicas)) },
        2 => DeploymentCommand::Block {
            name: "nano".into(),
            generation: Generation(generation),
            reason: Some("no room".into()),
        },
        3 => DeploymentCommand::Unreadable { name: "other".into(), reason: Some("gone".into()) },
        4 => DeploymentCommand::Scale { name: "nano".into(), replicas, expected: None },
        5 => DeploymentCommand::Scale { name: "nano".into(), replicas, expected: Some(Generation(generation)) },
        6 => DeploymentCommand::Configure { expected: None, spec: Box::new(spec(tp, replicas)) },
        _ => {
            let expected = Some(Generation(generation));
            DeploymentCommand::Configure { expected, spec: Box::new(spec(tp, replicas)) }
        }
    })
}

fn replica_command() -> impl Strategy<Value = ReplicaCommand> {
    (0..4u64, 0..5u64, 0..8u8, prop::collection::vec(0..4u16, 1..3)).prop_map(|(id, epoch, kind, on)| {
        let (replica, epoch, reason) = (ReplicaId(id), Epoch(epoch), "why".to_owned());
        let nodes: Vec<_> = on.iter().map(|n| node(*n)).collect();
        match kind {
            0 => ReplicaCommand::Create { deployment: "nano".into(), generation: Generation(epoch.0) },
            1 | 2 => ReplicaCommand::Form { replica, epoch, plan: plan(&nodes) },
            3 => {
                let addrs = nodes.iter().enumerate().map(|(i, n)| addr(i as u16, n.clone())).collect();
                ReplicaCommand::CommitReady { replica, epoch, addrs }
            }
            4 => ReplicaCommand::Lose { replica, epoch, reason },
            5 => ReplicaCommand::Fail { replica, epoch, reason },
            6 => ReplicaCommand::Drain { replica, epoch, reason },
            _ => ReplicaCommand::Remove { replica, epoch },
        }
    })
}

fn commands() -> impl Strategy<Value = Vec<Command>> {
    let one = prop_oneof![
        2 => node_command().prop_map(Command::Node),
        1 => cordon_command().prop_map(Command::Node),
        1 => deployment_command().prop_map(Command::Deployment),
        4 => replica_command().prop_map(Command::Replica),
    ];
    prop::collection::vec(one, 0..120)
}

proptest! {
    #[test]
    fn epochs_never_go_back_and_a_refused_command_changes_nothing(commands in commands()) {
        let mut state = ClusterState::default();
        let mut highest: BTreeMap<ReplicaId, Epoch> = BTreeMap::new();
        for command in commands {
            let before = state.clone();
            let formed = match &command {
                Command::Replica(ReplicaCommand::Form { replica, .. }) => Some(*replica),
                _ => None,
            };
            match state.apply(command) {
                Err(_) => prop_assert_eq!(&state, &before),
                Ok(Applied::Replica(id)) => prop_assert!(highest.insert(id, Epoch(0)).is_none(), "id {} reused", id),
                Ok(_) => {}
            }
            for (id, r) in &state.replicas {
                let last = highest.insert(*id, r.epoch).expect("every replica was created");
                prop_assert!(r.epoch >= last);
                if r.epoch > last {
                    prop_assert_eq!(formed, Some(*id));
                }
            }
        }
    }

    #[test]
    fn applying_is_deterministic_and_a_snapshot_round_trips(commands in commands(), cut in 0..120usize) {
        let mut one = ClusterState::default();
        let mut two = ClusterState::default();
        for (i, command) in commands.into_iter().enumerate() {
            if i == cut {
                let bytes = crate::raft::codec::encode(&two);
                two = crate::raft::codec::decode(&bytes).expect("what was encoded");
            }
            prop_assert_eq!(one.apply(command.clone()), two.apply(command));
            prop_assert_eq!(&one, &two);
        }
    }

    #[test]
    fn a_group_stands_only_while_it_was_formed_on_nodes_that_were_up_and_not_cordoned(commands in commands()) {
        let mut state = ClusterState::default();
        for command in commands {
            let is_free = |r: &NodeRecord| r.standing == Standing::Up && !r.cordon.is_set;
            let free: Vec<_> = state.nodes.iter().filter(|(_, r)| is_free(r)).map(|(n, _)| n.clone()).collect();
            let formed = matches!(command, Command::Replica(ReplicaCommand::Form { .. }));
            let plan = match &command {
                Command::Replica(ReplicaCommand::Form { plan, .. }) => Some(plan.clone()),
                _ => None,
            };
            if state.apply(command).is_ok() && formed {
                prop_assert!(plan.expect("a Form has one").ranks.iter().all(|r| free.contains(&r.node)));
            }
        }
    }

    #[test]
    fn each_accepted_write_of_a_register_has_the_next_revision_and_nothing_else_changes_it(commands in commands()) {
        let mut state = ClusterState::default();
        let mut cordons: BTreeMap<NodeId, Cordon> = BTreeMap::new();
        let mut deployment: Option<(Generation, u16)> = None;
        for command in commands {
            let applied = state.apply(command.clone());
            match (command, applied) {
                (Command::Node(NodeCommand::Register { node, .. }), Ok(_)) => {
                    cordons.entry(node).or_default();
                }
                (Command::Node(NodeCommand::SetCordon { node, is_set, expected }), Ok(applied)) => {
                    let cordon = cordons.get_mut(&node).expect("refused of a node that is not registered");
                    prop_assert!(expected.is_none_or(|e| e == cordon.revision));
                    *cordon = Cordon { is_set, revision: Revision(cordon.revision.0 + 1) };
                    prop_assert_eq!(applied, Applied::Revision(cordon.revision));
                }
                (Command::Node(NodeCommand::SetCordon { node, expected, .. }), Err(_)) => {
                    prop_assert!(cordons.get(&node).is_none_or(|c| expected.is_some_and(|e| e != c.revision)));
                }
                (Command::Deployment(DeploymentCommand::Scale { replicas, .. }), Ok(applied)) => {
                    let generation = Generation(deployment.expect("refused before there is one").0.0 + 1);
                    prop_assert_eq!(applied, Applied::Generation(generation));
                    deployment = Some((generation, replicas));
                }
                (Command::Deployment(DeploymentCommand::Put { spec, .. }), Ok(applied)) => {
                    let generation = Generation(deployment.map_or(1, |d| d.0.0 + 1));
                    prop_assert_eq!(applied, Applied::Generation(generation));
                    deployment = Some((generation, spec.replicas));
                }
                (Command::Deployment(DeploymentCommand::Configure { .. }), Ok(applied)) => {
                    // What it makes of the number of replicas is a test of its own; how it counts is not.
                    let now = &state.deployments["nano"].spec;
                    prop_assert_eq!(applied, Applied::Generation(now.generation));
                    let as_before = deployment == Some((now.generation, now.replicas));
                    prop_assert!(as_before || now.generation.0 == deployment.map_or(1, |d| d.0.0 + 1));
                    deployment = Some((now.generation, now.replicas));
                }
                _ => {}
            }
            let found: BTreeMap<_, _> = state.nodes.iter().map(|(n, r)| (n.clone(), r.cordon)).collect();
            prop_assert_eq!(&found, &cordons);
            let found = state.deployments.get("nano").map(|d| (d.spec.generation, d.spec.replicas));
            prop_assert_eq!(found, deployment);
        }
    }
}

/// One node up, one deployment of tp 1, one replica Waiting.
fn small() -> ClusterState {
    let mut state = ClusterState::default();
    let register = NodeCommand::Register { node: node(1), incarnation: 7, inventory: inventory(1 << 30) };
    state.apply(Command::Node(register)).expect("always");
    let put = DeploymentCommand::Put { expected: None, spec: Box::new(spec(1, 1)) };
    assert_eq!(state.apply(Command::Deployment(put)), Ok(Applied::Generation(Generation(1))));
    let create = ReplicaCommand::Create { deployment: "nano".into(), generation: Generation(1) };
    assert_eq!(state.apply(Command::Replica(create.clone())), Ok(Applied::Replica(ReplicaId(0))));
    assert!(matches!(state.apply(Command::Replica(create)), Err(Refused::EnoughReplicas { wanted: 1, .. })));
    state
}

fn replica(state: &mut ClusterState, command: ReplicaCommand) -> Result<Applied, Refused> {
    state.apply(Command::Replica(command))
}

#[test]
fn a_replica_goes_through_its_whole_life() {
    let mut state = small();
    let id = ReplicaId(0);
    let form = |epoch| ReplicaCommand::Form { replica: id, epoch: Epoch(epoch), plan: plan(&[node(1)]) };
    let ready = |epoch| ReplicaCommand::CommitReady { replica: id, epoch: Epoch(epoch), addrs: vec![addr(0, node(1))] };
    let lose = |epoch| ReplicaCommand::Lose { replica: id, epoch: Epoch(epoch), reason: "gone".into() };

    assert!(matches!(replica(&mut state, form(2)), Err(Refused::Epoch { .. })));
    replica(&mut state, form(1)).expect("the next epoch");
    assert!(matches!(replica(&mut state, form(2)), Err(Refused::Phase { .. })));
    replica(&mut state, lose(1)).expect("forming");
    assert_eq!(state.replicas[&id].failed_formings, 1);
    replica(&mut state, form(2)).expect("the next epoch");
    assert!(matches!(replica(&mut state, ready(1)), Err(Refused::Epoch { .. })));
    replica(&mut state, ready(2)).expect("forming");
    assert_eq!(state.replicas[&id].failed_formings, 0);
    assert!(matches!(replica(&mut state, lose(1)), Err(Refused::Epoch { .. })));
    let drain = ReplicaCommand::Drain { replica: id, epoch: Epoch(2), reason: "leaving".into() };
    replica(&mut state, drain).expect("ready");
    replica(&mut state, lose(2)).expect("draining");
    replica(&mut state, ReplicaCommand::Remove { replica: id, epoch: Epoch(2) }).expect("there");
    assert!(state.replicas.is_empty());
}

#[test]
fn a_group_needs_nodes_that_are_up_and_addresses_of_its_own_ranks() {
    let mut state = small();
    let id = ReplicaId(0);
    let form = |n| ReplicaCommand::Form { replica: id, epoch: Epoch(1), plan: plan(&[node(n)]) };
    assert!(matches!(replica(&mut state, form(2)), Err(Refused::UnknownNode { .. })));
    let down =
        |reason: &str| Command::Node(NodeCommand::Down { node: node(1), incarnation: 7, reason: reason.to_owned() });
    state.apply(down("lease")).expect("up");
    assert!(matches!(state.apply(down("again")), Err(Refused::Standing { .. })));
    assert!(matches!(replica(&mut state, form(1)), Err(Refused::Standing { .. })));
    let register = NodeCommand::Register { node: node(1), incarnation: 8, inventory: inventory(1) };
    state.apply(Command::Node(register)).expect("always");
    let two = ReplicaCommand::Form { replica: id, epoch: Epoch(1), plan: plan(&[node(1), node(1)]) };
    assert!(matches!(replica(&mut state, two), Err(Refused::PlanSize { .. })));
    replica(&mut state, form(1)).expect("up again");
    for addrs in [vec![], vec![addr(0, node(2))], vec![addr(0, node(1)), addr(1, node(1))]] {
        let ready = ReplicaCommand::CommitReady { replica: id, epoch: Epoch(1), addrs };
        assert!(matches!(replica(&mut state, ready), Err(Refused::Address { .. })));
    }
}

#[test]
fn a_deployment_changes_only_against_the_generation_it_was_planned_for() {
    let mut state = small();
    let put = |expected: Option<u64>, replicas| {
        let expected = expected.map(Generation);
        Command::Deployment(DeploymentCommand::Put { expected, spec: Box::new(spec(1, replicas)) })
    };
    assert!(matches!(state.apply(put(None, 2)), Err(Refused::Generation { .. })));
    assert!(matches!(state.apply(put(Some(2), 2)), Err(Refused::Generation { .. })));
    assert_eq!(state.apply(put(Some(1), 2)), Ok(Applied::Generation(Generation(2))));
    assert!(matches!(state.apply(put(Some(2), 300)), Err(Refused::Spec { .. })));
}

#[test]
fn a_cordon_is_written_against_its_revision_and_keeps_new_groups_away() {
    let mut state = small();
    let set = |is_set, expected: Option<u64>| {
        Command::Node(NodeCommand::SetCordon { node: node(1), is_set, expected: expected.map(Revision) })
    };
    let stranger = NodeCommand::SetCordon { node: node(9), is_set: true, expected: None };
    assert!(matches!(state.apply(Command::Node(stranger)), Err(Refused::UnknownNode { .. })));
    assert!(matches!(state.apply(set(true, Some(1))), Err(Refused::Revision { found: Revision(0), .. })));
    assert_eq!(state.apply(set(true, Some(0))), Ok(Applied::Revision(Revision(1))));
    let form = || ReplicaCommand::Form { replica: ReplicaId(0), epoch: Epoch(1), plan: plan(&[node(1)]) };
    assert!(matches!(replica(&mut state, form()), Err(Refused::Cordoned { .. })));
    // The agent's restart is no admin's word.
    let register = NodeCommand::Register { node: node(1), incarnation: 8, inventory: inventory(1 << 30) };
    state.apply(Command::Node(register)).expect("always");
    assert!(matches!(replica(&mut state, form()), Err(Refused::Cordoned { .. })));
    assert_eq!(state.apply(set(false, None)), Ok(Applied::Revision(Revision(2))));
    replica(&mut state, form()).expect("nothing keeps it away");
    assert_eq!(state.apply(set(true, None)), Ok(Applied::Revision(Revision(3))));
    assert!(state.replicas[&ReplicaId(0)].is_on(&node(1)), "what runs stays");
}

#[test]
fn scaling_takes_a_deployment_to_its_next_generation_or_changes_nothing() {
    let mut state = small();
    let scale = |replicas, expected: Option<u64>| {
        let expected = expected.map(Generation);
        Command::Deployment(DeploymentCommand::Scale { name: "nano".into(), replicas, expected })
    };
    assert!(matches!(state.apply(scale(2, Some(2))), Err(Refused::Generation { .. })));
    assert!(matches!(state.apply(scale(257, None)), Err(Refused::Spec { .. })));
    assert_eq!(state.apply(scale(2, Some(1))), Ok(Applied::Generation(Generation(2))));
    assert_eq!(state.apply(scale(0, None)), Ok(Applied::Generation(Generation(3))));
    let other = DeploymentCommand::Scale { name: "other".into(), replicas: 1, expected: None };
    assert!(matches!(state.apply(Command::Deployment(other)), Err(Refused::UnknownDeployment { .. })));
}
