//! An agent and real worker processes while nobody leads: killed ranks and a killed agent's ranks come back where they were,
//! and the next leader finds them serving.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use protocol::frame::{Ping, Refusal, RefusalCode};
use protocol::lease::{NodeReport, RankGoal, WorkerPhase, WorkerStatus};
use protocol::{Epoch, Role};
use transport::{Endpoint, Expect};

use crate::cluster_tests::{Cluster, DEADLINE, Gateway, Leader, Model, accept, kill, node_id};

/// Tokens of each answer.
const ANSWER: usize = 20;

/// A coordinator that knows no leader.
async fn refuse_everybody(endpoint: Endpoint) {
    loop {
        let (_connection, mut send, mut recv) = accept(&endpoint).await;
        let _: Result<NodeReport, _> = recv.recv_message(Epoch(0), DEADLINE).await;
        let refusal = Refusal { code: RefusalCode::NotLeader, detail: "no leader is known".to_owned() };
        let _ = send.refuse(Epoch(0), &refusal, DEADLINE).await;
        let _ = send.stopped().await;
    }
}

/// The whole answer of the group of epoch 1 at `serve`, as soon as there is one.
async fn answer(endpoint: &Endpoint, serve: SocketAddr) -> Vec<u32> {
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < DEADLINE, "nobody answers at {serve}");
        let expect = Expect::named(Role::Node, node_id());
        if let Ok(connection) = endpoint.connect(serve, expect, Duration::from_secs(2)).await
            && connection.call::<Ping, Ping>(Epoch(1), &Ping { nonce: 1 }, DEADLINE).await.is_ok()
        {
            let gateway = Gateway { connection, epoch: Epoch(1) };
            let mut stream = gateway.generate(&[], ANSWER as u32).await;
            // One that was on its way out breaks off.
            if let Ok(ids) = stream.try_take(ANSWER).await {
                return ids;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_nobody_leads_ranks_come_back_where_they_were_and_the_next_leader_finds_them() {
    let cluster = Cluster::new();
    let endpoint = cluster.endpoint();
    let start = || cluster.agent(cluster.real_worker(), vec![endpoint.local_addr()]);
    let agent = start();
    let mut leader = Leader::accept(&endpoint, 1).await;
    let model = Model::nano();
    // Ranks that follow its orders show that the agent has this lease, and no longer one.
    leader.orders.lease_ms = 2_000;
    let (serve, workers) = leader.form(&model, 1).await;
    let whole = answer(&endpoint, serve).await;

    // It runs out, and nobody grants it again.
    drop(leader);
    let refusing = tokio::spawn(refuse_everybody(endpoint.clone()));
    let killed = Instant::now();
    kill(&workers[1]);
    assert_eq!(answer(&endpoint, serve).await, whole);
    eprintln!("a killed rank came back in {:?}", killed.elapsed());

    // Another agent on the same disk.
    agent.leave().await;
    let agent = start();
    let started = Instant::now();
    assert_eq!(answer(&endpoint, serve).await, whole);
    eprintln!("the ranks of an agent that was started anew came back in {:?}", started.elapsed());

    // A leader takes them over as they are.
    refusing.abort();
    let _ = refusing.await;
    let mut leader = Leader::accept(&endpoint, 2).await;
    let serving = |s: &[WorkerStatus]| s.len() == 2 && s.iter().all(|w| w.phase == WorkerPhase::Serving);
    let found = leader.order(model.orders(1, &RankGoal::Serve), serving).await;
    assert!(found.iter().all(|w| w.epoch == Epoch(1)));
    assert_eq!(answer(&endpoint, serve).await, whole);
    agent.leave().await;
}
