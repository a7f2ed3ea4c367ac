//! A cluster that loses its power: everything is killed, some or all of it is started again, and it serves by itself.
//!
//! Times to serving are printed, not asserted.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::daemons::{AGAIN_WITHIN, Daemons, LONG};
use crate::harness::until;

/// How long nodes are left without any coordinator: longer than their lease, and shorter than until they give up.
const NODES_ALONE: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_lost_its_power_serves_again_by_itself_whatever_comes_back_first() {
    let mut cluster = Daemons::lay_out();
    cluster.start_all();
    let (mut epoch, expected) = cluster.serving(2, "first start").await;

    cluster.cut_power();
    cluster.start_all();
    let (now, answer) = cluster.serving(1, "everything at once").await;
    assert!(now >= epoch, "the epoch went back from {epoch} to {now}");
    assert_eq!(answer, expected);
    epoch = now;

    cluster.cut_power();
    cluster.start_nodes();
    tokio::time::sleep(NODES_ALONE).await;
    cluster.start_coordinators(&[1, 2, 3]);
    let (now, answer) = cluster.serving(3, "nodes first").await;
    assert!(now >= epoch, "the epoch went back from {epoch} to {now}");
    assert_eq!(answer, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_coordinator_serves_what_was_committed_and_ranks_come_back_without_a_leader() {
    let mut cluster = Daemons::lay_out();
    cluster.start_all();
    cluster.serving(1, "first start").await;
    let (epoch, expected) = cluster.serving(2, "first start").await;

    // The others die while the last one is in the middle of an answer.
    let whole = cluster.answer(2, LONG).await;
    let running = tokio::spawn(cluster.answer(2, LONG));
    cluster.kill("coordinator-1");
    cluster.kill("coordinator-3");
    assert!(whole.is_some() && running.await.expect("no panic") == whole, "an answer that had begun");
    assert_eq!(cluster.serving(2, "two of three killed").await, (epoch, expected.clone()));

    // One coordinator of three, started anew without any other, and both nodes.
    cluster.cut_power();
    cluster.start_coordinators(&[2]);
    cluster.start_nodes();
    assert_eq!(cluster.serving(2, "one coordinator of three").await, (epoch, expected.clone()));
    let (_, health) = cluster.health(2).await.expect("it answers");
    let warnings = health["warnings"].to_string();
    assert!(warnings.contains("no leader for") && warnings.contains("2 of 3 coordinators"), "{warnings}");

    // A rank, and then an agent, while nobody leads.
    for name in ["node-1", "node-2"] {
        let worker = cluster.worker_of(name).expect("a rank on each node");
        worker.kill();
        until("the killed rank has a successor", AGAIN_WITHIN, || cluster.worker_of(name).filter(|w| *w != worker));
        assert_eq!(cluster.serving(2, "a killed rank").await, (epoch, expected.clone()), "{name}");
    }
    cluster.kill("node-2");
    cluster.start_node(2);
    until("the new agent has a rank", AGAIN_WITHIN, || cluster.worker_of("node-2"));
    assert_eq!(cluster.serving(2, "a killed agent").await, (epoch, expected.clone()));

    // A leader comes back and takes the group over as it is.
    cluster.start_coordinators(&[1, 3]);
    let started = Instant::now();
    loop {
        if let Some((true, health)) = cluster.health(1).await
            && health["warnings"] == json!([])
        {
            break;
        }
        assert!(started.elapsed() < AGAIN_WITHIN, "no leader\n{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Longer than the leader waits for a node before it loses its groups.
    tokio::time::sleep(NODES_ALONE).await;
    assert_eq!(cluster.serving(3, "a leader again").await, (epoch, expected));
}
