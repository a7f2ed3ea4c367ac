//! What was acknowledged stays, whoever dies.

use std::time::Duration;

use coordinator::raft::ProposeError;
use coordinator::state::{Applied, Command, DeploymentCommand, Refused};
use protocol::Generation;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, SOON, put, spec};

fn has(view: &coordinator::view::ClusterView, name: &str) -> bool {
    view.deployments.iter().any(|d| d.spec.name == name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_through_any_coordinator_reaches_all_and_outlives_restart_and_loss() {
    let mut cluster = Cluster::started(3).await;
    let follower = cluster.follower().await;
    let raft = cluster.running[&follower].consensus().clone();
    let applied = raft.propose(put(spec("one", 1)), SOON).await;
    assert_eq!(applied, Ok(Applied::Generation(Generation(1))));
    let refused = raft.propose(put(spec("one", 1)), SOON).await;
    assert!(matches!(refused, Err(ProposeError::Refused(Refused::Generation { .. }))), "{refused:?}");
    drop(raft);
    for id in [1, 2, 3] {
        let read = cluster.running[&id].consensus().read(SOON).await.expect("a majority is there");
        assert!(read.state.deployments.contains_key("one"), "coordinator {id} read an older state");
    }

    // A coordinator that was away while something changed.
    cluster.stop(follower).await;
    let leader = cluster.leader().await;
    cluster.running[&leader].consensus().propose(put(spec("two", 1)), SOON).await.expect("two of three agree");
    cluster.start(follower).await.expect("starts from its own disk");
    cluster.sees(follower, "both", |v| has(v, "one") && has(v, "two")).await;

    // The leader is gone.
    let leader = cluster.leader().await;
    cluster.stop(leader).await;
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    let raft = cluster.running[&next].consensus().clone();
    raft.propose(put(spec("three", 1)), SOON).await.expect("two of three agree");
    let read = raft.read(SOON).await.expect("two of three agree");
    assert_eq!(read.state.deployments.keys().collect::<Vec<_>>(), ["one", "three", "two"]);
    drop(raft);

    // The whole cluster.
    cluster.stop_all().await;
    for id in 1..=3 {
        cluster.start(id).await.expect("starts from its own disk");
    }
    let leader = cluster.leader().await;
    let read = cluster.running[&leader].consensus().read(SOON).await.expect("a majority is there");
    assert_eq!(read.state.deployments.len(), 3);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_changes_are_refused_and_the_view_stays() {
    let mut cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    cluster.running[&leader].consensus().propose(put(spec("one", 1)), SOON).await.expect("agreed");
    let follower = cluster.follower().await;
    cluster.sees(follower, "the change", |v| has(v, "one")).await;
    for id in [1, 2, 3].into_iter().filter(|id| *id != follower) {
        cluster.stop(id).await;
    }
    let raft = cluster.running[&follower].consensus();
    let refused = raft.propose(put(spec("two", 1)), Duration::from_millis(1500)).await;
    assert!(matches!(refused, Err(ProposeError::NoLeader { .. } | ProposeError::Unknown { .. })), "{refused:?}");
    assert!(raft.read(Duration::from_millis(300)).await.is_err(), "nobody could confirm it");
    cluster.sees(follower, "that nobody leads", |v| v.leader.is_none()).await;
    let at_once = raft.propose(put(spec("two", 1)), Duration::from_millis(50)).await;
    assert!(matches!(at_once, Err(ProposeError::NoLeader { .. })), "not told that nobody leads: {at_once:?}");
    assert!(has(&cluster.running[&follower].view().borrow(), "one"));
    // Alone from its own disk it still knows what was committed.
    cluster.stop(follower).await;
    cluster.start(follower).await.expect("starts");
    cluster.sees(follower, "what was committed", |v| has(v, "one")).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_bound_the_log_and_bring_a_late_coordinator_up_to_date() {
    let mut cluster = Cluster::started(3).await;
    let late = cluster.follower().await;
    cluster.stop(late).await;
    let leader = cluster.leader().await;
    let raft = cluster.running[&leader].consensus().clone();
    raft.propose(put(spec("one", 1)), SOON).await.expect("agreed");
    let mut writers = JoinSet::new();
    for writer in 0..50 {
        let raft = raft.clone();
        writers.spawn(async move {
            for i in 0..28 {
                let reason = Some(format!("writer {writer}, reason {i}"));
                let block = DeploymentCommand::Block { name: "one".into(), generation: Generation(1), reason };
                raft.propose(Command::Deployment(block), SOON).await.expect("agreed");
            }
        });
    }
    writers.join_all().await;
    let index = raft.read(SOON).await.expect("a majority").index;
    drop(raft);
    cluster.start(late).await.expect("starts");
    cluster.sees(late, "every entry", |v| v.applied_index >= index).await;
    let state = cluster.running[&late].consensus().applied().borrow().state.clone();
    assert_eq!(state.deployments["one"].spec.name, "one");
    cluster.stop_all().await;
}
