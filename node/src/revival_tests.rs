//! An agent and real worker processes while nobody leads: killed ranks and a killed agent's ranks come back where they were,
//! and the next leader finds them serving. Leaders that come and go take no rank down; one that stays out of reach does.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use protocol::frame::{Ping, Refusal, RefusalCode};
use protocol::lease::{LeaderNamed, NodeReport, RankGoal, WorkerPhase, WorkerStatus};
use protocol::{Epoch, Role, Term};
use tokio::sync::watch;
use transport::{Endpoint, Expect};

use crate::cluster_tests::{Cluster, DEADLINE, Gateway, Leader, Model, accept, is_gone, kill, node_id};

/// Tokens of each answer.
const ANSWER: usize = 20;
/// Of a leader that is to be lost. It is granted from the first orders on: ranks that follow them show that the agent has it, and no
/// longer one that outlasts the leader.
const LEASE_MS: u32 = 2_000;

/// A coordinator that knows no leader.
async fn refuse_everybody(endpoint: Endpoint) {
    refuse_with(endpoint, || "no leader is known".to_owned()).await;
}

/// A coordinator that does not lead, and says so in these words.
async fn refuse_with(endpoint: Endpoint, detail: impl Fn() -> String) {
    loop {
        let (_connection, mut send, mut recv) = accept(&endpoint).await;
        let _: Result<NodeReport, _> = recv.recv_message(Epoch(0), DEADLINE).await;
        let refusal = Refusal { code: RefusalCode::NotLeader, detail: detail() };
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

/// A group of epoch 1 whose leader is gone; the lease still runs.
struct Left {
    model: Model,
    serve: SocketAddr,
    workers: Vec<WorkerStatus>,
    /// What it answers.
    whole: Vec<u32>,
}

/// Leads the agent that dials to a serving group, and goes.
async fn left_by_its_leader(endpoint: &Endpoint) -> Left {
    let (mut leader, model) = (Leader::accept(endpoint, 1).await, Model::nano());
    leader.orders.lease_ms = LEASE_MS;
    let (serve, workers) = leader.form(&model, 1).await;
    let whole = answer(endpoint, serve).await;
    Left { model, serve, workers, whole }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_nobody_leads_ranks_come_back_where_they_were_and_the_next_leader_finds_them() {
    let cluster = Cluster::new();
    let endpoint = cluster.endpoint();
    let start = || cluster.agent(cluster.real_worker(), vec![endpoint.local_addr()]);
    let agent = start();
    let Left { model, serve, workers, whole } = left_by_its_leader(&endpoint).await;

    // The lease runs out, and nobody grants it again.
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

/// So many answers without a lease take the agent five seconds, by its pauses: two of its leases.
const ANSWERS: u64 = 28;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranks_outlive_leaders_that_come_and_go_and_not_one_that_stays_out_of_reach() {
    let cluster = Cluster::new();
    let endpoint = cluster.endpoint();
    let agent = cluster.agent(cluster.real_worker(), vec![endpoint.local_addr()]);
    let Left { serve, workers, whole, .. } = left_by_its_leader(&endpoint).await;

    // The lease runs out. Somebody leads whenever the agent asks, each time in another term, and nobody grants it.
    let (term, mut answers) = watch::channel(1);
    let addr = endpoint.local_addr();
    let in_another_term = move || {
        term.send_modify(|term| *term = (*term + 1).min(ANSWERS));
        LeaderNamed { addr, term: Some(Term(*term.borrow())) }.to_string()
    };
    let started = Instant::now();
    let naming = tokio::spawn(refuse_with(endpoint.clone(), in_another_term));
    let many = answers.wait_for(|term| *term == ANSWERS);
    tokio::time::timeout(DEADLINE, many).await.expect("the agent goes on asking").expect("it is answered");
    eprintln!("{ANSWERS} leaders in {:?}", started.elapsed());
    assert!(!workers.iter().any(is_gone), "a rank was stopped");
    assert_eq!(answer(&endpoint, serve).await, whole);

    // The last of them stays.
    let started = Instant::now();
    while !workers.iter().all(is_gone) {
        assert!(started.elapsed() < DEADLINE, "ranks run on although their leader is out of reach");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eprintln!("ranks were stopped {:?} after the last leader came", started.elapsed());
    naming.abort();
    let _ = naming.await;
    agent.leave().await;
}
