//! An agent with real worker processes over QUIC, under a leader that the test plays: from the first report to tokens,
//! a killed rank, the next epoch, and an agent that leaves.
//!
//! A worker process is this test binary again, entered at [`worker_entry`] with its frames on descriptor 3, since the
//! test harness writes to stdout.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::frame::{Refusal, RefusalCode};
use protocol::generate::{Choice, EndChoice, FinishReason, GenerateEvent, GenerateRequest, Priority, SamplingParams};
use protocol::identity::{Identity, Role};
use protocol::lease::{NodeOrders, NodeReport, RankGoal, RankOrder, WorkerPhase, WorkerStatus};
use protocol::picture::{Picture, PicturePlace, PictureSize};
use protocol::plan::RankAddr;
use protocol::{
    ClusterId, DeploymentSpec, Dtype, Epoch, Generation, NodeId, Plan, Rank, ReplicaId, RequestId, Term, WorldSize,
};
use rustix::process::{Pid, Signal, kill_process};
use sharding::{ModelSpec, NodeCapacity, PlanRequest};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use transport::{ClusterCa, Connection, Endpoint, Expect, NodeIdentity, RecvStream, SendStream, StreamError};

use crate::agent::{AgentConfig, AgentError, run};

/// Longest wait of any test.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Longer than any worker of these tests has to wait for a processor.
const WORKER_SILENCE: Duration = Duration::from_secs(3);
const REPLICA: ReplicaId = ReplicaId(7);

/// Not a test of its own: the way into a worker process.
#[test]
fn worker_entry() {
    if std::env::var_os("SHARDGLM_TEST_WORKER").is_none() {
        return;
    }
    let frames = std::fs::OpenOptions::new().write(true).open("/dev/fd/3").expect("frames go to descriptor 3");
    let end = crate::worker::run_on(std::io::stdin(), frames);
    // Ends here, before the harness prints a verdict on what is no test.
    std::process::exit(i32::from(end.is_err()));
}

pub(crate) fn node_id() -> NodeId {
    NodeId::new("node-1").expect("a label")
}

/// A cluster of one node whose coordinators are endpoints of the test.
pub(crate) struct Cluster {
    dir: tempfile::TempDir,
    coordinator: NodeIdentity,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let cluster = ClusterId::from_bytes([9; 16]);
        let ca = ClusterCa::create(cluster).expect("a CA");
        let name = NodeId::new("coordinator-1").expect("a label");
        let issued = ca.issue(&Identity { cluster, role: Role::Coordinator, name }).expect("issued");
        let coordinator = NodeIdentity::from_issued(&issued).expect("whole");
        let node = ca.issue(&Identity { cluster, role: Role::Node, name: node_id() }).expect("issued");
        node.save(&dir.path().join("identity")).expect("writable");
        Self { dir, coordinator }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::bind(loopback(), &self.coordinator, &[Role::Node]).expect("a port")
    }

    /// A worker program: a shell script of one command.
    fn script(&self, command: &str) -> PathBuf {
        let path = self.dir.path().join("worker.sh");
        std::fs::write(&path, format!("#!/bin/sh\n{command}\n")).expect("writable");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("ours");
        path
    }

    pub(crate) fn real_worker(&self) -> PathBuf {
        self.real_worker_with("")
    }

    /// With these settings of the environment besides.
    fn real_worker_with(&self, settings: &str) -> PathBuf {
        let exe = std::env::current_exe().expect("this test");
        let entry = "--exact cluster_tests::worker_entry --nocapture 3>&1 1>&2";
        self.script(&format!("SHARDGLM_TEST_WORKER=1 {settings} exec '{}' {entry}", exe.display()))
    }

    pub(crate) fn agent(&self, worker_exe: PathBuf, coordinators: Vec<SocketAddr>) -> Agent {
        let config = AgentConfig {
            node: node_id(),
            identity_dir: self.dir.path().join("identity"),
            state_dir: self.dir.path().join("state"),
            listen_ip: loopback().ip(),
            coordinators,
            memory_bytes: 8 << 30,
            worker_silence: WORKER_SILENCE,
            orphan: Duration::from_secs(30),
            worker_exe,
        };
        let cancel = CancellationToken::new();
        Agent { task: tokio::spawn(run(config, cancel.clone())), cancel }
    }
}

fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

pub(crate) struct Agent {
    task: JoinHandle<Result<(), AgentError>>,
    cancel: CancellationToken,
}

impl Agent {
    pub(crate) async fn leave(self) {
        self.cancel.cancel();
        let ended = tokio::time::timeout(DEADLINE, self.task).await.expect("in time");
        ended.expect("no panic").expect("no error");
    }
}

/// The leading coordinator, played by the test.
pub(crate) struct Leader {
    _connection: Connection,
    send: SendStream,
    recv: RecvStream,
    pub(crate) orders: NodeOrders,
}

impl Leader {
    /// Its lease outlasts the test: it answers only while the test orders something.
    pub(crate) async fn accept(endpoint: &Endpoint, term: u64) -> Self {
        let (connection, send, recv) = accept(endpoint).await;
        let orders =
            NodeOrders { term: Term(term), lease_ms: 60_000, heartbeat_ms: 200, ranks: vec![], coordinators: vec![] };
        Self { _connection: connection, send, recv, orders }
    }

    /// Gives orders, and answers reports with them until one satisfies `until`.
    pub(crate) async fn order(
        &mut self,
        ranks: Vec<RankOrder>,
        until: impl Fn(&[WorkerStatus]) -> bool,
    ) -> Vec<WorkerStatus> {
        self.orders.ranks = ranks;
        self.send_orders().await;
        let last = std::sync::Mutex::new(Vec::new());
        let satisfied = async {
            loop {
                let report: NodeReport = self.recv.recv_message(Epoch(0), DEADLINE).await.expect("a report");
                assert_eq!(report.node, node_id());
                self.send.send(Epoch(0), &self.orders, DEADLINE).await.expect("the lease is open");
                last.lock().expect("no panic").clone_from(&report.workers);
                if until(&report.workers) {
                    return report.workers;
                }
            }
        };
        let outcome = tokio::time::timeout(DEADLINE, satisfied).await;
        outcome.unwrap_or_else(|_| panic!("still {:?}", last.lock().expect("no panic")))
    }

    pub(crate) async fn send_orders(&mut self) {
        self.send.send(Epoch(0), &self.orders, DEADLINE).await.expect("the lease is open");
    }

    /// Leads a group of `epoch` from nothing to serving; where rank 0 listens for gateways.
    pub(crate) async fn form(&mut self, model: &Model, epoch: u64) -> (SocketAddr, Vec<WorkerStatus>) {
        let in_epoch = |s: &[WorkerStatus]| s.len() == model.ranks() && s.iter().all(|w| w.epoch == Epoch(epoch));
        let loaded = self
            .order(model.orders(epoch, &RankGoal::Load), |s| {
                in_epoch(s) && s.iter().all(|w| matches!(w.phase, WorkerPhase::Loaded { .. }))
            })
            .await;
        let addr = |w: &WorkerStatus| match &w.phase {
            WorkerPhase::Loaded { addr, .. } => addr.clone(),
            other => panic!("{other:?}"),
        };
        let peers: Vec<RankAddr> = loaded.iter().map(addr).collect();
        let serve = peers[0].serve().expect("an address");
        let all = |phase: WorkerPhase| move |s: &[WorkerStatus]| s.iter().all(|w| w.phase == phase);
        self.order(model.orders(epoch, &RankGoal::Connect { peers }), all(WorkerPhase::Connected)).await;
        let serving = self.order(model.orders(epoch, &RankGoal::Serve), all(WorkerPhase::Serving)).await;
        (serve, serving)
    }
}

/// Whether the worker's process has ended.
pub(crate) fn is_gone(worker: &WorkerStatus) -> bool {
    std::fs::read_to_string(format!("/proc/{}/stat", worker.pid)).map_or(true, |stat| stat.contains(") Z "))
}

pub(crate) async fn accept(endpoint: &Endpoint) -> (Connection, SendStream, RecvStream) {
    let accepting = async {
        let connection = endpoint.accept().await.expect("open");
        let (send, recv) = connection.accept_stream().await.expect("a lease stream");
        (connection, send, recv)
    };
    tokio::time::timeout(DEADLINE, accepting).await.expect("the agent dials")
}

/// autoglm-nano at TP 2, both ranks on the one node.
pub(crate) struct Model {
    deployment: DeploymentSpec,
    plan: Plan,
}

impl Model {
    pub(crate) fn nano() -> Self {
        Self::nano_of(2)
    }

    fn nano_of(ranks: u16) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/autoglm-nano");
        let model = sharding::model_record(&dir).expect("a checkpoint");
        let spec = ModelSpec::from_config_json(&model.config_json).expect("a spec");
        let tp = WorldSize::new(ranks).expect("a few");
        let request = PlanRequest {
            world_size: tp,
            dtype: Dtype::F32,
            stored_f32: model.stored_f32,
            kv_tokens: Some(4096),
            context_tokens: Some(2048),
            step_tokens: 128,
            max_seqs: 8,
            nodes: &[NodeCapacity { node: node_id(), memory_free: 8 << 30 }],
        };
        let plan = sharding::plan(&spec, &request).expect("it fits");
        let deployment = DeploymentSpec {
            name: "nano".into(),
            generation: Generation(1),
            model,
            served_names: vec!["nano".into()],
            tp,
            replicas: 1,
            dtype: Dtype::F32,
            threads_per_worker: 1,
            kv_tokens: Some(4096),
            context_tokens: Some(2048),
            max_seqs: 8,
            step_tokens: 128,
            pictures: None,
        };
        Self { deployment, plan }
    }

    fn ranks(&self) -> usize {
        self.plan.ranks.len()
    }

    pub(crate) fn orders(&self, epoch: u64, goal: &RankGoal) -> Vec<RankOrder> {
        let order = |rank: Rank| RankOrder {
            replica: REPLICA,
            epoch: Epoch(epoch),
            rank,
            deployment: self.deployment.clone(),
            plan: self.plan.clone(),
            goal: goal.clone(),
        };
        self.plan.world_size.ranks().map(order).collect()
    }
}

/// A gateway's connection to rank 0.
pub(crate) struct Gateway {
    pub(crate) connection: Connection,
    pub(crate) epoch: Epoch,
}

pub(crate) struct Stream {
    send: SendStream,
    recv: RecvStream,
    epoch: Epoch,
}

impl Gateway {
    async fn connect(endpoint: &Endpoint, serve: SocketAddr, epoch: u64) -> Self {
        let expect = Expect::named(Role::Node, node_id());
        let connection = endpoint.connect(serve, expect, DEADLINE).await.expect("rank 0 listens");
        Self { connection, epoch: Epoch(epoch) }
    }

    pub(crate) async fn generate(&self, resume: &[u32], max_tokens: u32) -> Stream {
        self.generate_within(60_000, resume, max_tokens).await
    }

    async fn generate_within(&self, deadline_ms: u32, resume: &[u32], max_tokens: u32) -> Stream {
        let choices = vec![Choice { index: 0, resume: resume.to_vec() }];
        self.generate_choices(deadline_ms, choices, max_tokens).await
    }

    async fn generate_choices(&self, deadline_ms: u32, choices: Vec<Choice>, max_tokens: u32) -> Stream {
        let (mut send, recv) = self.connection.open(DEADLINE).await.expect("a stream");
        let request = GenerateRequest {
            request_id: RequestId::from_bytes([1; 16]),
            replica: REPLICA,
            prompt_ids: (100..140).collect(),
            pictures: Vec::new(),
            choices,
            priority: Priority::default(),
            cache_salt: String::new(),
            sampling: SamplingParams { temperature: 1.0, seed: 5, ..SamplingParams::greedy(max_tokens) },
            deadline_ms,
        };
        send.send(self.epoch, &request, DEADLINE).await.expect("sent");
        Stream { send, recv, epoch: self.epoch }
    }
}

impl Gateway {
    /// A request whose prompt is six picture tokens between two of text, with `place`, and then one frame of `rgb`, if any.
    async fn see(&self, image: u32, place: PicturePlace, rgb: Option<Vec<u8>>) -> Stream {
        let (mut send, recv) = self.connection.open(DEADLINE).await.expect("a stream");
        let request = GenerateRequest {
            request_id: RequestId::from_bytes([2; 16]),
            replica: REPLICA,
            prompt_ids: [[100].as_slice(), &[image; 6], &[200]].concat(),
            pictures: vec![place],
            choices: vec![Choice::only()],
            priority: Priority::default(),
            cache_salt: String::new(),
            sampling: SamplingParams::greedy(8),
            deadline_ms: 60_000,
        };
        send.send(self.epoch, &request, DEADLINE).await.expect("sent");
        match rgb {
            // Rank 0 may have refused it already.
            Some(rgb) => match send.send(self.epoch, &Picture { rgb }, DEADLINE).await {
                Ok(()) | Err(StreamError::Stopped { .. }) => {}
                Err(e) => panic!("{e}"),
            },
            None => send.finish().expect("it is open"),
        }
        Stream { send, recv, epoch: self.epoch }
    }
}

impl Stream {
    async fn next(&mut self) -> Result<GenerateEvent, StreamError> {
        self.recv.recv_message(self.epoch, DEADLINE).await
    }

    /// At least `n` tokens, and how the stream ended if it did.
    async fn take(&mut self, n: usize) -> (Vec<u32>, Option<GenerateEvent>) {
        let mut ids = Vec::new();
        while ids.len() < n {
            match self.next().await.expect("an event") {
                GenerateEvent::Started { .. } => {}
                GenerateEvent::Tokens { tokens, .. } => ids.extend(tokens.iter().map(|t| t.id)),
                end => return (ids, Some(end)),
            }
        }
        (ids, None)
    }

    /// `n` tokens, of a stream that may break off.
    pub(crate) async fn try_take(&mut self, n: usize) -> Result<Vec<u32>, String> {
        let mut ids = Vec::new();
        while ids.len() < n {
            match self.next().await {
                Ok(GenerateEvent::Started { .. }) => {}
                Ok(GenerateEvent::Tokens { tokens, .. }) => ids.extend(tokens.iter().map(|t| t.id)),
                end => return Err(format!("{end:?}")),
            }
        }
        Ok(ids)
    }

    async fn refusal(&mut self) -> Refusal {
        match self.next().await {
            Err(StreamError::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn kill(worker: &WorkerStatus) {
    let pid = Pid::from_raw(i32::try_from(worker.pid).expect("a pid")).expect("not 0");
    kill_process(pid, Signal::KILL).expect("it lives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_killed_rank_costs_an_epoch_and_the_resumed_stream_goes_on() {
    let cluster = Cluster::new();
    let endpoint = cluster.endpoint();
    let agent = cluster.agent(cluster.real_worker(), vec![endpoint.local_addr()]);
    let mut leader = Leader::accept(&endpoint, 1).await;
    let model = Model::nano();
    let (serve, workers) = leader.form(&model, 1).await;

    // The whole stream, undisturbed.
    let gateway = Gateway::connect(&endpoint, serve, 1).await;
    let (whole, end) = gateway.generate(&[], 60).await.take(61).await;
    assert_eq!((whole.len(), end), (60, Some(GenerateEvent::Finished { choice: 0, reason: FinishReason::Length })));

    // What rank 0 refuses.
    let stale = Gateway { connection: gateway.connection.clone(), epoch: Epoch(0) };
    assert_eq!(stale.generate(&[], 5).await.refusal().await.code, RefusalCode::WrongEpoch);
    assert_eq!(gateway.generate(&[4096], 5).await.refusal().await.code, RefusalCode::BadRequest);
    assert_eq!(gateway.generate(&[0; 2048], 3000).await.refusal().await.code, RefusalCode::BadRequest);

    // A deadline ends a stream that is still running.
    let (_, end) = gateway.generate_within(50, &[], 2000).await.take(usize::MAX).await;
    assert!(matches!(end, Some(GenerateEvent::Failed { retryable: false, .. })), "{end:?}");

    // A choice that is ended is heard of no more; the stream is over when the others are.
    let fresh = |index| Choice { index, resume: Vec::new() };
    let mut several = gateway.generate_choices(60_000, vec![fresh(0), fresh(3), fresh(4)], 60).await;
    several.send.send(Epoch(1), &EndChoice { index: 3 }, DEADLINE).await.expect("sent");
    let mut choices: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
    let mut finished = Vec::new();
    let end = loop {
        match several.next().await {
            Ok(GenerateEvent::Started { cached_tokens }) => assert_eq!(cached_tokens, 32, "asked before"),
            Ok(GenerateEvent::Tokens { choice, tokens }) => {
                choices.entry(choice).or_default().extend(tokens.iter().map(|t| t.id));
            }
            Ok(GenerateEvent::Finished { choice, .. }) => finished.push(choice),
            other => break other,
        }
    };
    assert!(matches!(end, Err(StreamError::Ended)), "{end:?}");
    finished.sort_unstable();
    assert!(finished == [0, 4] || finished == [0, 3, 4], "{finished:?}");
    assert_eq!((choices[&0].as_slice(), choices[&4].len()), (whole.as_slice(), 60));
    assert_ne!(choices[&4], whole, "each choice draws its own");
    // One that ends all of its choices itself is over as well.
    let mut ended = gateway.generate_choices(60_000, vec![fresh(0), fresh(1)], 2000).await;
    ended.take(2).await;
    for index in [1, 0] {
        ended.send.send(Epoch(1), &EndChoice { index }, DEADLINE).await.expect("sent");
    }
    let end = loop {
        match ended.next().await {
            Ok(GenerateEvent::Tokens { .. }) => {}
            other => break other,
        }
    };
    assert!(matches!(end, Err(StreamError::Ended)), "{end:?}");

    // A client that goes away leaves no block behind.
    let mut abandoned = gateway.generate(&[], 2000).await;
    abandoned.take(3).await;
    abandoned.send.reset();
    drop(abandoned);
    let free = |s: &[WorkerStatus]| {
        s.iter().any(|w| w.load.is_some_and(|l| l.steps > 60 && l.running == 0 && l.kv_blocks_used == 0))
    };
    leader.order(model.orders(1, &RankGoal::Serve), free).await;

    // Rank 1 dies while a stream runs: its client hears at once, the leader too.
    let mut cut = gateway.generate(&[], 2000).await;
    let (mut sent, _) = cut.take(10).await;
    kill(&workers[1]);
    let died = |s: &[WorkerStatus]| {
        s.iter().any(|w| matches!(&w.phase, WorkerPhase::Failed { reason, .. } if reason.contains("signal 9")))
    };
    leader.order(model.orders(1, &RankGoal::Serve), died).await;
    leader.orders.ranks = model.orders(2, &RankGoal::Load);
    leader.send_orders().await;
    let (more, end) = cut.take(usize::MAX).await;
    sent.extend(more);
    assert!(matches!(end, Some(GenerateEvent::Failed { retryable: true, .. })), "{end:?}");

    // The next epoch goes on where the stream was cut.
    let (serve, _) = leader.form(&model, 2).await;
    let gateway = Gateway::connect(&endpoint, serve, 2).await;
    let cut = sent.len().min(30);
    let (rest, _) = gateway.generate(&whole[..cut], 60).await.take(60 - cut).await;
    assert_eq!(sent[..cut], whole[..cut]);
    assert_eq!(rest, whole[cut..]);

    // An agent that leaves lets a running stream end.
    let mut last = gateway.generate(&[], 60).await;
    let (mut ids, _) = last.take(1).await;
    let (rest, ()) = tokio::join!(last.take(60), agent.leave());
    ids.extend(rest.0);
    assert_eq!((ids, rest.1), (whole, Some(GenerateEvent::Finished { choice: 0, reason: FinishReason::Length })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn pictures_come_in_beside_a_request_and_bad_ones_are_refused() {
    let cluster = Cluster::new();
    let endpoint = cluster.endpoint();
    let agent = cluster.agent(cluster.real_worker(), vec![endpoint.local_addr()]);
    let mut leader = Leader::accept(&endpoint, 1).await;
    let (serve, _) = leader.form(&Model::nano(), 1).await;
    let gateway = Gateway::connect(&endpoint, serve, 1).await;
    let image = 4090;

    let size = PictureSize { height: 56, width: 84 };
    let place = PicturePlace { at: 1, size };
    let levels = |step: usize| (0..size.rgb_bytes()).map(|i| (i * step % 251) as u8).collect::<Vec<u8>>();
    let (first, _) = gateway.see(image, place, Some(levels(3))).await.take(8).await;
    let (again, _) = gateway.see(image, place, Some(levels(3))).await.take(8).await;
    assert_eq!((first.len(), &again), (8, &first));

    let sized = |height, width| PicturePlace { at: 1, size: PictureSize { height, width } };
    let large = 256 * 14;
    for (what, place, rgb) in [
        ("picture 0 is said to begin at token 2", PicturePlace { at: 2, size }, Some(levels(3))),
        ("expected sides of whole 28 pixels", sized(30, 28), Some(vec![0; 30 * 28 * 3])),
        ("patches, at most 12768", sized(large, large), Some(vec![0; (large * large * 3) as usize])),
        ("expected 4 picture tokens, found 6", sized(56, 56), Some(vec![0; 56 * 56 * 3])),
        ("brings 14111 bytes", place, Some(levels(3)[1..].to_vec())),
        ("above the limit", place, Some(vec![0; 2 * size.rgb_bytes()])),
        ("picture 0 did not arrive", place, None),
    ] {
        let refusal = gateway.see(image, place, rgb).await.refusal().await;
        assert_eq!(refusal.code, RefusalCode::BadRequest, "{refusal}");
        assert!(refusal.detail.contains(what), "expected {what:?}: {refusal}");
    }
    // Tokens of text are no place for a picture.
    let refusal = gateway.see(300, place, Some(levels(3))).await.refusal().await;
    assert_eq!(refusal.code, RefusalCode::BadRequest);

    // None of it has taken room from those that come after.
    let (after, _) = gateway.see(image, place, Some(levels(3))).await.take(8).await;
    assert_eq!(after, first);
    agent.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_follower_points_to_the_leader_and_ranks_outlive_a_lost_lease() {
    let cluster = Cluster::new();
    let (follower, first, second) = (cluster.endpoint(), cluster.endpoint(), cluster.endpoint());
    let agent = cluster.agent(cluster.script("exec sleep 600"), vec![follower.local_addr(), second.local_addr()]);
    let (_connection, mut send, _recv) = accept(&follower).await;
    let refusal = Refusal { code: RefusalCode::NotLeader, detail: first.local_addr().to_string() };
    send.refuse(Epoch(0), &refusal, DEADLINE).await.expect("sent");

    let model = Model::nano();
    let mut leader = Leader::accept(&first, 3).await;
    let workers = leader.order(model.orders(1, &RankGoal::Load), |s| s.len() == 2).await;
    first.close("the leader is gone", DEADLINE).await;
    drop(leader);

    // The next one to answer has a lower term: its orders are refused, and the processes are the same.
    let mut deposed = Leader::accept(&second, 2).await;
    let same = |s: &[WorkerStatus]| s == workers;
    deposed.order(vec![], same).await;
    deposed.order(vec![], same).await;
    // A new leader replaces them by the next epoch, though these never obey.
    deposed.orders.term = Term(4);
    let replaced = |s: &[WorkerStatus]| s.len() == 2 && s.iter().all(|w| w.epoch == Epoch(2) && w.pid != 0);
    deposed.order(model.orders(2, &RankGoal::Load), replaced).await;
    let workers = deposed.order(model.orders(2, &RankGoal::Load), replaced).await;
    // An agent that dies without a word takes them with it.
    agent.task.abort();
    let until = std::time::Instant::now() + DEADLINE;
    while !workers.iter().all(is_gone) {
        assert!(std::time::Instant::now() < until, "a worker outlived its agent");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn how_a_worker_ended_is_reported() {
    let cluster = Cluster::new();
    let endpoint = cluster.endpoint();
    let model = Model::nano();
    let gone = cluster.dir.path().join("no-such-program");
    for (exe, expected) in [(cluster.script("exit 3"), "exited with code 3"), (gone, "could not be started")] {
        let agent = cluster.agent(exe, vec![endpoint.local_addr()]);
        let mut leader = Leader::accept(&endpoint, 1).await;
        let failed = |s: &[WorkerStatus]| {
            let says = |w: &WorkerStatus| matches!(&w.phase, WorkerPhase::Failed { reason, retryable: true } if reason.contains(expected));
            s.len() == 2 && s.iter().all(says)
        };
        leader.order(model.orders(1, &RankGoal::Load), failed).await;
        agent.leave().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_model_of_another_digest_is_never_tried_again() {
    let cluster = Cluster::new();
    let endpoint = cluster.endpoint();
    let agent = cluster.agent(cluster.real_worker(), vec![endpoint.local_addr()]);
    let mut leader = Leader::accept(&endpoint, 1).await;
    let mut model = Model::nano();
    model.deployment.model.digest = "0".repeat(64);
    let failed = |s: &[WorkerStatus]| {
        let says = |w: &WorkerStatus| matches!(&w.phase, WorkerPhase::Failed { reason, retryable: false } if reason.contains("digest"));
        s.len() == 2 && s.iter().all(says)
    };
    leader.order(model.orders(1, &RankGoal::Load), failed).await;
    agent.leave().await;
}

/// Waits for rank 0 of epoch 1 to be reported as failed; why.
async fn failure(leader: &mut Leader, model: &Model) -> String {
    let reason = |w: &WorkerStatus| match &w.phase {
        WorkerPhase::Failed { reason, retryable: true } if w.rank == Rank(0) => Some(reason.clone()),
        _ => None,
    };
    let failed = |s: &[WorkerStatus]| s.iter().any(|w| reason(w).is_some());
    let statuses = leader.order(model.orders(1, &RankGoal::Serve), failed).await;
    statuses.iter().find_map(reason).expect("it has failed")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_compute_thread_that_hangs_is_found_by_its_process_or_its_peers() {
    let expected = [(1, "the compute thread is stuck: step 40 runs for"), (2, "nothing from ranks [0] within")];
    for (ranks, expected) in expected {
        let cluster = Cluster::new();
        let endpoint = cluster.endpoint();
        let worker = cluster.real_worker_with(&format!("{}=0:40", crate::worker::hang::VARIABLE));
        let agent = cluster.agent(worker, vec![endpoint.local_addr()]);
        let mut leader = Leader::accept(&endpoint, 1).await;
        let model = Model::nano_of(ranks);
        let (serve, _) = leader.form(&model, 1).await;
        let gateway = Gateway::connect(&endpoint, serve, 1).await;
        let mut stream = gateway.generate(&[], 2000).await;
        let (ids, _) = stream.take(10).await;
        assert!(ids.len() >= 10);
        let hung = std::time::Instant::now();
        let reason = failure(&mut leader, &model).await;
        eprintln!("a hang of rank 0 of {ranks} was reported within {:?}: {reason}", hung.elapsed());
        assert!(reason.contains(expected), "{reason}");
        agent.leave().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rank_that_dies_or_is_stopped_frees_the_other_at_once() {
    for (signal, expected) in [(Signal::KILL, "signal 9"), (Signal::STOP, "said nothing for 3.")] {
        let cluster = Cluster::new();
        let endpoint = cluster.endpoint();
        let agent = cluster.agent(cluster.real_worker(), vec![endpoint.local_addr()]);
        let mut leader = Leader::accept(&endpoint, 1).await;
        let model = Model::nano();
        let (serve, workers) = leader.form(&model, 1).await;
        let gateway = Gateway::connect(&endpoint, serve, 1).await;
        let mut stream = gateway.generate(&[], 2000).await;
        stream.take(10).await;
        let pid = Pid::from_raw(i32::try_from(workers[1].pid).expect("a pid")).expect("not 0");
        let lost = std::time::Instant::now();
        kill_process(pid, signal).expect("it lives");
        let (end, reason) = tokio::join!(stream.take(usize::MAX), failure(&mut leader, &model));
        assert!(matches!(end.1, Some(GenerateEvent::Failed { retryable: true, .. })), "{end:?}");
        eprintln!("{signal:?} to rank 1 of 2: rank 0 was free after {:?}: {reason}", lost.elapsed());
        assert!(reason.starts_with("rank 1 of its group, on the same node: ") && reason.contains(expected), "{reason}");
        agent.leave().await;
    }
}
