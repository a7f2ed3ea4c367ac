//! A cluster of coordinators in a temporary directory, on a loopback address of its own.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use coordinator::state::{Command, DeploymentCommand};
use coordinator::view::ClusterView;
use coordinator::{
    Coordinator, CoordinatorConfig, DeploymentSeed, GatewayLimits, LeaseTimings, MemberAddrs, RaftTimings, StartError,
};
use protocol::join::JoinToken;
use protocol::{
    ClusterId, CoordinatorId, DeploymentSpec, Dtype, Generation, Identity, ModelRecord, NodeId, Role, WorldSize,
};
use tempfile::TempDir;
use transport::{ClusterCa, NodeIdentity};

/// How long anything that must happen may take on a loaded machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) struct Cluster {
    pub(crate) ca: ClusterCa,
    pub(crate) members: Vec<MemberAddrs>,
    /// Coordinators that are added later: each is configured with the first ones and itself.
    added: BTreeMap<u64, MemberAddrs>,
    ip: IpAddr,
    pub(crate) running: BTreeMap<u64, Coordinator>,
    pub(crate) seed: Option<DeploymentSeed>,
    pub(crate) serve_metrics: bool,
    dir: TempDir,
}

impl Cluster {
    /// Identities for `count` coordinators; none is started.
    pub(crate) fn new(count: u64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let ca = ClusterCa::create(ClusterId::from_bytes([count as u8; 16])).expect("a CA");
        let ip = own_ip();
        let cluster = Self {
            ca,
            members: (1..=count).map(|id| addrs(ip, id)).collect(),
            added: BTreeMap::new(),
            ip,
            running: BTreeMap::new(),
            seed: None,
            serve_metrics: true,
            dir,
        };
        for id in 1..=count {
            cluster.give_identity(id);
        }
        cluster
    }

    fn give_identity(&self, id: u64) {
        let home = self.identity_dir(id);
        self.ca.save(&home).expect("saved");
        let name = NodeId::new(format!("coordinator-{id}")).expect("a label");
        self.issue(Role::Coordinator, name).save(&home).expect("saved");
    }

    /// An identity and addresses for one more coordinator, which is not started and no member.
    pub(crate) fn prepare(&mut self, id: u64) -> MemberAddrs {
        self.give_identity(id);
        *self.added.entry(id).or_insert_with(|| addrs(self.ip, id))
    }

    pub(crate) fn state_dir(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("state-{id}"))
    }

    pub(crate) async fn started(count: u64) -> Self {
        let mut cluster = Self::new(count);
        for id in 1..=count {
            cluster.start(id).await.expect("starts");
        }
        cluster
    }

    pub(crate) async fn start(&mut self, id: u64) -> Result<(), StartError> {
        let coordinator = Coordinator::start(self.config(id)).await?;
        self.running.insert(id, coordinator);
        Ok(())
    }

    pub(crate) async fn stop(&mut self, id: u64) {
        self.running.remove(&id).expect("running").shutdown(Duration::ZERO).await;
    }

    pub(crate) async fn stop_all(&mut self) {
        while let Some((_, coordinator)) = self.running.pop_first() {
            coordinator.shutdown(Duration::ZERO).await;
        }
    }

    pub(crate) fn config(&self, id: u64) -> CoordinatorConfig {
        let added = self.added.get(&id).copied();
        let own = added.unwrap_or_else(|| self.members[id as usize - 1]);
        CoordinatorConfig {
            id: own.id,
            state_dir: self.state_dir(id),
            identity_dir: self.identity_dir(id),
            internal_listen: own.internal,
            admin_listen: own.admin,
            public_listen: own.public,
            members: self.members.iter().copied().chain(added).collect(),
            deployment: self.seed.clone(),
            join_token: Some(self.token()),
            raft: RaftTimings { heartbeat_ms: 100, election_min_ms: 400, election_max_ms: 800 },
            lease: LeaseTimings { heartbeat_ms: 100, lease_ms: 1500 },
            gateway: GatewayLimits::default(),
            picture_hosts: Vec::new(),
            serve_metrics: self.serve_metrics,
        }
    }

    pub(crate) fn token(&self) -> JoinToken {
        JoinToken { ca_sha256: self.ca.fingerprint(), secret: "5".repeat(32) }
    }

    pub(crate) fn issue(&self, role: Role, name: NodeId) -> transport::IssuedCert {
        self.ca.issue(&Identity { cluster: self.ca.cluster(), role, name }).expect("issued")
    }

    pub(crate) fn identity(&self, role: Role, name: &str) -> NodeIdentity {
        let name = NodeId::new(name).expect("a label");
        NodeIdentity::from_issued(&self.issue(role, name)).expect("what was issued")
    }

    pub(crate) fn identity_dir(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("coordinator-{id}"))
    }

    /// Waits until coordinator `id` sees what `is_so` wants.
    pub(crate) async fn sees(&self, id: u64, what: &str, mut is_so: impl FnMut(&ClusterView) -> bool) {
        let mut view = self.running[&id].view();
        let seen = tokio::time::timeout(SOON, view.wait_for(|v| is_so(v))).await.is_ok();
        assert!(seen, "coordinator {id} never saw {what}; it sees {:?}", self.running[&id].view().borrow());
    }

    /// Waits until all that run agree on one of them as the leader, and returns it.
    pub(crate) async fn leader(&self) -> u64 {
        let running: Vec<u64> = self.running.keys().copied().collect();
        self.leader_of(&running).await
    }

    /// Waits until `ids`, which run, agree on one of them as the leader, and returns it.
    pub(crate) async fn leader_of(&self, ids: &[u64]) -> u64 {
        let agreed = async {
            loop {
                for id in ids {
                    let known = |v: &ClusterView| v.leader.is_some_and(|l| ids.contains(&l.0));
                    self.sees(*id, "a leader that runs", known).await;
                }
                let leaders: Vec<_> = ids.iter().map(|id| self.running[id].view().borrow().leader).collect();
                if let [Some(first), ..] = leaders[..]
                    && leaders.iter().all(|l| *l == Some(first))
                {
                    return first.0;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, agreed).await.expect("a leader in time")
    }

    pub(crate) async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        *self.running.keys().find(|id| **id != leader).expect("more than one runs")
    }
}

fn addrs(ip: IpAddr, id: u64) -> MemberAddrs {
    MemberAddrs {
        id: CoordinatorId(id),
        internal: SocketAddr::new(ip, 7000 + id as u16),
        admin: SocketAddr::new(ip, 8440 + id as u16),
        public: SocketAddr::new(ip, 8000 + id as u16),
    }
}

/// A loopback address that no other test has: tests run beside each other, in one process or in many.
fn own_ip() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 64 + (high & 0x7f), low, NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// A deployment of a small model that nobody loads.
pub(crate) fn spec(name: &str, tp: u16) -> DeploymentSpec {
    let config_json = r#"{"architectures": ["Glm4ForCausalLM"], "vocab_size": 2048, "hidden_size": 128,
        "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
        "head_dim": 16, "max_position_embeddings": 32768}"#;
    DeploymentSpec {
        name: name.into(),
        generation: Generation(0),
        model: ModelRecord {
            name: "tiny".into(),
            digest: "0".repeat(64),
            dir: "/nowhere".into(),
            config_json: config_json.into(),
            stored_f32: true,
            weight_bytes: 1 << 20,
        },
        served_names: vec!["tiny".into()],
        tp: WorldSize::new(tp).expect("in range"),
        replicas: 1,
        dtype: Dtype::F32,
        threads_per_worker: 1,
        kv_tokens: Some(256),
        context_tokens: Some(128),
        max_seqs: 4,
        step_tokens: 64,
        pictures: None,
    }
}

pub(crate) fn put(spec: DeploymentSpec) -> Command {
    Command::Deployment(DeploymentCommand::Put { expected: None, spec: Box::new(spec) })
}
