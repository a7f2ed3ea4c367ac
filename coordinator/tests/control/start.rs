//! A start that cannot be is refused in one line and leaves nothing behind.

use coordinator::StartError;
use coordinator::raft::StateDirError;
use protocol::{NodeId, Role};
use tokio::net::TcpListener;

use crate::cluster::Cluster;

async fn refused(cluster: &mut Cluster, id: u64) -> StartError {
    let error = cluster.start(id).await.expect_err("refused");
    assert_eq!(error.to_string().lines().count(), 1, "{error}");
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_named_and_the_next_start_works() {
    let mut cluster = Cluster::new(1);
    let own = cluster.members[0];
    for taken in [own.public, own.admin] {
        let other = TcpListener::bind(taken).await.expect("free");
        let error = refused(&mut cluster, 1).await;
        assert!(error.to_string().contains(&taken.to_string()), "{error}");
        drop(other);
    }
    let other = std::net::UdpSocket::bind(own.internal).expect("free");
    let error = refused(&mut cluster, 1).await;
    assert!(error.to_string().contains(&own.internal.to_string()), "{error}");
    drop(other);
    cluster.start(1).await.expect("nothing of the failed starts is left");
    assert_eq!(cluster.leader().await, 1);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_directory_of_another_cluster_is_refused() {
    let mut cluster = Cluster::new(1);
    cluster.start(1).await.expect("starts");
    cluster.leader().await;
    cluster.stop_all().await;
    let mut other = Cluster::new(2);
    let mut config = other.config(1);
    config.state_dir = cluster.config(1).state_dir;
    let error = coordinator::Coordinator::start(config).await.expect_err("refused");
    assert!(matches!(error, StartError::StateDir(StateDirError::Foreign { .. })), "{error}");
    assert!(error.to_string().contains(&cluster.ca.cluster().to_string()), "{error}");
    cluster.start(1).await.expect("its owner still can");
    cluster.stop_all().await;
    other.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_somebody_else_or_none_at_all_is_refused() {
    let mut cluster = Cluster::new(1);
    let home = cluster.identity_dir(1);
    cluster.issue(Role::Node, NodeId::new("node-1").expect("a label")).save(&home).expect("saved");
    assert!(matches!(refused(&mut cluster, 1).await, StartError::WrongIdentity { .. }));
    std::fs::remove_file(home.join("cert.pem")).expect("there");
    assert!(matches!(refused(&mut cluster, 1).await, StartError::Identity(_)));
    let mut config = cluster.config(1);
    config.id = protocol::CoordinatorId(9);
    let error = coordinator::Coordinator::start(config).await.expect_err("refused");
    assert!(matches!(error, StartError::Members { .. }), "{error}");
}
