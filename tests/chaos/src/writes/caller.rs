//! One call of the admin API at one coordinator, and what it says for certain.
//!
//! Not here: trying another coordinator. Invariant: a write is taken for one that did nothing only where the coordinator says so,
//! or where no connection came about; anything else that is no answer is an unknown outcome.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::admin::{
    CordonRequest, CordonWritten, DeploymentInfo, ErrorBody, NodeInfo, ScaleRequest, ScaleWritten, Single,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use transport::NodeIdentity;

use super::register::Register;
use crate::history::{Expected, Revision, Version};

/// How long a call may take; a coordinator gives up on a write after four seconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(7);
/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no caller.
#[derive(Debug, thiserror::Error)]
pub enum CallerError {
    /// No identity.
    #[error("{}: {reason}", dir.display())]
    Identity {
        /// Where it should be.
        dir: PathBuf,
        /// Why it is not.
        reason: String,
    },
    /// No client.
    #[error("no HTTP client: {0}")]
    Http(#[from] reqwest::Error),
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended<T> {
    /// With what was asked for.
    Done(T),
    /// Refused: the register is at another revision.
    Refused(Revision),
    /// Certainly nothing was done; the code, or `unreachable`.
    Nothing(String),
    /// Nobody knows.
    Unknown,
    /// An answer that should not be.
    Surprise(String),
}

/// An admin with a certificate.
#[derive(Debug, Clone)]
pub struct Caller {
    http: reqwest::Client,
}

impl Caller {
    /// As the admin whose identity is in `dir`.
    ///
    /// # Errors
    /// [`CallerError`].
    pub fn new(dir: &Path) -> Result<Self, CallerError> {
        let identity = |reason: String| CallerError::Identity { dir: dir.to_owned(), reason };
        let loaded = NodeIdentity::load(dir).map_err(|e| identity(e.to_string()))?;
        let tls = transport::tls::client_config_admin(&loaded).map_err(|e| identity(e.to_string()))?;
        let builder = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(tls);
        Ok(Self { http: builder.timeout(CALL_TIMEOUT).connect_timeout(CONNECT_TIMEOUT).build()? })
    }

    /// A linearizable read.
    pub async fn read(&self, at: SocketAddr, register: &Register) -> Ended<Version> {
        let call = self.http.get(format!("https://{at}{}", register.path()));
        let ended = match register {
            Register::Cordon(_) => answer::<Single<NodeInfo>>(call)
                .await
                .map(|node| version(node.item.revision.0, u16::from(node.item.cordoned))),
            Register::Replicas(_) => answer::<Single<DeploymentInfo>>(call)
                .await
                .map(|deployment| version(deployment.item.generation.0, deployment.item.replicas_wanted)),
        };
        // A read changes nothing, whatever became of it.
        match ended {
            Ended::Unknown => Ended::Nothing("unanswered".to_owned()),
            other => other,
        }
    }

    /// A write.
    pub async fn write(&self, at: SocketAddr, register: &Register, value: u16, expected: Expected) -> Ended<Version> {
        match register {
            Register::Cordon(_) => {
                let verb = if value == 0 { "uncordon" } else { "cordon" };
                let body = CordonRequest { expected: expected.map(|r| protocol::Revision(r.0)) };
                let call = self.post(at, register, verb, &body);
                answer::<CordonWritten>(call).await.map(|w| version(w.revision.0, u16::from(w.cordoned)))
            }
            Register::Replicas(_) => {
                let expected_generation = expected.map(|r| protocol::Generation(r.0));
                let call = self.post(at, register, "scale", &ScaleRequest { replicas: value, expected_generation });
                answer::<ScaleWritten>(call).await.map(|w| version(w.generation.0, w.replicas))
            }
        }
    }

    fn post(&self, at: SocketAddr, register: &Register, verb: &str, body: &impl Serialize) -> reqwest::RequestBuilder {
        self.http.post(format!("https://{at}{}/{verb}", register.path())).json(body)
    }
}

fn version(revision: u64, value: u16) -> Version {
    Version { revision: Revision(revision), value }
}

impl<T> Ended<T> {
    fn map<U>(self, f: impl FnOnce(T) -> U) -> Ended<U> {
        match self {
            Self::Done(value) => Ended::Done(f(value)),
            Self::Refused(found) => Ended::Refused(found),
            Self::Nothing(code) => Ended::Nothing(code),
            Self::Unknown => Ended::Unknown,
            Self::Surprise(what) => Ended::Surprise(what),
        }
    }
}

async fn answer<T: DeserializeOwned>(call: reqwest::RequestBuilder) -> Ended<T> {
    let response = match call.send().await {
        Ok(response) => response,
        Err(e) if e.is_connect() => return Ended::Nothing("unreachable".to_owned()),
        Err(_) => return Ended::Unknown,
    };
    let status = response.status();
    let Ok(body) = response.bytes().await else { return Ended::Unknown };
    if status.is_success() {
        return match serde_json::from_slice(&body) {
            Ok(value) => Ended::Done(value),
            Err(e) => Ended::Surprise(format!("{status}, and not what was asked for: {e}")),
        };
    }
    let surprise = || Ended::Surprise(format!("{status}: {}", String::from_utf8_lossy(&body)));
    let Ok(error) = serde_json::from_slice::<ErrorBody>(&body) else { return surprise() };
    match (status.as_u16(), error.code.as_str(), error.found) {
        (409, "precondition_failed", Some(found)) => Ended::Refused(Revision(found)),
        (503, "no_leader" | "no_quorum", _) => Ended::Nothing(error.code),
        (504, "outcome_unknown", _) => Ended::Unknown,
        _ => surprise(),
    }
}
