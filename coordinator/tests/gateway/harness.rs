//! A gateway over a scripted replica, and ways to ask it.

use std::net::SocketAddr;
use std::sync::Arc;

use coordinator::GatewayLimits;
use coordinator::gateway::dispatch::DispatchError;
use coordinator::gateway::{Gateway, GatewayConfig};
use coordinator::journal::Journal;
use coordinator::view::{ClusterView, Coming, Group, ReadyReplica, ServedDeployment};
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use protocol::plan::RankAddr;
use protocol::{
    DeploymentSpec, Dtype, Epoch, Generation, ModelRecord, NodeId, PictureLimits, Rank, ReplicaId, WorldSize,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::client::{Open, Told, soon};
use crate::files::{config_json, nano, write_model};
use crate::scripted::{Scripted, Seen, Step};

/// A gateway and what it stands on.
pub(crate) struct Harness {
    pub(crate) gateway: Gateway,
    pub(crate) view: watch::Sender<Arc<ClusterView>>,
    pub(crate) seen: Seen,
    pub(crate) dir: TempDir,
    /// Whether it serves the project's own model, which sees, in place of the tiny one.
    sees: bool,
}

/// Longest context of the tiny model's replicas, tokens.
pub(crate) const CONTEXT: u32 = 256;
/// Their KV cache, tokens.
pub(crate) const KV_TOKENS: u32 = 4096;

impl Harness {
    /// One ready replica that answers every request by `steps`.
    pub(crate) async fn playing(steps: Vec<Step>) -> Self {
        Self::with(vec![Ok(steps)], 1, GatewayLimits::default()).await
    }

    /// Ready, with so many replicas; each dispatch takes the next script.
    pub(crate) async fn with(
        scripts: Vec<Result<Vec<Step>, DispatchError>>,
        replicas: u64,
        limits: GatewayLimits,
    ) -> Self {
        let harness = Self::unready(scripts, limits).await;
        harness.serve(replicas);
        harness.until_ready().await;
        harness
    }

    /// As [`Self::with`], with the project's own model under the same names.
    pub(crate) async fn seeing(
        scripts: Vec<Result<Vec<Step>, DispatchError>>,
        replicas: u64,
        limits: GatewayLimits,
    ) -> Self {
        let harness = Self { sees: true, ..Self::unready(scripts, limits).await };
        harness.serve(replicas);
        harness.until_ready().await;
        harness
    }

    /// No state applied yet.
    pub(crate) async fn unready(scripts: Vec<Result<Vec<Step>, DispatchError>>, limits: GatewayLimits) -> Self {
        Self::over(Scripted::new(scripts), limits).await
    }

    /// The same over any replicas.
    pub(crate) async fn over(replicas: (Arc<Scripted>, Seen), limits: GatewayLimits) -> Self {
        Self::journalled(replicas, limits, Journal::default()).await
    }

    /// The same with a journal of the test's.
    pub(crate) async fn journalled(
        (scripted, seen): (Arc<Scripted>, Seen),
        limits: GatewayLimits,
        journal: Journal,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_model(dir.path());
        let (view, receiver) = watch::channel(Arc::new(ClusterView::default()));
        let config = GatewayConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            limits,
            picture_hosts: Vec::new(),
            observed: None,
            metrics: None,
            journal,
        };
        let gateway = Gateway::start_over(config, receiver, scripted, CancellationToken::new()).await.unwrap();
        Self { gateway, view, seen, dir, sees: false }
    }

    /// Publishes the tiny model's deployment with so many ready replicas.
    pub(crate) fn serve(&self, replicas: u64) {
        self.publish(self.deployment(replicas), vec![]);
    }

    /// Publishes that no replica stands, and whether one is to come.
    pub(crate) fn unserved(&self, coming: Coming) {
        self.publish(ServedDeployment { coming, ..self.deployment(0) }, vec![]);
    }

    /// The model's deployment with so many ready replicas.
    pub(crate) fn deployment(&self, replicas: u64) -> ServedDeployment {
        if self.sees { seeing(replicas) } else { deployment(self.dir.path().to_str().unwrap(), replicas) }
    }

    /// Publishes that this is served, and these groups finish what they have.
    pub(crate) fn publish(&self, deployment: ServedDeployment, draining: Vec<Group>) {
        let deployments = vec![Arc::new(deployment)];
        let view = ClusterView { applied_index: 7, deployments, draining, ..ClusterView::default() };
        self.view.send_replace(Arc::new(view));
    }

    /// Waits until the model's files are read.
    pub(crate) async fn until_ready(&self) {
        soon(async {
            while self.get("/health/ready").await.status != 200 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    pub(crate) async fn get(&self, path: &str) -> Told {
        self.send(Request::get(path).header("host", "test").body(Full::default()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Told {
        self.open(path, body).await.told().await
    }

    pub(crate) async fn chat(&self, body: &Value) -> Told {
        self.post("/v1/chat/completions", body).await
    }

    /// A response as soon as its head is there.
    pub(crate) async fn open(&self, path: &str, body: &Value) -> Open {
        Open::start(self.gateway.addr(), post(path, body.to_string())).await
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Told {
        Open::start(self.gateway.addr(), request).await.told().await
    }
}

/// A POST of JSON.
pub(crate) fn post(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::post(path).header("host", "test").header("content-type", "application/json");
    request.body(Full::new(body.into())).unwrap()
}

/// The tiny model's deployment.
pub(crate) fn deployment(dir: &str, replicas: u64) -> ServedDeployment {
    let model = ModelRecord {
        name: "tiny".to_owned(),
        digest: "0123456789abcdef".to_owned(),
        dir: dir.to_owned(),
        config_json: config_json(),
        stored_f32: false,
        weight_bytes: 1,
    };
    let spec = DeploymentSpec {
        name: "main".to_owned(),
        generation: Generation(1),
        model,
        served_names: vec!["tiny".to_owned(), "org/alias".to_owned()],
        tp: WorldSize::ONE,
        replicas: 1,
        dtype: Dtype::F32,
        threads_per_worker: 1,
        kv_tokens: None,
        context_tokens: None,
        max_seqs: 4,
        step_tokens: 64,
        pictures: None,
    };
    let addr = SocketAddr::from(([127, 0, 0, 1], 1));
    let ready = |n| ReadyReplica {
        replica: ReplicaId(n),
        epoch: Epoch(3),
        context_tokens: CONTEXT,
        kv_tokens: KV_TOKENS,
        leader: RankAddr::new(Rank(0), NodeId::new("node-1").unwrap(), addr, addr),
    };
    ServedDeployment { spec, replicas: (1..=replicas).map(ready).collect(), coming: Coming::No }
}

/// Longest context of the project's own model's replicas, tokens.
pub(crate) const SEEING_CONTEXT: u32 = 1024;

/// A deployment of the project's own model, with its own limits of pictures.
pub(crate) fn seeing(replicas: u64) -> ServedDeployment {
    let config_json = std::fs::read_to_string(nano().join("config.json")).unwrap();
    let mut served = deployment(nano().to_str().unwrap(), replicas);
    served.spec.model.config_json = config_json;
    served.spec.pictures = Some(PictureLimits { pictures_max: 10, pixels_max: 172_480 });
    for replica in &mut served.replicas {
        replica.context_tokens = SEEING_CONTEXT;
    }
    served
}
