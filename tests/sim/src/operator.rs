//! Who runs the cluster: puts a deployment there, and scales it up and down.

use std::time::Duration;

use coordinator::state::{Command, DeploymentCommand};
use protocol::{DeploymentSpec, Dtype, Generation, ModelRecord, WorldSize};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::host::HostId;
use crate::message::{Answer, Request};
use crate::net::Net;

/// The deployment's name.
pub(crate) const DEPLOYMENT: &str = "main";
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// Pause between two changes, ms.
const PAUSE_MS: std::ops::Range<u64> = 3_000..12_000;
/// Pause before what failed is tried again.
const AGAIN: Duration = Duration::from_millis(300);
/// Replicas at first, and most of them.
const REPLICAS: u16 = 2;

/// The project's own model: its configuration is planned by, its tokenizer and template are the gateways'.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/autoglm-nano");

/// The operator.
#[derive(Debug)]
pub(crate) struct Operator {
    pub(crate) host: HostId,
    pub(crate) coordinators: Vec<HostId>,
    pub(crate) net: Net,
    pub(crate) seed: u64,
}

impl Operator {
    /// Works until its process is killed.
    pub(crate) async fn run(self) {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut replicas = REPLICAS;
        loop {
            while !self.put(&mut rng, replicas).await {
                tokio::time::sleep(AGAIN).await;
            }
            tokio::time::sleep(Duration::from_millis(rng.gen_range(PAUSE_MS))).await;
            replicas = rng.gen_range(1..=REPLICAS);
        }
    }

    async fn ask(&self, rng: &mut StdRng, request: Request) -> Option<Answer> {
        let to = self.coordinators[rng.gen_range(0..self.coordinators.len())];
        self.net.call(self.host, to, request, PATIENCE).await.ok()
    }

    /// Whether that many are wanted now.
    async fn put(&self, rng: &mut StdRng, replicas: u16) -> bool {
        let Some(Answer::State(Ok(state))) = self.ask(rng, Request::Read).await else { return false };
        let found = state.state.deployments.get(DEPLOYMENT).map(|d| &d.spec);
        if found.is_some_and(|spec| spec.replicas == replicas) {
            return true;
        }
        let expected = found.map(|spec| spec.generation);
        let put = DeploymentCommand::Put { expected, spec: Box::new(spec(replicas)) };
        let answer = self.ask(rng, Request::Write(Box::new(Command::Deployment(put)))).await;
        matches!(answer, Some(Answer::Written(Ok(_))))
    }
}

/// What it deploys.
pub(crate) fn spec(replicas: u16) -> DeploymentSpec {
    DeploymentSpec {
        name: DEPLOYMENT.to_owned(),
        generation: Generation(0),
        model: ModelRecord {
            name: "tiny".into(),
            digest: "00".repeat(32),
            dir: MODEL.into(),
            config_json: std::fs::read_to_string(format!("{MODEL}/config.json")).expect("it is checked in"),
            stored_f32: true,
            weight_bytes: 1 << 20,
        },
        served_names: vec!["tiny".into()],
        tp: WorldSize::new(2).expect("in range"),
        replicas,
        dtype: Dtype::F32,
        threads_per_worker: 1,
        kv_tokens: Some(256),
        context_tokens: Some(128),
        max_seqs: 4,
        step_tokens: 64,
        pictures: None,
    }
}
