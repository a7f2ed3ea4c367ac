//! Calls of the admin API, tried on one coordinator after the other.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::admin::{
    AddMember, CordonRequest, CordonWritten, DeploymentInfo, ErrorBody, Listing, MemberInfo, NodeInfo, ScaleRequest,
    ScaleWritten, Single,
};
use protocol::{CoordinatorId, NodeId, Revision};
use serde::Serialize;
use serde::de::DeserializeOwned;
use transport::NodeIdentity;

use crate::cli::Failure;
use crate::config::RawConfig;
use crate::http::{self, cause};
use crate::trust;

/// How long one coordinator may take to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one coordinator may take to answer a change: longer than it tries, so that its own word for the outcome is heard.
const WRITE_CALL_TIMEOUT: Duration = Duration::from_secs(8);
/// How long it may take to change the members: a new coordinator must come up to date.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(12);
/// What to do where nobody knows whether a change was made; one of the members can be asked for twice.
const ADVICE_WRITE: &str = "it may have been made, and it may still be. Read what is there before trying again, or try again with \
                            the generation or revision that it was planned against";
const ADVICE_MEMBERS: &str = "list the members, or ask for the same again";
/// Largest answer that is read, bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Which cluster, and as whom.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct AdminArgs {
    /// The configuration that names the coordinators; else the one in --state-dir, else cluster.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The admin's certificate, key and cluster CA; else the one in --state-dir, else paths.identity_dir
    #[arg(long, value_name = "DIR")]
    identity: Option<PathBuf>,
    /// The state directory of a running `shardglm up`
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Take what the first coordinator that answers knows, leader or not
    #[arg(long)]
    stale: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    /// No coordinator answers.
    #[error("no coordinator answers: {}", tried.join("; "))]
    Unreachable {
        /// Each address with the reason.
        tried: Vec<String>,
    },
    /// One answered, and refused.
    #[error("{message} ({code}, {addr})")]
    Refused {
        /// Who.
        addr: SocketAddr,
        /// [`ErrorBody::code`], else the HTTP status.
        code: String,
        /// [`ErrorBody::message`].
        message: String,
    },
    /// Nothing was changed: no coordinator reaches a leader and a majority.
    #[error("{message} ({code}, {addr})")]
    NotWritten {
        /// The last that was asked.
        addr: SocketAddr,
        /// [`ErrorBody::code`].
        code: String,
        /// [`ErrorBody::message`].
        message: String,
    },
    /// A change was sent, and nobody knows what became of it.
    #[error("outcome unknown: {message} ({addr})")]
    Unknown {
        /// Who was asked.
        addr: SocketAddr,
        /// What is known, and what to do.
        message: String,
    },
    /// One answered with what is not an answer.
    #[error("{addr} sent no answer of the admin API: {reason}")]
    Malformed {
        /// Who.
        addr: SocketAddr,
        /// What the parser says.
        reason: String,
    },
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        match &error {
            AdminError::Unreachable { .. } | AdminError::NotWritten { .. } => Self::unreachable(error),
            AdminError::Unknown { .. } => Self::unknown(error),
            AdminError::Refused { .. } if error.is_without_majority() => {
                Self::unreachable(anyhow::anyhow!("{error}; --stale shows what one coordinator knows"))
            }
            AdminError::Refused { code, .. } if is_refusal(code) => Self::refused(error),
            AdminError::Refused { .. } | AdminError::Malformed { .. } => anyhow::Error::new(error).into(),
        }
    }
}

/// Whether a refusal says that something must hold before.
fn is_refusal(code: &str) -> bool {
    matches!(code, "precondition_failed" | "change_in_progress" | "not_found")
}

impl AdminError {
    /// Whether a coordinator answered that it reaches no leader or no majority: another one may.
    pub(crate) fn is_without_majority(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "no_leader" || code == "no_quorum")
    }
}

/// The client.
#[derive(Debug, Clone)]
pub(crate) struct AdminClient {
    addrs: Vec<SocketAddr>,
    http: reqwest::Client,
    stale: bool,
}

impl AdminClient {
    /// A client as the flags say.
    ///
    /// # Errors
    /// Exit 2 for a faulty configuration, exit 3 for an identity that is missing or not one.
    pub(crate) fn new(args: &AdminArgs) -> Result<Self, Failure> {
        let in_state = |name: &str| args.state_dir.as_ref().map(|dir| dir.join(name));
        let file = args.config.clone().or_else(|| in_state("cluster.toml")).unwrap_or_else(|| "cluster.toml".into());
        let config = RawConfig::read(&file).and_then(|raw| raw.settle(&[])).map_err(Failure::usage)?;
        let identity = args.identity.clone().or_else(|| args.state_dir.as_deref().map(trust::admin_dir));
        let identity = identity.unwrap_or_else(|| config.paths.identity_dir.clone());
        let addrs = config.coordinators.iter().map(|c| c.admin).collect();
        Self::connect(addrs, &identity, args.stale)
    }

    /// A client of known addresses.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(crate) fn connect(addrs: Vec<SocketAddr>, identity_dir: &Path, stale: bool) -> Result<Self, Failure> {
        let identity = NodeIdentity::load(identity_dir).map_err(Failure::refused)?;
        let tls = transport::tls::client_config_admin(&identity).map_err(anyhow::Error::from)?;
        let http = http::pinned(tls, CALL_TIMEOUT)?;
        Ok(Self { addrs, http, stale })
    }

    /// The nodes.
    ///
    /// # Errors
    /// [`AdminError`].
    pub(crate) async fn nodes(&self) -> Result<Listing<NodeInfo>, AdminError> {
        self.get("/v1/nodes").await
    }

    /// The coordinators.
    ///
    /// # Errors
    /// [`AdminError`].
    pub(crate) async fn members(&self) -> Result<Listing<MemberInfo>, AdminError> {
        self.get("/v1/members").await
    }

    /// Adds a coordinator. Asking again for what is done already changes nothing.
    ///
    /// # Errors
    /// [`AdminError`].
    pub(crate) async fn add_member(&self, member: &AddMember) -> Result<(), AdminError> {
        self.change(
            ADVICE_MEMBERS,
            async |addr| {
                self.http.post(format!("https://{addr}/v1/members")).json(member).timeout(CHANGE_TIMEOUT).send().await
            },
            read_nothing,
        )
        .await
    }

    /// Removes a coordinator. Asking again for what is done already changes nothing.
    ///
    /// # Errors
    /// [`AdminError`].
    pub(crate) async fn remove_member(&self, id: CoordinatorId) -> Result<(), AdminError> {
        self.change(
            ADVICE_MEMBERS,
            async |addr| {
                self.http.delete(format!("https://{addr}/v1/members/{id}")).timeout(CHANGE_TIMEOUT).send().await
            },
            read_nothing,
        )
        .await
    }

    /// The deployments.
    ///
    /// # Errors
    /// [`AdminError`].
    pub(crate) async fn deployments(&self) -> Result<Listing<DeploymentInfo>, AdminError> {
        self.get("/v1/deployments").await
    }

    /// One deployment.
    ///
    /// # Errors
    /// [`AdminError`].
    pub(crate) async fn deployment(&self, name: &str) -> Result<Single<DeploymentInfo>, AdminError> {
        self.get(&format!("/v1/deployments/{name}")).await
    }

    /// Has nothing new placed on a node, or again.
    ///
    /// # Errors
    /// [`AdminError`].
    pub(crate) async fn set_cordon(
        &self,
        node: &NodeId,
        is_set: bool,
        expected: Option<Revision>,
    ) -> Result<CordonWritten, AdminError> {
        let verb = if is_set { "cordon" } else { "uncordon" };
        self.post(&format!("/v1/nodes/{node}/{verb}"), &CordonRequest { expected }).await
    }

    /// Sets a deployment's number of replicas.
    ///
    /// # Errors
    /// [`AdminError`].
    pub(crate) async fn scale(&self, name: &str, request: &ScaleRequest) -> Result<ScaleWritten, AdminError> {
        self.post(&format!("/v1/deployments/{name}/scale"), request).await
    }

    /// Asks one coordinator after the other. A refusal that another coordinator may not share (no leader known, no
    /// quorum) moves on too; the last one is what is reported.
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, AdminError> {
        let mut tried = Vec::new();
        let mut refused = None;
        for addr in &self.addrs {
            let query = if self.stale { "?consistency=stale" } else { "" };
            match self.http.get(format!("https://{addr}{path}{query}")).send().await {
                Err(e) => tried.push(format!("{addr}: {}", cause(&e))),
                Ok(response) => match read(*addr, response).await {
                    Err(error) if error.is_without_majority() => refused = Some(error),
                    done => return done,
                },
            }
        }
        Err(refused.unwrap_or(AdminError::Unreachable { tried }))
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, AdminError> {
        self.change(
            ADVICE_WRITE,
            async |addr| {
                self.http.post(format!("https://{addr}{path}")).timeout(WRITE_CALL_TIMEOUT).json(body).send().await
            },
            read,
        )
        .await
    }

    /// Asks for a change, at one coordinator after the other as long as it is certain that none of them made it: a change that
    /// may have been made is not asked for again, but told with `advice`.
    async fn change<T>(
        &self,
        advice: &str,
        ask: impl AsyncFn(SocketAddr) -> Result<reqwest::Response, reqwest::Error>,
        take: impl AsyncFn(SocketAddr, reqwest::Response) -> Result<T, AdminError>,
    ) -> Result<T, AdminError> {
        let mut tried = Vec::new();
        let mut refused = None;
        for addr in &self.addrs {
            let response = match ask(*addr).await {
                Ok(response) => response,
                Err(e) if e.is_connect() => {
                    tried.push(format!("{addr}: {}", cause(&e)));
                    continue;
                }
                Err(e) => return Err(unanswered(*addr, &cause(&e), advice)),
            };
            match take(*addr, response).await {
                Err(AdminError::Refused { addr, code, message }) if code == "outcome_unknown" => {
                    return Err(AdminError::Unknown { addr, message });
                }
                Err(AdminError::Malformed { addr, reason }) => return Err(unanswered(addr, &reason, advice)),
                Err(error) if error.is_without_majority() => refused = Some(error),
                done => return done,
            }
        }
        match refused {
            Some(AdminError::Refused { addr, code, message }) => Err(AdminError::NotWritten { addr, code, message }),
            _ => Err(AdminError::Unreachable { tried }),
        }
    }
}

/// A change that was sent to `addr` and not answered.
fn unanswered(addr: SocketAddr, reason: &str, advice: &str) -> AdminError {
    AdminError::Unknown { addr, message: format!("no answer to the change ({reason}): {advice}") }
}

/// The answer to a change that has nothing to tell but that it was made.
async fn read_nothing(addr: SocketAddr, response: reqwest::Response) -> Result<(), AdminError> {
    if response.status() == reqwest::StatusCode::NO_CONTENT {
        return Ok(());
    }
    read::<serde::de::IgnoredAny>(addr, response).await.map(drop)
}

/// Reads an answer of the admin API.
///
/// # Errors
/// [`AdminError::Refused`], [`AdminError::Malformed`].
pub(crate) async fn read<T: DeserializeOwned>(
    addr: SocketAddr,
    mut response: reqwest::Response,
) -> Result<T, AdminError> {
    let malformed = |reason: String| AdminError::Malformed { addr, reason };
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| malformed(cause(&e)))? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_BYTES_MAX {
            return Err(malformed(format!("more than {ANSWER_BYTES_MAX} bytes")));
        }
    }
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|e| malformed(e.to_string()));
    }
    match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(ErrorBody { code, message, .. }) => Err(AdminError::Refused { addr, code, message }),
        Err(_) => Err(malformed(format!("HTTP {status}"))),
    }
}
