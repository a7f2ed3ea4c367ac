//! Members come and go while the cluster serves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coordinator::raft::{ChangeError, Consensus, MemberChange, Out, ProposeError};
use protocol::CoordinatorId;
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, SOON, put, spec};

/// Writes one deployment after the other through `raft` until told to stop; returns the names that were acknowledged.
fn write(raft: Consensus, prefix: &'static str, stop: Arc<AtomicBool>) -> JoinHandle<BTreeSet<String>> {
    tokio::spawn(async move {
        let mut acknowledged = BTreeSet::new();
        for i in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let name = format!("{prefix}-{i}");
            if raft.propose(put(spec(&name, 1)), SOON).await.is_ok() {
                acknowledged.insert(name);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        acknowledged
    })
}

async fn change(cluster: &Cluster, via: u64, change: MemberChange) {
    let raft = cluster.running[&via].consensus();
    let until = tokio::time::Instant::now() + SOON;
    loop {
        match raft.change_members(change.clone(), SOON).await {
            Ok(()) => return,
            // What the command line's `--wait` tries again on.
            Err(
                ChangeError::Busy
                | ChangeError::NotAgreed(
                    ProposeError::Unknown { .. } | ProposeError::NoLeader { .. } | ProposeError::NoQuorum { .. },
                ),
            ) if tokio::time::Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(e) => panic!("{change:?}: {e}"),
        }
    }
}

fn remove(id: u64) -> MemberChange {
    MemberChange::Remove { id: CoordinatorId(id) }
}

/// Waits until coordinator `id` is out because it was removed, and stops it.
async fn leaves(cluster: &mut Cluster, id: u64) {
    let out = tokio::time::timeout(SOON, cluster.running[&id].out()).await.expect("it finds out in time");
    assert_eq!(out, Out::Removed { id: CoordinatorId(id) });
    cluster.stop(id).await;
}

/// Who votes, by a linearizable read at coordinator `at`.
async fn ids(cluster: &Cluster, at: u64) -> Vec<u64> {
    let raft = cluster.running[&at].consensus();
    raft.read(SOON).await.expect("a majority is there");
    raft.newest_members().list.iter().filter(|m| m.votes).map(|m| m.addrs.id.0).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_first_member_is_replaced_while_writes_go_on_and_none_is_lost() {
    let mut cluster = Cluster::started(3).await;
    cluster.leader().await;
    let mut added = Vec::new();
    for id in [4, 5, 6] {
        added.push(cluster.prepare(id));
        cluster.start(id).await.expect("starts with an empty directory");
    }
    let stop = Arc::new(AtomicBool::new(false));
    // The writers' coordinators stay to the end.
    change(&cluster, 2, MemberChange::add(added[0])).await;
    let writers = [
        write(cluster.running[&4].consensus().clone(), "four", Arc::clone(&stop)),
        write(cluster.running[&5].consensus().clone(), "five", Arc::clone(&stop)),
    ];
    let leader = cluster.leader_of(&[1, 2, 3, 4]).await;
    let first = if leader == 4 { 1 } else { leader };
    change(&cluster, 4, remove(first)).await;
    leaves(&mut cluster, first).await;
    change(&cluster, 4, MemberChange::add(added[1])).await;
    let rest: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != first).collect();
    change(&cluster, 5, remove(rest[0])).await;
    leaves(&mut cluster, rest[0]).await;
    change(&cluster, rest[1], MemberChange::add(added[2])).await;
    change(&cluster, 6, remove(rest[1])).await;
    leaves(&mut cluster, rest[1]).await;

    cluster.leader_of(&[4, 5, 6]).await;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = BTreeSet::new();
    for writer in writers {
        acknowledged.extend(writer.await.expect("a writer ends"));
    }
    assert!(acknowledged.len() > 10, "only {} writes went through", acknowledged.len());
    for id in [4, 5, 6] {
        let read = cluster.running[&id].consensus().read(SOON).await.expect("a majority is there");
        let lost: Vec<_> = acknowledged.iter().filter(|name| !read.state.deployments.contains_key(*name)).collect();
        assert!(lost.is_empty(), "coordinator {id} lost {lost:?}");
        assert_eq!(ids(&cluster, id).await, [4, 5, 6]);
    }

    // All of it is on disk, and needs no word of the configuration.
    cluster.stop_all().await;
    for id in [4, 5, 6] {
        cluster.start(id).await.expect("starts from its own disk");
    }
    let leader = cluster.leader_of(&[4, 5, 6]).await;
    let read = cluster.running[&leader].consensus().read(SOON).await.expect("a majority is there");
    assert!(acknowledged.iter().all(|name| read.state.deployments.contains_key(name)));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_grows_to_three_and_survives_its_first_member() {
    let mut cluster = Cluster::started(1).await;
    cluster.leader().await;
    cluster.running[&1].consensus().propose(put(spec("one", 1)), SOON).await.expect("agreed");
    for id in [2, 3] {
        let addrs = cluster.prepare(id);
        cluster.start(id).await.expect("starts with an empty directory");
        change(&cluster, 1, MemberChange::add(addrs)).await;
        change(&cluster, 1, MemberChange::add(addrs)).await;
    }
    assert_eq!(ids(&cluster, 1).await, [1, 2, 3]);
    cluster.stop(1).await;
    let leader = cluster.leader_of(&[2, 3]).await;
    let raft = cluster.running[&leader].consensus();
    raft.propose(put(spec("two", 1)), SOON).await.expect("two of three agree");
    cluster.start(1).await.expect("starts, configured alone as it was");
    cluster.sees(1, "what it missed", |v| v.deployments.len() == 2).await;
    assert_eq!(ids(&cluster, 1).await, [1, 2, 3]);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_coordinator_that_does_not_come_is_taken_out_again() {
    let mut cluster = Cluster::started(3).await;
    let follower = cluster.follower().await;
    let absent = cluster.prepare(4);
    let raft = cluster.running[&follower].consensus().clone();
    let refused = raft.change_members(MemberChange::add(absent), SOON).await;
    assert!(matches!(refused, Err(ChangeError::NotCaughtUp { .. })), "{refused:?}");
    let mut members = raft.members();
    tokio::time::timeout(SOON, members.wait_for(|m| m.list.len() == 3)).await.expect("taken out").expect("runs");
    raft.propose(put(spec("one", 1)), SOON).await.expect("the three go on");
    // It never had a vote: the same id may come later.
    cluster.start(4).await.expect("starts");
    change(&cluster, follower, MemberChange::add(absent)).await;
    assert_eq!(ids(&cluster, follower).await, [1, 2, 3, 4]);
    drop((raft, members));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_break_the_cluster_is_refused() {
    let mut cluster = Cluster::started(2).await;
    cluster.leader().await;
    let raft = cluster.running[&1].consensus().clone();
    let ask = async |change: MemberChange| raft.change_members(change, SOON).await.expect_err("refused");

    let new = cluster.prepare(4);
    let mut taken = new;
    taken.public = cluster.members[0].public;
    assert!(matches!(ask(MemberChange::add(taken)).await, ChangeError::AddrInUse { by: CoordinatorId(1), .. }));
    let mut moved = cluster.members[1];
    moved.internal = new.internal;
    assert!(matches!(ask(MemberChange::add(moved)).await, ChangeError::IsMember { .. }));
    assert_eq!(ask(remove(9)).await, ChangeError::NoMember { id: CoordinatorId(9) });

    // Two at once: one goes through, the other is told.
    let leader = cluster.leader().await;
    let at_leader = cluster.running[&leader].consensus().clone();
    let slow = tokio::spawn({
        let at_leader = at_leader.clone();
        async move { at_leader.change_members(MemberChange::add(new), SOON).await }
    });
    let mut members = at_leader.members();
    tokio::time::timeout(SOON, members.wait_for(|m| m.list.len() == 3)).await.expect("a learner").expect("runs");
    assert_eq!(at_leader.change_members(remove(2), SOON).await, Err(ChangeError::Busy));
    assert!(matches!(slow.await.expect("ends"), Err(ChangeError::NotCaughtUp { .. })));

    let (gone, left) = if leader == 1 { (2, 1) } else { (1, 2) };
    change(&cluster, left, remove(gone)).await;
    leaves(&mut cluster, gone).await;
    let alone = cluster.running[&left].consensus().clone();
    let last = alone.change_members(remove(left), SOON).await;
    assert_eq!(last, Err(ChangeError::Last { id: CoordinatorId(left) }));
    let again = alone.change_members(MemberChange::add(cluster.members[gone as usize - 1]), SOON).await;
    assert_eq!(again, Err(ChangeError::IdUsed { id: CoordinatorId(gone) }));
    assert_eq!(alone.change_members(remove(gone), SOON).await, Ok(()), "removed is removed");
    drop((raft, at_leader, alone, members));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_lost_its_disk_takes_no_part_until_it_is_replaced() {
    let mut cluster = Cluster::started(3).await;
    let lost = cluster.follower().await;
    let leader = cluster.leader().await;
    cluster.running[&leader].consensus().propose(put(spec("one", 1)), SOON).await.expect("agreed");
    cluster.stop(lost).await;
    std::fs::remove_dir_all(cluster.state_dir(lost)).expect("there");
    cluster.start(lost).await.expect("starts, and asks");
    let out = tokio::time::timeout(SOON, cluster.running[&lost].out()).await.expect("it finds out in time");
    assert_eq!(out, Out::Forgot { id: CoordinatorId(lost) });
    assert!(out.to_string().contains(&format!("shardglm member remove {lost}")), "{out}");
    assert_eq!(cluster.running[&lost].consensus().applied().borrow().index, 0, "it took entries");
    cluster.stop(lost).await;

    let leader = cluster.leader().await;
    change(&cluster, leader, remove(lost)).await;
    let new = cluster.prepare(4);
    cluster.start(4).await.expect("starts");
    change(&cluster, leader, MemberChange::add(new)).await;
    cluster.sees(4, "what was agreed on before", |v| v.deployments.len() == 1).await;

    // It comes back with its empty directory: removed for good.
    cluster.start(lost).await.expect("starts, and asks");
    leaves(&mut cluster, lost).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_start_waits_for_every_configured_coordinator() {
    let mut cluster = Cluster::new(3);
    cluster.start(1).await.expect("starts");
    cluster.start(2).await.expect("starts");
    let refused = cluster.running[&1].consensus().propose(put(spec("one", 1)), Duration::from_secs(2)).await;
    assert!(refused.is_err(), "two of three formed a cluster");
    cluster.start(3).await.expect("starts");
    cluster.leader().await;
    cluster.running[&3].consensus().propose(put(spec("one", 1)), SOON).await.expect("agreed");
    cluster.stop_all().await;
}
