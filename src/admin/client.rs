//! Calls of the admin API, tried on one coordinator after the other.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::admin::{DeploymentInfo, ErrorBody, Listing, MemberInfo, NodeInfo};
use serde::de::DeserializeOwned;
use transport::NodeIdentity;

use crate::cli::Failure;
use crate::config::RawConfig;
use crate::http::{self, cause};
use crate::trust;

/// How long one coordinator may take to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
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
            AdminError::Unreachable { .. } => Self::unreachable(error),
            AdminError::Refused { code, .. } if code == "precondition_failed" => Self::refused(error),
            AdminError::Refused { code, .. } if is_without_majority(code) => {
                Self::unreachable(anyhow::anyhow!("{error}; --stale shows what one coordinator knows"))
            }
            AdminError::Refused { .. } | AdminError::Malformed { .. } => anyhow::Error::new(error).into(),
        }
    }
}

/// Whether a refusal says that the answering coordinator reaches no leader or no majority.
fn is_without_majority(code: &str) -> bool {
    code == "not_leader" || code == "no_quorum"
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

    /// The deployments.
    ///
    /// # Errors
    /// [`AdminError`].
    pub(crate) async fn deployments(&self) -> Result<Listing<DeploymentInfo>, AdminError> {
        self.get("/v1/deployments").await
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
                    Err(AdminError::Refused { addr, code, message }) if is_without_majority(&code) => {
                        refused = Some(AdminError::Refused { addr, code, message });
                    }
                    done => return done,
                },
            }
        }
        Err(refused.unwrap_or(AdminError::Unreachable { tried }))
    }
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
        Ok(ErrorBody { code, message }) => Err(AdminError::Refused { addr, code, message }),
        Err(_) => Err(malformed(format!("HTTP {status}"))),
    }
}
