//! An admin who changes a deployment again and again, and remembers what was acknowledged.
//!
//! Each writer has a deployment of its own and waits for each answer, so that the order of its acknowledged writes is known.
//! A write names the generation that it replaces: one that is lost after it was acknowledged cannot hide.

use std::time::Duration;

use coordinator::raft::{AppliedState, ProposeError};
use coordinator::state::{Applied, Command, DeploymentCommand, Refused};
use protocol::{DeploymentSpec, Dtype, Generation, ModelRecord, WorldSize};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::fact::{Fact, Recorder};
use crate::host::HostId;
use crate::message::{Answer, Request};
use crate::net::Net;

/// How long a writer waits for one answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// Pause between two requests, ms.
const PAUSE_MS: std::ops::Range<u64> = 10..300;

/// One writer.
#[derive(Debug)]
pub struct Writer {
    number: u16,
    coordinators: Vec<HostId>,
    net: Net,
    recorder: Recorder,
    rng: StdRng,
    /// The generation that it takes for the present one.
    known: Option<Generation>,
    acknowledged: Option<Generation>,
    num_marks: u64,
}

impl Writer {
    /// The writer of number `number`.
    #[must_use]
    pub fn new(number: u16, coordinators: Vec<HostId>, net: Net, recorder: Recorder, seed: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self { number, coordinators, net, recorder, rng, known: None, acknowledged: None, num_marks: 0 }
    }

    fn name(&self) -> String {
        format!("w{}", self.number)
    }

    /// Writes until its process is killed.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(Duration::from_millis(self.rng.gen_range(PAUSE_MS))).await;
            if self.rng.gen_ratio(1, 6) || !self.write().await {
                self.read().await;
            }
        }
    }

    async fn ask(&mut self, request: Request) -> Option<Answer> {
        let to = self.coordinators[self.rng.gen_range(0..self.coordinators.len())];
        self.net.call(HostId::Client(self.number), to, request, PATIENCE).await.ok()
    }

    /// Whether it knows what became of the write.
    async fn write(&mut self) -> bool {
        self.num_marks += 1;
        let (name, mark) = (self.name(), format!("w{}.{}", self.number, self.num_marks));
        let put = DeploymentCommand::Put { expected: self.known, spec: Box::new(spec(&name, &mark)) };
        match self.ask(Request::Write(Box::new(Command::Deployment(put)))).await {
            Some(Answer::Written(Ok(Applied::Generation(generation)))) => {
                (self.known, self.acknowledged) = (Some(generation), Some(generation));
                self.recorder.fact(Fact::Acknowledged { name, generation, mark });
                true
            }
            // An earlier write of unknown fate was made after all.
            Some(Answer::Written(Err(ProposeError::Refused(Refused::Generation { found, .. })))) => {
                self.known = found;
                true
            }
            _ => false,
        }
    }

    async fn read(&mut self) {
        let (name, after) = (self.name(), self.acknowledged);
        if let Some(Answer::State(Ok(state))) = self.ask(Request::Read).await {
            let found = find(&state, &name);
            self.known = found.as_ref().map(|(generation, _)| *generation);
            self.recorder.fact(Fact::Read { name, after, found });
        }
    }
}

/// What `state` has of the writer's deployment `name`.
#[must_use]
pub fn find(state: &AppliedState, name: &str) -> Option<(Generation, String)> {
    let spec = &state.state.deployments.get(name)?.spec;
    Some((spec.generation, spec.served_names.first()?.clone()))
}

/// A deployment that wants nothing and carries a mark.
fn spec(name: &str, mark: &str) -> DeploymentSpec {
    DeploymentSpec {
        name: name.to_owned(),
        generation: Generation(0),
        model: ModelRecord {
            name: "none".into(),
            digest: "00".repeat(32),
            dir: "/models/none".into(),
            config_json: "{}".into(),
            stored_f32: true,
            weight_bytes: 1,
        },
        served_names: vec![mark.to_owned()],
        tp: WorldSize::new(1).expect("in range"),
        replicas: 0,
        dtype: Dtype::F32,
        threads_per_worker: 1,
        kv_tokens: None,
        context_tokens: None,
        max_seqs: 1,
        step_tokens: 1,
        pictures: None,
    }
}
