//! `/health/*`: what is committed and what is seen, and what only warns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coordinator::GatewayLimits;
use coordinator::gateway::dispatch::DispatchError;
use coordinator::view::{ClusterView, UnreadyReplica};
use protocol::{Epoch, ReplicaId};
use serde_json::{Value, json};

use crate::client::soon;
use crate::harness::Harness;
use crate::scripted::Step;

#[tokio::test]
async fn health_says_what_is_missing() {
    let h = Harness::unready(vec![], GatewayLimits::default()).await;
    assert_eq!(h.get("/health/live").await.status, 200);
    assert_eq!(h.get("/health/startup").await.status, 503);
    assert_eq!(h.get("/health/ready").await.json()["reasons"], json!(["no deployment is known"]));
    h.serve(0);
    assert_eq!(h.get("/health/startup").await.status, 200);
    let told = h.get("/health/ready").await;
    assert_eq!(told.status, 503);
    assert_eq!(told.json()["reasons"][0], "deployment `main`: no replica is ready, 1 wanted");
    h.serve(1);
    h.until_ready().await;
    let told = h.get("/health/ready").await.json();
    let replicas = json!([{"replica": 1, "epoch": 3, "phase": "ready", "ready": true}]);
    assert_eq!(
        told["deployments"],
        json!([{"name": "main", "generation": 1, "replicas_wanted": 1, "replicas_ready": 1, "replicas": replicas}])
    );
    assert_eq!((&told["reasons"], &told["warnings"]), (&json!([]), &json!([])));
    h.seen.reachable.send_replace(false);
    // Committed Ready is not enough.
    let told = until_status(&h, 503).await;
    assert_eq!(told["reasons"][0], "deployment `main`: replica 1: cannot reach the replica: nobody listens");
    assert_eq!(told["deployments"][0]["replicas"][0]["ready"], false);
    h.seen.reachable.send_replace(true);
    until_status(&h, 200).await;
    h.serve(0);
    assert_eq!(h.get("/health/ready").await.status, 503);
}

/// What `/health/ready` says once it answers so.
async fn until_status(h: &Harness, status: u16) -> Value {
    soon(async {
        loop {
            let told = h.get("/health/ready").await;
            if told.status == status {
                return told.json();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_replica_that_is_not_routed_to_is_told_with_its_phase_and_reason_and_warnings_fail_nothing() {
    let h = Harness::with(vec![], 2, GatewayLimits::default()).await;
    let mut view = ClusterView::clone(&h.view.borrow());
    let reason = Some("rank 1 on node-2: its node is down".to_owned());
    let group = (ReplicaId(9), Epoch(4));
    view.unready = vec![UnreadyReplica { deployment: "main".into(), group, phase: "waiting", reason }];
    view.control.leaderless_since = Some(Instant::now());
    h.view.send_replace(Arc::new(view));
    let told = until_status(&h, 200).await;
    let last = &told["deployments"][0]["replicas"][2];
    let expected = json!({"replica": 9, "epoch": 4, "phase": "waiting", "ready": false,
        "reason": "rank 1 on node-2: its node is down"});
    assert_eq!(last, &expected);
    assert!(told["warnings"][0].as_str().unwrap().starts_with("no leader for "), "{told}");
}

#[tokio::test]
async fn a_replica_whose_streams_are_lost_one_after_another_is_not_ready() {
    let lost = vec![Step::Break(DispatchError::Lost { reason: "cut".into() })];
    let h = Harness::with(vec![Ok(lost)], 1, GatewayLimits::default()).await;
    let body = json!({"model": "tiny", "prompt": "x"});
    let told = soon(async {
        loop {
            assert_ne!(h.post("/v1/completions", &body).await.status, 200);
            let told = h.get("/health/ready").await;
            if told.status == 503 {
                return told.json();
            }
        }
    })
    .await;
    let reason = told["reasons"][0].as_str().unwrap();
    assert!(reason.starts_with("deployment `main`: replica 1: its last ") && reason.ends_with("were lost"), "{reason}");
}

#[tokio::test]
async fn a_coordinator_that_cannot_go_on_is_not_live() {
    let h = Harness::with(vec![], 1, GatewayLimits::default()).await;
    let mut view = ClusterView::clone(&h.view.borrow());
    view.control.fatal = Some("raft log: no space left".into());
    h.view.send_replace(Arc::new(view));
    let told = h.get("/health/live").await;
    assert_eq!(told.status, 503);
    assert_eq!(told.json()["reasons"], json!(["the coordinator cannot go on: raft log: no space left"]));
}
