//! The admin API over TLS, spoken by hand.

use std::path::PathBuf;
use std::sync::Arc;

use coordinator::DeploymentSeed;
use protocol::admin::{DeploymentInfo, ErrorBody, Listing, MemberInfo, NodeInfo};
use protocol::join::{JoinRequest, JoinResponse};
use protocol::{Dtype, Identity, NodeId, Role, WorldSize};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, pki_types::CertificateDer, pki_types::pem::PemObject};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use transport::JoinKey;
use transport::tls::{client_config_admin, client_config_pinned};

use crate::cluster::{Cluster, SOON, put, spec};
use crate::fake_node::FakeNode;

/// One request, one answer: status and body.
pub(crate) async fn http(
    cluster: &Cluster,
    id: u64,
    tls: ClientConfig,
    method: &str,
    path: &str,
    body: &str,
) -> (u16, String) {
    let addr = cluster.members[id as usize - 1].admin;
    let talk = async {
        let tcp = TcpStream::connect(addr).await.expect("listens");
        let name = ServerName::try_from("shardglm.internal").expect("a name");
        let mut stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.expect("a handshake");
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        // A server that closes without TLS's goodbye has still said everything.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).expect("text")
    };
    let answer = tokio::time::timeout(SOON, talk).await.expect("an answer in time");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status line");
    (status, body.to_owned())
}

pub(crate) async fn get<T: DeserializeOwned>(cluster: &Cluster, id: u64, path: &str) -> T {
    let admin = cluster.identity(Role::Admin, "admin");
    let tls = client_config_admin(&admin).expect("a configuration");
    let (status, body) = http(cluster, id, tls, "GET", path, "").await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}"))
}

pub(crate) fn error(body: &str) -> ErrorBody {
    serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_joins_with_the_token_and_only_with_it() {
    let mut cluster = Cluster::started(1).await;
    cluster.leader().await;
    let key = JoinKey::generate().expect("a key");
    let csr_pem = key.csr_pem().to_owned();
    let token = cluster.token();
    let join = async |secret: &str, name: &str, csr_pem: &str| {
        let request = JoinRequest { secret: secret.into(), name: name.into(), csr_pem: csr_pem.into() };
        let body = serde_json::to_string(&request).expect("plain data");
        let tls = client_config_pinned(&token.ca_sha256).expect("a configuration");
        http(&cluster, 1, tls, "POST", "/v1/join", &body).await
    };
    for wrong in ["0".repeat(32), String::new(), token.secret[..31].to_owned()] {
        let (status, body) = join(&wrong, "node-1", &csr_pem).await;
        assert_eq!((status, error(&body).code.as_str()), (401, "unauthorized"));
        assert!(!body.contains(&token.secret));
    }
    let (status, body) = join(&token.secret, "Not A Label", &csr_pem).await;
    assert_eq!((status, error(&body).code.as_str()), (400, "bad_request"));
    let (status, body) = join(&token.secret, "node-1", "not a request").await;
    assert_eq!((status, error(&body).code.as_str()), (400, "bad_request"));

    let (status, body) = join(&token.secret, "node-1", &csr_pem).await;
    assert_eq!(status, 200, "{body}");
    let joined: JoinResponse = serde_json::from_str(&body).expect("a certificate");
    assert_eq!(joined.cluster_id, cluster.ca.cluster());
    let cert = CertificateDer::from_pem_slice(joined.cert_pem.as_bytes()).expect("PEM");
    let identity = transport::identity::identity_of(&cert).expect("an identity");
    let expected =
        Identity { cluster: cluster.ca.cluster(), role: Role::Node, name: NodeId::new("node-1").expect("a label") };
    assert_eq!(identity, expected);

    // The name of a node that is up is not given twice.
    let node = FakeNode::start(&cluster, "node-1");
    let mut applied = cluster.running[&1].consensus().applied();
    let up = applied.wait_for(|a| a.state.nodes.values().any(|n| n.is_alive()));
    tokio::time::timeout(SOON, up).await.expect("registered in time").expect("running");
    let (status, body) = join(&token.secret, "node-1", &csr_pem).await;
    assert_eq!((status, error(&body).code.as_str()), (409, "precondition_failed"));
    node.kill().await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admins_list_everything_from_any_coordinator_and_nobody_else_does() {
    let mut cluster = Cluster::new(3);
    cluster.seed = Some(seed_of_nothing());
    for id in 1..=3 {
        cluster.start(id).await.expect("starts");
    }
    let node = FakeNode::start(&cluster, "node-1");
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    cluster.running[&leader].consensus().propose(put(spec("one", 1)), SOON).await.expect("agreed");
    let ready = |v: &coordinator::view::ClusterView| v.deployments.iter().any(|d| !d.replicas.is_empty());
    cluster.sees(follower, "a ready replica", ready).await;

    let members: Listing<MemberInfo> = get(&cluster, follower, "/v1/members").await;
    let leaders: Vec<_> = members.items.iter().filter(|m| m.role == "leader").map(|m| m.id.0).collect();
    assert_eq!((members.items.len(), leaders), (3, vec![leader]));
    for (id, path, consistency) in [
        (leader, "/v1/nodes", "linearizable"),
        (follower, "/v1/nodes", "linearizable"),
        (follower, "/v1/nodes?consistency=stale", "stale"),
    ] {
        let nodes: Listing<NodeInfo> = get(&cluster, id, path).await;
        assert_eq!(nodes.consistency, consistency);
        assert_eq!(nodes.items.len(), 1);
        assert_eq!(nodes.items[0].ranks.len(), 1);
        assert!(nodes.items[0].ranks[0].phase.is_some(), "the leader has heard of it");
    }
    let deployments: Listing<DeploymentInfo> = get(&cluster, follower, "/v1/deployments").await;
    let [one, unreadable] = &deployments.items[..] else { panic!("{deployments:?}") };
    assert_eq!((one.name.as_str(), one.blocked.as_deref(), one.context_tokens), ("one", None, Some(128)));
    assert_eq!(one.model, format!("tiny@{}", "0".repeat(12)));
    let blocked = unreadable.blocked.as_deref().expect("a reason");
    assert!(blocked.contains("/nonexistent/model"), "{blocked}");

    let node_identity = client_config_admin(&cluster.identity(Role::Coordinator, "coordinator-1"));
    let pinned = client_config_pinned(&cluster.ca.fingerprint());
    for tls in [node_identity, pinned] {
        let (status, body) = http(&cluster, 1, tls.expect("a configuration"), "GET", "/v1/nodes", "").await;
        assert_eq!((status, error(&body).code.as_str()), (401, "unauthorized"));
    }
    let admin = cluster.identity(Role::Admin, "admin");
    for (method, path, expected) in [
        ("GET", "/v1/nodes?consistency=perhaps", (400, "bad_request")),
        ("GET", "/v1/nothing", (404, "not_found")),
        ("DELETE", "/v1/nodes", (405, "bad_request")),
    ] {
        let tls = client_config_admin(&admin).expect("a configuration");
        let (status, body) = http(&cluster, 1, tls, method, path, "").await;
        assert_eq!((status, error(&body).code.as_str()), expected, "{path}: {body}");
    }
    let huge = format!("{{\"secret\": \"{}\"}}", "x".repeat(100_000));
    let tls = client_config_admin(&admin).expect("a configuration");
    let (status, _) = http(&cluster, 1, tls, "POST", "/v1/join", &huge).await;
    assert_eq!(status, 413);

    // Without a majority a linearizable read is refused, a stale one is not.
    node.kill().await;
    for id in [1, 2, 3].into_iter().filter(|id| *id != follower) {
        cluster.stop(id).await;
    }
    let tls = client_config_admin(&admin).expect("a configuration");
    let (status, body) = http(&cluster, follower, tls, "GET", "/v1/nodes", "").await;
    assert_eq!(status, 503, "{body}");
    let stale: Listing<NodeInfo> = get(&cluster, follower, "/v1/nodes?consistency=stale").await;
    assert_eq!(stale.items.len(), 1);
    cluster.stop_all().await;
}

/// A configured deployment whose model is not there.
fn seed_of_nothing() -> DeploymentSeed {
    DeploymentSeed {
        name: "unreadable".into(),
        model_dir: PathBuf::from("/nonexistent/model"),
        served_names: vec!["x".into()],
        tp: WorldSize::ONE,
        replicas: 1,
        dtype: Dtype::F32,
        threads_per_worker: 1,
        kv_tokens: None,
        context_tokens: None,
        max_seqs: 1,
        step_tokens: 16,
        pictures_max: 10,
        picture_pixels_max: None,
    }
}
