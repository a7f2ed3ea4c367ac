//! `/metrics` on every coordinator: the same of the whole cluster, also without a leader.

use std::net::SocketAddr;
use std::time::Duration;

use coordinator::metrics::names;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cluster::{Cluster, SOON, put, spec};
use crate::exposition::Exposition;
use crate::fake_node::{FakeNode, GENERATED};

/// Pause between two looks at a condition.
const LOOK: Duration = Duration::from_millis(50);

/// Status, head and body of `GET /metrics`.
async fn get(addr: SocketAddr) -> (String, String) {
    let mut stream = TcpStream::connect(addr).await.expect("listens");
    let request = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    tokio::time::timeout(SOON, stream.read_to_string(&mut answer)).await.expect("in time").expect("UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

async fn scrape(cluster: &Cluster, id: u64) -> Exposition {
    let (head, body) = get(cluster.members[id as usize - 1].public).await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"), "{head}");
    Exposition::read(&body).unwrap_or_else(|e| panic!("{e}\n{body}"))
}

/// Scrapes coordinator `id` until what it tells is so.
async fn until(cluster: &Cluster, id: u64, what: &str, is_so: impl Fn(&Exposition) -> bool) -> Exposition {
    let told = async {
        loop {
            let scrape = scrape(cluster, id).await;
            if is_so(&scrape) {
                return scrape;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(SOON, told).await.unwrap_or_else(|_| panic!("coordinator {id} never told {what}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_coordinator_tells_of_the_whole_cluster_and_the_last_known_without_a_leader() {
    let mut cluster = Cluster::started(3).await;
    let one = FakeNode::start(&cluster, "node-1");
    let two = FakeNode::start(&cluster, "node-2");
    let leader = cluster.leader().await;
    let wanted = coordinator_spec();
    cluster.running[&leader].consensus().propose(put(wanted), SOON).await.expect("agreed");

    let generated = |e: &Exposition| e.value(names::GENERATION_TOKENS.name, &[("model_name", "tiny")]);
    let all = (2 * GENERATED) as f64;
    let mut leaders = 0.0;
    for id in 1..=3 {
        let told = until(&cluster, id, "both engines", |e| generated(e) == Some(all)).await;
        let value = |name: names::Metric, labels: &[(&str, &str)]| told.value(name.name, labels);
        assert_eq!(value(names::REQUESTS_RUNNING, &[]), Some(4.0));
        assert_eq!(value(names::KV_CACHE_USAGE, &[("engine", "0")]), Some(0.25));
        assert_eq!(value(names::NODES, &[("state", "up")]), Some(2.0));
        assert_eq!(value(names::REPLICAS, &[("deployment", "one"), ("phase", "ready")]), Some(2.0));
        assert_eq!(value(names::RAFT_LEADER, &[]), Some(leader as f64));
        assert!(value(names::METRICS_AGE, &[]).is_some_and(|age| age < SOON.as_secs_f64()));
        leaders += value(names::RAFT_IS_LEADER, &[]).expect("told");
    }
    assert!(leaders <= 1.0, "one leads at most, all saw who");

    cluster.stop(leader).await;
    let other = cluster.follower().await;
    cluster.stop(other).await;
    let left = *cluster.running.keys().next().expect("one is left");
    let age = |e: &Exposition| e.value(names::METRICS_AGE.name, &[]).expect("told");
    // It may have led after the first was stopped, and finds out only after a while that nobody is behind it any more.
    let alone = |e: &Exposition| e.value(names::RAFT_IS_LEADER.name, &[]) == Some(0.0);
    let old = |e: &Exposition| age(e) > 3.0 && alone(e);
    let told = until(&cluster, left, "that what it knows grows old, and that one of three does not lead", old).await;
    assert_eq!(generated(&told), Some(all), "the last known");
    assert!(told.value(names::NODE_REPORT_AGE.name, &[("node", "node-1")]) > Some(2.0));

    one.kill().await;
    two.kill().await;
    cluster.stop_all().await;
}

/// Two replicas of one rank.
fn coordinator_spec() -> protocol::DeploymentSpec {
    let mut spec = spec("one", 1);
    spec.replicas = 2;
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_metrics_are_off_there_is_no_such_route() {
    let mut cluster = Cluster::new(1);
    cluster.serve_metrics = false;
    cluster.start(1).await.expect("starts");
    let (head, body) = get(cluster.members[0].public).await;
    assert!(head.starts_with("HTTP/1.1 404") && body.contains("unknown_url"), "{head} {body}");
    cluster.stop_all().await;
}
