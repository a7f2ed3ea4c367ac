//! What the cluster says of itself over its own listeners, from the client's host: admin API and health.
//!
//! Not here: requests for tokens (`streams`). Invariant: each call has a deadline.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use protocol::admin::{DeploymentInfo, Listing, MemberInfo, ReplicaInfo, ReplicaPhase};
use protocol::{CoordinatorId, Rank};
use serde::de::DeserializeOwned;
use transport::NodeIdentity;

use super::ClusterError;

/// How long one call may take: a host that is cut off must not hold up the look at the others.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Where one coordinator listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoordinatorAddrs {
    /// Its id.
    pub id: CoordinatorId,
    /// The admin API.
    pub admin: SocketAddr,
    /// The endpoint.
    pub public: SocketAddr,
}

/// What the cluster says it is at the moment.
#[derive(Debug, Clone)]
pub struct Outlook {
    /// Who leads, as the coordinator with the highest term knows.
    pub leader: Option<CoordinatorId>,
    /// That term.
    pub term: u64,
    /// The deployment, as that coordinator has it.
    pub deployment: Option<DeploymentInfo>,
}

impl Outlook {
    /// The first replica that is ready.
    #[must_use]
    pub fn ready(&self) -> Option<&ReplicaInfo> {
        self.deployment.as_ref()?.replicas.iter().find(|r| r.phase == ReplicaPhase::Ready)
    }

    /// The node of a rank of the first ready replica.
    #[must_use]
    pub fn node_of(&self, rank: Rank) -> Option<&str> {
        Some(self.ready()?.ranks.iter().find(|r| r.rank == rank)?.node.as_str())
    }
}

/// The client of both listeners.
#[derive(Debug, Clone)]
pub struct Api {
    coordinators: Vec<CoordinatorAddrs>,
    admin: reqwest::Client,
    public: reqwest::Client,
}

impl Api {
    /// As the admin whose identity is in `admin_dir`.
    pub(super) fn new(coordinators: Vec<CoordinatorAddrs>, admin_dir: &Path) -> Result<Self, ClusterError> {
        let trust = |reason: String| ClusterError::Trust { dir: admin_dir.to_owned(), reason };
        let identity = NodeIdentity::load(admin_dir).map_err(|e| trust(e.to_string()))?;
        let tls = transport::tls::client_config_admin(&identity).map_err(|e| trust(e.to_string()))?;
        let builder = || reqwest::Client::builder().no_proxy().timeout(CALL_TIMEOUT).connect_timeout(CALL_TIMEOUT);
        let admin = builder().tls_backend_preconfigured(tls).build().map_err(ClusterError::Http)?;
        let public = builder().build().map_err(ClusterError::Http)?;
        Ok(Self { coordinators, admin, public })
    }

    /// Where the coordinators listen.
    #[must_use]
    pub fn coordinators(&self) -> &[CoordinatorAddrs] {
        &self.coordinators
    }

    /// What a coordinator answers to a `GET` of the admin API; `None` where it does not answer, or refuses.
    pub async fn get<T: DeserializeOwned>(&self, at: SocketAddr, path: &str) -> Option<T> {
        let response = self.admin.get(format!("https://{at}{path}")).send().await.ok()?;
        response.error_for_status().ok()?.json().await.ok()
    }

    /// What the coordinators know without asking each other, the one of the highest term counting.
    pub async fn look(&self) -> Option<Outlook> {
        let looks = self.coordinators.iter().map(async |c| {
            let members: Listing<MemberInfo> = self.get(c.admin, "/v1/members?consistency=stale").await?;
            let term = members.items.iter().map(|m| m.term.0).max()?;
            let leader = members.items.iter().find(|m| m.role == "leader").map(|m| m.id);
            Some((term, leader, members.applied_index, c.admin))
        });
        let looks = futures_util::future::join_all(looks).await;
        let (term, leader, _, at) =
            looks.into_iter().flatten().max_by_key(|(term, leader, index, _)| (*term, leader.is_some(), *index))?;
        let deployments: Option<Listing<DeploymentInfo>> = self.get(at, "/v1/deployments?consistency=stale").await;
        Some(Outlook { leader, term, deployment: deployments.and_then(|d| d.items.into_iter().next()) })
    }

    /// Whether a read through a majority is answered by one of these coordinators.
    pub async fn has_majority(&self, among: &[CoordinatorId]) -> bool {
        for c in self.coordinators.iter().filter(|c| among.contains(&c.id)) {
            if self.get::<Listing<MemberInfo>>(c.admin, "/v1/members").await.is_some() {
                return true;
            }
        }
        false
    }

    /// The status of a health probe; `None` without an answer.
    pub async fn health(&self, at: SocketAddr, probe: &str) -> Option<u16> {
        let response = self.public.get(format!("http://{at}/health/{probe}")).send().await.ok()?;
        Some(response.status().as_u16())
    }
}
