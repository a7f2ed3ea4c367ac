//! Nodes that report, and what they are told.

use coordinator::view::ClusterView;
use protocol::frame::RefusalCode;
use protocol::lease::LeaderNamed;
use protocol::raft::{RaftCall, RaftRequest};
use protocol::{Epoch, Kind, NodeId, Role};

use crate::cluster::{Cluster, SOON, put, spec};
use crate::fake_node::{FakeNode, open_as, refusal, report};

fn ready_epoch(view: &ClusterView) -> Option<u64> {
    view.deployments.first()?.replicas.first().map(|r| r.epoch.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_formed_and_formed_again_after_each_loss() {
    let mut cluster = Cluster::started(3).await;
    let one = FakeNode::start(&cluster, "node-1");
    let two = FakeNode::start(&cluster, "node-2");
    let leader = cluster.leader().await;
    cluster.running[&leader].consensus().propose(put(spec("one", 2)), SOON).await.expect("agreed");
    for id in 1..=3 {
        cluster.sees(id, "the first epoch", |v| ready_epoch(v) == Some(1)).await;
    }
    let view = cluster.running[&1].view().borrow().clone();
    let replica = &view.deployments[0].replicas[0];
    assert_eq!(replica.leader.rank.0, 0);
    assert_eq!(replica.context_tokens, 128);

    // The workers of one node are gone: the next epoch, on the same nodes.
    two.kill_workers.send_replace(1);
    cluster.sees(1, "the second epoch", |v| ready_epoch(v) == Some(2)).await;

    // A new leader leaves what runs as it is.
    let leader = cluster.leader().await;
    cluster.stop(leader).await;
    let next = cluster.leader().await;
    let nodes_heard = || async {
        let raft = cluster.running[&next].consensus();
        raft.read(SOON).await.expect("a majority").state
    };
    // It may have led before it applied what the one before it had committed.
    cluster.sees(next, "the second epoch as it was", |v| ready_epoch(v) == Some(2)).await;

    // A whole node is gone: its lease runs out, and the other takes both ranks.
    one.kill().await;
    cluster.sees(next, "a later epoch on one node", |v| ready_epoch(v).is_some_and(|e| e > 2)).await;
    let state = nodes_heard().await;
    let replica = state.replicas.values().next().expect("one");
    let on: Vec<_> = replica.plan().expect("ready").ranks.iter().map(|r| r.node.as_str()).collect();
    assert_eq!(on, ["node-2", "node-2"]);
    two.kill().await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_ask_is_refused() {
    let mut cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let node = cluster.identity(Role::Node, "node-1");
    let name = NodeId::new("node-1").expect("a label");

    // A follower names the leader.
    let (_endpoint, _connection, mut send, mut recv) = open_as(&cluster, follower, &node).await;
    send.send(Epoch(0), &report(&name, Vec::new()), SOON).await.expect("sent");
    let (code, detail) = refusal(&mut recv).await;
    assert_eq!(code, RefusalCode::NotLeader);
    let named = LeaderNamed::find(&detail).expect("an address");
    assert_eq!(named.addr, cluster.members[leader as usize - 1].internal);
    assert_eq!(named.term, Some(cluster.running[&leader].consensus().leadership().borrow().term), "{detail}");

    // A node speaks for itself only.
    let speak_for_another = async {
        loop {
            let (_endpoint, _connection, mut send, mut recv) = open_as(&cluster, leader, &node).await;
            let other = NodeId::new("node-2").expect("a label");
            send.send(Epoch(0), &report(&other, Vec::new()), SOON).await.expect("sent");
            // A leader that has just been elected confirms its state first.
            match refusal(&mut recv).await {
                (RefusalCode::NotLeader, _) => tokio::task::yield_now().await,
                (code, _) => return code,
            }
        }
    };
    let code = tokio::time::timeout(SOON, speak_for_another).await.expect("in time");
    assert_eq!(code, RefusalCode::Forbidden);

    // And no Raft at all.
    let (_endpoint, _connection, mut send, mut recv) = open_as(&cluster, leader, &node).await;
    let cluster_id = cluster.ca.cluster();
    let vote = RaftRequest { cluster: cluster_id, call: RaftCall::Vote, body: Vec::new() };
    send.send(Epoch(0), &vote, SOON).await.expect("sent");
    assert_eq!(refusal(&mut recv).await.0, RefusalCode::Forbidden);

    // A coordinator's rubbish is refused, not fatal.
    let coordinator = cluster.identity(Role::Coordinator, "coordinator-2");
    let (_endpoint, connection, ..) = open_as(&cluster, leader, &coordinator).await;
    let bad = RaftRequest { cluster: cluster_id, call: RaftCall::AppendEntries, body: vec![1, 2, 3] };
    let answer = connection.call::<_, protocol::raft::RaftResponse>(Epoch(0), &bad, SOON).await;
    assert!(matches!(answer, Err(transport::CallError::Refused(r)) if r.code == RefusalCode::BadRequest));
    assert_eq!(<RaftRequest as protocol::Message>::KIND, Kind::RaftRequest);
    assert_eq!(cluster.leader().await, leader);
    cluster.stop_all().await;
}
