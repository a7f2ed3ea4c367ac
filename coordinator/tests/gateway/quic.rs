//! The way to a replica over real QUIC: a rank 0 that plays events, seen through the whole gateway.

use std::net::SocketAddr;
use std::sync::Arc;

use coordinator::GatewayLimits;
use coordinator::gateway::{Gateway, GatewayConfig};
use coordinator::view::{ClusterView, Coming, ReadyReplica, ServedDeployment};
use protocol::frame::{Ping, Refusal, RefusalCode};
use protocol::generate::{Choice, EndChoice, FinishReason, GenerateEvent, GenerateRequest, TokenOutput};
use protocol::picture::Picture;
use protocol::plan::RankAddr;
use protocol::{ClusterId, Epoch, Frame, Identity, Message, NodeId, Rank, ReplicaId, Role};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use transport::{ClusterCa, Connection, Endpoint, NodeIdentity, RecvStream, SendStream};

use crate::chat::{hi_ids, hi_with};
use crate::client::{Open, PATIENCE, Told, soon};
use crate::files::{ids, write_model};
use crate::harness::{deployment, post, seeing};
use crate::pictures::{chat, data_url, part};

const EPOCH: Epoch = Epoch(3);

/// A gateway that dials over QUIC, and the endpoint of the node that it is told of.
struct Cluster {
    ca: ClusterCa,
    gateway: Gateway,
    view: watch::Sender<Arc<ClusterView>>,
    rank0: Endpoint,
    dir: TempDir,
    sees: bool,
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn identity(ca: &ClusterCa, role: Role, name: &str) -> NodeIdentity {
    let identity = Identity { cluster: ca.cluster(), role, name: NodeId::new(name).unwrap() };
    NodeIdentity::from_issued(&ca.issue(&identity).unwrap()).unwrap()
}

fn node_endpoint(ca: &ClusterCa, name: &str) -> Endpoint {
    Endpoint::bind(loopback(), &identity(ca, Role::Node, name), &[Role::Coordinator]).unwrap()
}

impl Cluster {
    /// Ready, with the gateway's connection to rank 0.
    async fn new() -> (Self, Rank0) {
        Self::serving(false).await
    }

    /// Ready, with the project's own model, which sees, or the tiny one.
    async fn serving(sees: bool) -> (Self, Rank0) {
        let ca = ClusterCa::create(ClusterId::from_bytes([7; 16])).unwrap();
        let rank0 = node_endpoint(&ca, "node-1");
        let ours = Endpoint::bind(loopback(), &identity(&ca, Role::Coordinator, "c-1"), &[]).unwrap();
        let (view, receiver) = watch::channel(Arc::new(ClusterView::default()));
        let config = GatewayConfig {
            listen: loopback(),
            limits: GatewayLimits::default(),
            picture_hosts: Vec::new(),
            observed: None,
            metrics: None,
            journal: coordinator::journal::Journal::default(),
        };
        let gateway = Gateway::start(config, receiver, ours, CancellationToken::new()).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        write_model(dir.path());
        let cluster = Self { ca, gateway, view, rank0, dir, sees };
        cluster.serve(EPOCH, cluster.rank0.local_addr(), "node-1");
        // Ready dials rank 0, so somebody must accept meanwhile.
        let ready = async {
            while cluster.send(hyper::Request::get("/health/ready").body(Default::default()).unwrap()).await.status
                != 200
            {
                tokio::task::yield_now().await;
            }
        };
        let (rank0, ()) = soon(async { tokio::join!(Rank0::accept(&cluster.rank0), ready) }).await;
        (cluster, rank0)
    }

    fn serve(&self, epoch: Epoch, serve: SocketAddr, node: &str) {
        let leader = RankAddr::new(Rank(0), NodeId::new(node).unwrap(), serve, serve);
        let replica = ReadyReplica { replica: ReplicaId(1), epoch, context_tokens: 256, kv_tokens: 4096, leader };
        let served = if self.sees { seeing(0) } else { deployment(self.dir.path().to_str().unwrap(), 0) };
        let spec = served.spec;
        let deployment = Arc::new(ServedDeployment { spec, replicas: vec![replica], coming: Coming::No });
        self.view.send_replace(Arc::new(ClusterView {
            applied_index: 1,
            deployments: vec![deployment],
            ..ClusterView::default()
        }));
    }

    async fn send(&self, mut request: hyper::Request<http_body_util::Full<hyper::body::Bytes>>) -> Told {
        request.headers_mut().insert("host", "test".parse().unwrap());
        Open::start(self.gateway.addr(), request).await.told().await
    }

    /// Asks in the background.
    fn ask(&self, body: &Value) -> tokio::task::JoinHandle<Told> {
        let (addr, request) = (self.gateway.addr(), post("/v1/chat/completions", body.to_string()));
        tokio::spawn(async move { Open::start(addr, request).await.told().await })
    }
}

/// The ping by which the gateway follows health; a request's own has nonce 0.
const HEALTH: Ping = Ping { nonce: 1 };

/// Rank 0's end of a connection of the gateway's. It answers the pings of health, as a worker's front does; the test has the rest.
struct Rank0 {
    connection: Connection,
    streams: mpsc::Receiver<(Frame, SendStream, RecvStream)>,
}

impl Rank0 {
    async fn accept(endpoint: &Endpoint) -> Self {
        let connection = endpoint.accept().await.unwrap();
        let (tx, streams) = mpsc::channel(16);
        let accepting = connection.clone();
        tokio::spawn(async move {
            while let Ok((mut send, mut recv)) = accepting.accept_stream().await {
                let Ok(first) = recv.recv(PATIENCE).await else { continue };
                if first.read::<Ping>().is_ok_and(|ping| ping == HEALTH) {
                    send.send(first.epoch, &HEALTH, PATIENCE).await.unwrap();
                    send.finish().unwrap();
                } else if tx.send((first, send, recv)).await.is_err() {
                    return;
                }
            }
        });
        Self { connection, streams }
    }

    /// The next stream, and what it began with.
    async fn stream<M: Message>(&mut self, epoch: Epoch) -> (M, SendStream, RecvStream) {
        let (first, send, recv) = soon(self.streams.recv()).await.unwrap();
        assert_eq!(first.epoch, epoch);
        (first.read().unwrap(), send, recv)
    }

    /// The next request, and the stream to answer on.
    async fn request(&mut self) -> (GenerateRequest, SendStream, RecvStream) {
        self.stream(EPOCH).await
    }
}

fn tokens(ids: &[u32]) -> GenerateEvent {
    let tokens = ids.iter().map(|id| TokenOutput { id: *id, logprobs: None }).collect();
    GenerateEvent::Tokens { choice: 0, tokens }
}

async fn answer(send: &mut SendStream, events: &[GenerateEvent]) {
    for event in events {
        send.send(EPOCH, event, PATIENCE).await.unwrap();
    }
}

#[tokio::test]
async fn requests_share_one_connection_to_rank_0() {
    let (cluster, mut rank0) = Cluster::new().await;
    let first = cluster.ask(&hi_with(json!({})));
    let (generate, mut send, _recv) = rank0.request().await;
    assert_eq!((generate.replica, generate.prompt_ids), (ReplicaId(1), hi_ids()));
    answer(
        &mut send,
        &[tokens(&ids("o")), tokens(&ids("k")), GenerateEvent::Finished { choice: 0, reason: FinishReason::Length }],
    )
    .await;
    send.finish().unwrap();
    assert_eq!(soon(first).await.unwrap().json()["choices"][0]["message"]["content"], "ok");

    let second = cluster.ask(&hi_with(json!({"stream": true})));
    let (_, mut send, _recv) = rank0.request().await;
    answer(&mut send, &[tokens(&ids("ok")), GenerateEvent::Finished { choice: 0, reason: FinishReason::Length }]).await;
    assert_eq!(soon(second).await.unwrap().chunks().len(), 3);
}

#[tokio::test]
async fn the_levels_of_pictures_follow_the_request_on_its_stream() {
    let (cluster, mut rank0) = Cluster::serving(true).await;
    let body = chat(&[part(data_url("goldens/images/img_a.png")), part(data_url("goldens/images/img_d.png"))]);
    let asked = cluster.ask(&body);
    let (generate, mut send, mut recv) = rank0.request().await;
    for place in &generate.pictures {
        let picture = recv.recv_message::<Picture>(EPOCH, PATIENCE).await.unwrap();
        assert_eq!(picture.rgb.len(), place.size.rgb_bytes());
    }
    assert_eq!(generate.pictures.len(), 2);
    answer(&mut send, &[tokens(&[4092]), GenerateEvent::Finished { choice: 0, reason: FinishReason::Length }]).await;
    assert_eq!(soon(asked).await.unwrap().status, 200);

    // Whoever refuses by the request alone reads no picture.
    let asked = cluster.ask(&body);
    let (_, mut send, recv) = rank0.request().await;
    drop(recv);
    let refusal = Refusal { code: RefusalCode::BadRequest, detail: "no eyes".to_owned() };
    send.refuse(EPOCH, &refusal, PATIENCE).await.unwrap();
    let told = soon(asked).await.unwrap();
    assert_eq!((told.status.as_u16(), told.error()["message"].as_str()), (400, Some("no eyes")));
}

#[tokio::test]
async fn a_client_that_goes_away_resets_the_stream() {
    let (cluster, mut rank0) = Cluster::new().await;
    let asked = cluster.ask(&hi_with(json!({"stream": true})));
    let (_, mut send, mut recv) = rank0.request().await;
    answer(&mut send, &[tokens(&ids("o"))]).await;
    asked.abort();
    assert!(matches!(recv.recv(PATIENCE).await, Err(transport::StreamError::Reset { .. })));
    assert!(matches!(soon(send.stopped()).await, Err(transport::StreamError::Stopped { .. })));
    assert!(!rank0.connection.is_closed());
}

#[tokio::test]
async fn a_stop_string_resets_the_stream() {
    let (cluster, mut rank0) = Cluster::new().await;
    let asked = cluster.ask(&hi_with(json!({"stop": "k"})));
    let (_, mut send, mut recv) = rank0.request().await;
    answer(&mut send, &[tokens(&ids("ok"))]).await;
    assert_eq!(soon(asked).await.unwrap().json()["choices"][0]["message"]["content"], "o");
    assert!(matches!(recv.recv(PATIENCE).await, Err(transport::StreamError::Reset { .. })));
}

#[tokio::test]
async fn a_stop_string_in_one_choice_ends_it_at_rank_0_and_not_the_stream() {
    let (cluster, mut rank0) = Cluster::new().await;
    let asked = cluster.ask(&hi_with(json!({"stop": "k", "n": 2})));
    let (generate, mut send, mut recv) = rank0.request().await;
    assert_eq!(generate.choices.len(), 2);
    answer(&mut send, &[tokens(&ids("ok"))]).await;
    let ended = recv.recv_message::<EndChoice>(EPOCH, PATIENCE).await.unwrap();
    assert_eq!(ended, EndChoice { index: 0 });
    let rest = vec![TokenOutput { id: 107, logprobs: None }];
    let more = GenerateEvent::Tokens { choice: 0, tokens: rest };
    let end = GenerateEvent::Finished { choice: 1, reason: FinishReason::Length };
    answer(&mut send, &[more, end]).await;
    let told = soon(asked).await.unwrap().json();
    let contents = [0, 1].map(|i| told["choices"][i]["message"]["content"].clone());
    assert_eq!(contents, ["o", ""]);
    assert!(matches!(recv.recv(PATIENCE).await, Err(transport::StreamError::Ended)), "finished, not reset");
}

#[tokio::test]
async fn refusals_of_rank_0_are_told_by_their_kind() {
    let (cluster, mut rank0) = Cluster::new().await;
    for (code, status, told_code) in [
        (RefusalCode::Overloaded { retry_after_ms: 0 }, 503, "replica_overloaded"),
        (RefusalCode::WrongEpoch, 503, "replica_overloaded"),
        (RefusalCode::BadRequest, 400, "invalid_request"),
        (RefusalCode::Internal, 502, "replica_lost"),
    ] {
        let asked = cluster.ask(&hi_with(json!({})));
        let (_, mut send, _recv) = rank0.request().await;
        let refusal = Refusal { code, detail: "no".to_owned() };
        send.refuse(EPOCH, &refusal, PATIENCE).await.unwrap();
        let told = soon(asked).await.unwrap();
        assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (status, Some(told_code)));
    }
}

#[tokio::test]
async fn a_lost_rank_0s_stream_goes_on_at_its_successor() {
    let (mut cluster, mut rank0) = Cluster::new().await;
    let body = hi_with(json!({"stream": true})).to_string();
    let asked = tokio::spawn(Open::start(cluster.gateway.addr(), post("/v1/chat/completions", body)));
    let (_, mut send, _recv) = rank0.request().await;
    answer(&mut send, &[tokens(&ids("o"))]).await;
    let mut open = soon(asked).await.unwrap();
    assert!(open.event().await.unwrap().contains("assistant"));
    assert!(open.event().await.unwrap().contains("\"content\":\"o\""));
    rank0.connection.close("the worker was killed");

    cluster.rank0 = node_endpoint(&cluster.ca, "node-2");
    cluster.serve(EPOCH.next(), cluster.rank0.local_addr(), "node-2");
    let mut successor = soon(Rank0::accept(&cluster.rank0)).await;
    let (resumed, mut send, _recv) = successor.stream::<GenerateRequest>(EPOCH.next()).await;
    assert_eq!(resumed.choices, [Choice { index: 0, resume: ids("o") }]);
    let end = GenerateEvent::Finished { choice: 0, reason: FinishReason::Length };
    for event in [tokens(&ids("k")), end] {
        send.send(EPOCH.next(), &event, PATIENCE).await.unwrap();
    }
    assert!(open.event().await.unwrap().contains("\"content\":\"k\""));
    assert!(open.event().await.unwrap().contains("\"finish_reason\":\"length\""));
    assert_eq!(open.event().await.as_deref(), Some("[DONE]"));
}

#[tokio::test]
async fn events_of_an_older_epoch_are_not_believed() {
    let (cluster, mut rank0) = Cluster::new().await;
    let asked = cluster.ask(&hi_with(json!({})));
    let (_, mut send, _recv) = rank0.request().await;
    send.send(Epoch(2), &tokens(&ids("old")), PATIENCE).await.unwrap();
    assert_eq!(soon(asked).await.unwrap().error()["code"], "replica_lost");
}

#[tokio::test]
async fn a_node_of_another_name_is_not_spoken_to() {
    let (cluster, _rank0) = Cluster::new().await;
    cluster.serve(EPOCH.next(), cluster.rank0.local_addr(), "node-9");
    let accepting = async { cluster.rank0.accept().await };
    let asked = cluster.ask(&hi_with(json!({})));
    let told = tokio::select! {
        told = soon(asked) => told.unwrap(),
        _ = accepting => unreachable!("the handshake must fail"),
    };
    assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (502, Some("replica_lost")));
    assert!(told.error()["message"].as_str().unwrap().contains("node-9"), "{}", told.body);
}

#[tokio::test]
async fn a_silent_rank_0_is_asked_for_a_sign_of_life() {
    let (cluster, mut rank0) = Cluster::new().await;
    let asked = cluster.ask(&hi_with(json!({})));
    let (_, mut send, _recv) = rank0.request().await;
    let (ping, mut probe, _probed) = rank0.stream::<Ping>(EPOCH).await;
    probe.send(EPOCH, &ping, PATIENCE).await.unwrap();
    probe.finish().unwrap();
    let (_, mut probe, _probed) = rank0.stream::<Ping>(EPOCH).await;
    let refusal = Refusal { code: RefusalCode::BadRequest, detail: "no requests of this kind here".to_owned() };
    probe.refuse(EPOCH, &refusal, PATIENCE).await.unwrap();
    let _unanswered = rank0.stream::<Ping>(EPOCH).await;
    answer(&mut send, &[GenerateEvent::Finished { choice: 0, reason: FinishReason::Length }]).await;
    assert_eq!(soon(asked).await.unwrap().status, 200, "slow is not lost");
}

#[tokio::test]
async fn a_rank_0_without_a_sign_of_life_is_lost() {
    let (cluster, mut rank0) = Cluster::new().await;
    let asked = cluster.ask(&hi_with(json!({})));
    let _streams = rank0.request().await;
    let told = soon(asked).await.unwrap();
    assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (502, Some("replica_lost")));
    assert!(told.error()["message"].as_str().unwrap().contains("no sign of life"), "{}", told.body);
}
