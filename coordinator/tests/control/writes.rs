//! What admins change: through any coordinator, against a revision, and told apart when it cannot be.

use std::path::{Path, PathBuf};

use coordinator::DeploymentSeed;
use protocol::admin::{CordonWritten, DeploymentInfo, ErrorBody, NodeInfo, Reach, ScaleWritten, Single};
use protocol::{CoordinatorId, Dtype, Generation, Revision, Role, WorldSize};
use serde::de::DeserializeOwned;
use transport::tls::{client_config_admin, client_config_pinned};

use crate::admin::{error, get, http};
use crate::cluster::{Cluster, SOON};
use crate::fake_node::FakeNode;

async fn post(cluster: &Cluster, id: u64, path: &str, body: &str) -> (u16, String) {
    let tls = client_config_admin(&cluster.identity(Role::Admin, "admin")).expect("a configuration");
    http(cluster, id, tls, "POST", path, body).await
}

async fn written<T: DeserializeOwned>(cluster: &Cluster, id: u64, path: &str, body: &str) -> T {
    let (status, answer) = post(cluster, id, path, body).await;
    assert_eq!(status, 200, "{path}: {answer}");
    serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{path}: {e}: {answer}"))
}

async fn refused(cluster: &Cluster, id: u64, path: &str, body: &str) -> (u16, ErrorBody) {
    let (status, answer) = post(cluster, id, path, body).await;
    (status, error(&answer))
}

/// As `cluster.toml` would say it: the built-in checkpoint.
fn seed(replicas: u16) -> DeploymentSeed {
    DeploymentSeed {
        name: "default".into(),
        model_dir: PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/autoglm-nano")),
        served_names: vec!["nano".into()],
        tp: WorldSize::ONE,
        replicas,
        dtype: Dtype::F32,
        threads_per_worker: 1,
        kv_tokens: Some(256),
        context_tokens: Some(128),
        max_seqs: 4,
        step_tokens: 64,
        pictures_max: 10,
        picture_pixels_max: None,
    }
}

async fn started(seed: DeploymentSeed) -> Cluster {
    assert!(Path::new(&seed.model_dir).exists(), "{}", seed.model_dir.display());
    let mut cluster = Cluster::new(3);
    cluster.seed = Some(seed);
    for id in 1..=3 {
        cluster.start(id).await.expect("starts");
    }
    let configured = |v: &coordinator::view::ClusterView| !v.deployments.is_empty();
    cluster.sees(1, "the configured deployment", configured).await;
    cluster
}

async fn node_registered(cluster: &Cluster) {
    for running in cluster.running.values() {
        let mut applied = running.consensus().applied();
        let known = applied.wait_for(|a| !a.state.nodes.is_empty());
        tokio::time::timeout(SOON, known).await.expect("registered in time").expect("running");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_coordinator_takes_a_change_and_each_has_a_revision_of_its_own() {
    let mut cluster = started(seed(1)).await;
    let node = FakeNode::start(&cluster, "node-1");
    node_registered(&cluster).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);

    let first: CordonWritten = written(&cluster, follower, "/v1/nodes/node-1/cordon", "").await;
    assert_eq!((first.cordoned, first.revision), (true, Revision(1)));
    let found: Single<NodeInfo> = get(&cluster, leader, "/v1/nodes/node-1").await;
    assert_eq!((found.item.cordoned, found.item.revision), (true, Revision(1)));
    assert_eq!(found.consistency, "linearizable");
    assert!(found.applied_index >= first.log_index);
    let stale: Single<NodeInfo> = get(&cluster, follower, "/v1/nodes/node-1?consistency=stale").await;
    assert_eq!(stale.consistency, "stale");

    let (status, why) = refused(&cluster, follower, "/v1/nodes/node-1/uncordon", r#"{"expected": 0}"#).await;
    assert_eq!((status, why.code.as_str(), why.found), (409, "precondition_failed", Some(1)));
    let second: CordonWritten = written(&cluster, leader, "/v1/nodes/node-1/uncordon", r#"{"expected": 1}"#).await;
    assert_eq!((second.cordoned, second.revision), (false, Revision(2)));
    assert!(second.log_index > first.log_index);

    let scale = "/v1/deployments/default/scale";
    let three: ScaleWritten = written(&cluster, follower, scale, r#"{"replicas": 3, "expected_generation": 1}"#).await;
    assert_eq!((three.replicas, three.generation), (3, Generation(2)));
    let (status, why) = refused(&cluster, leader, scale, r#"{"replicas": 4, "expected_generation": 1}"#).await;
    assert_eq!((status, why.code.as_str(), why.found), (409, "precondition_failed", Some(2)));
    let found: Single<DeploymentInfo> = get(&cluster, follower, "/v1/deployments/default").await;
    assert_eq!((found.item.replicas_wanted, found.item.generation), (3, Generation(2)));

    for (path, body, expected) in [
        ("/v1/nodes/node-9/cordon", "", (404, "not_found")),
        ("/v1/nodes/Not_A_Label/cordon", "", (404, "not_found")),
        ("/v1/nodes/node-1/cordon", r#"{"expects": 1}"#, (400, "bad_request")),
        ("/v1/deployments/other/scale", r#"{"replicas": 1}"#, (404, "not_found")),
        ("/v1/deployments/Not_A_Label/scale", r#"{"replicas": 1}"#, (404, "not_found")),
        (scale, r#"{"replicas": 300}"#, (400, "bad_request")),
        (scale, "", (400, "bad_request")),
        (scale, r#"{"replicas": -1}"#, (400, "bad_request")),
    ] {
        let (status, why) = refused(&cluster, follower, path, body).await;
        assert_eq!((status, why.code.as_str()), expected, "{path} {body}: {}", why.message);
    }
    let admin = client_config_admin(&cluster.identity(Role::Admin, "admin")).expect("a configuration");
    for path in ["/v1/nodes/node-9", "/v1/deployments/other"] {
        let (status, body) = http(&cluster, follower, admin.clone(), "GET", path, "").await;
        assert_eq!((status, error(&body).code.as_str()), (404, "not_found"));
    }
    let strangers = [
        client_config_admin(&cluster.identity(Role::Coordinator, "coordinator-1")),
        client_config_pinned(&cluster.ca.fingerprint()),
    ];
    for tls in strangers {
        let (status, body) =
            http(&cluster, leader, tls.expect("a configuration"), "POST", scale, r#"{"replicas": 9}"#).await;
        assert_eq!((status, error(&body).code.as_str()), (401, "unauthorized"));
    }
    let found: Single<DeploymentInfo> = get(&cluster, follower, "/v1/deployments/default").await;
    assert_eq!(found.item.generation, Generation(2), "a refused change was made");
    node.kill().await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scaled_deployment_outlives_its_leader_and_a_restart_until_the_file_says_another_number() {
    let mut cluster = started(seed(1)).await;
    let follower = cluster.follower().await;
    let scale = "/v1/deployments/default/scale";
    let _: ScaleWritten = written(&cluster, follower, scale, r#"{"replicas": 3}"#).await;
    let leader = cluster.leader().await;
    cluster.stop(leader).await;
    let next = cluster.leader().await;
    // What the new leader makes of its configuration, it does before its first write is answered or after: a change of another
    // thing is no proof. So it is looked at after a whole restart too.
    let found: Single<DeploymentInfo> = get(&cluster, next, "/v1/deployments/default").await;
    assert_eq!(found.item.replicas_wanted, 3);
    cluster.stop_all().await;
    for id in 1..=3 {
        cluster.start(id).await.expect("starts");
    }
    let leader = cluster.leader().await;
    let found: Single<DeploymentInfo> = get(&cluster, leader, "/v1/deployments/default").await;
    assert_eq!((found.item.replicas_wanted, found.item.generation), (3, Generation(2)));
    cluster.stop_all().await;
    cluster.seed = Some(seed(2));
    for id in 1..=3 {
        cluster.start(id).await.expect("starts");
    }
    let as_configured =
        |v: &coordinator::view::ClusterView| v.deployments.first().is_some_and(|d| d.spec.replicas == 2);
    cluster.sees(1, "the number that the file says now", as_configured).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_written_or_nobody_knows_and_the_answer_says_which() {
    let mut cluster = started(seed(1)).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let third = 6 - leader - follower;
    let scale = "/v1/deployments/default/scale";
    cluster.stop(third).await;
    cluster.stop(leader).await;
    // The follower is alone: whoever led is gone, nothing can be proposed.
    let tls = client_config_admin(&cluster.identity(Role::Admin, "admin")).expect("a configuration");
    let (status, body) = http(&cluster, follower, tls, "POST", scale, r#"{"replicas": 5}"#).await;
    let why = error(&body);
    assert!(status == 503 && (why.code == "no_leader" || why.code == "no_quorum"), "{status} {body}");
    let reach = why.reach.expect("what is seen of the others");
    let others: Vec<_> = (1..=3).filter(|id| *id != follower).map(CoordinatorId).collect();
    let expected = Reach {
        coordinator: CoordinatorId(follower),
        reached: Vec::new(),
        unreached: others,
        led_last: Some(CoordinatorId(leader)),
    };
    assert_eq!(reach, expected);
    assert!(why.message.starts_with("nothing was written"), "{}", why.message);

    cluster.start(leader).await.expect("starts");
    let again = cluster.leader().await;
    let found: Single<DeploymentInfo> = get(&cluster, again, "/v1/deployments/default").await;
    assert_eq!((found.item.replicas_wanted, found.item.generation), (1, Generation(1)), "it was written after all");

    // A leader that has just lost its majority may have begun to write: that is told as what it is.
    let other = if again == leader { follower } else { leader };
    cluster.stop(other).await;
    let (status, why) = refused(&cluster, again, scale, r#"{"replicas": 7, "expected_generation": 1}"#).await;
    cluster.start(other).await.expect("starts");
    cluster.start(third).await.expect("starts");
    let now = cluster.leader().await;
    let found: Single<DeploymentInfo> = get(&cluster, now, "/v1/deployments/default").await;
    match (status, why.code.as_str()) {
        (504, "outcome_unknown") => assert!(matches!(found.item.generation.0, 1 | 2)),
        (503, "no_quorum" | "no_leader") => assert_eq!(found.item.generation, Generation(1)),
        other => panic!("{other:?}: {}", why.message),
    }
    cluster.stop_all().await;
}
