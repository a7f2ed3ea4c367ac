//! How a host without a certificate becomes a node: a key made here, its signing request to any coordinator, over TLS
//! whose CA the join token pins.
//!
//! Not here: who may join (the coordinator). Invariant: the identity directory has a complete identity or none.

use std::net::SocketAddr;
use std::time::Duration;

use protocol::join::{JoinRequest, JoinResponse, JoinToken};
use protocol::{NodeId, Role};
use transport::{JoinKey, NodeIdentity};

use crate::admin::{AdminError, read};
use crate::cli::Failure;
use crate::config::Config;
use crate::http::{self, cause};

/// How long one coordinator may take to sign: its answer waits for a commit.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a node tries before it gives up; its supervisor starts it again.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Shortest and longest pause between two rounds over all coordinators.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Makes sure that this host has an identity under `name`: reads it, or joins.
///
/// # Errors
/// Exit 3 for an identity of another name or role, a missing or wrong token; exit 4 when no coordinator answers.
///
/// # Cancel safety
/// Cancelled before the answer, nothing was written.
pub(crate) async fn ensure_identity(config: &Config, name: &NodeId) -> Result<(), Failure> {
    let dir = &config.paths.identity_dir;
    if dir.join(transport::identity::CERT_FILE).exists() {
        let identity = NodeIdentity::load(dir).map_err(Failure::refused)?;
        let found = identity.identity();
        if found.role != Role::Node || found.name != *name {
            let error = anyhow::anyhow!("{}: expected the identity of node {name}, found {found}", dir.display());
            return Err(Failure::refused(error));
        }
        return Ok(());
    }
    let token = config.join_token().map_err(Failure::refused)?.ok_or_else(|| {
        let file = config.paths.join_token_file.display();
        Failure::refused(anyhow::anyhow!("no certificate in {} and no join token in {file}", dir.display()))
    })?;
    let key = JoinKey::generate().map_err(anyhow::Error::from)?;
    let addrs: Vec<SocketAddr> = config.coordinators.iter().map(|c| c.admin).collect();
    let answer = join(&addrs, &token, name, key.csr_pem()).await?;
    let identity = key.install(dir, &answer.cert_pem, &answer.ca_pem).map_err(anyhow::Error::from)?;
    tracing::info!(node_id = %name, cluster = %identity.identity().cluster, "joined the cluster");
    Ok(())
}

/// Asks one coordinator after the other, round by round, until one signs, refuses, or time is up.
async fn join(addrs: &[SocketAddr], token: &JoinToken, name: &NodeId, csr: &str) -> Result<JoinResponse, Failure> {
    let tls = transport::tls::client_config_pinned(&token.ca_sha256).map_err(anyhow::Error::from)?;
    let http = http::pinned(tls, CALL_TIMEOUT)?;
    let request = JoinRequest { secret: token.secret.clone(), name: name.to_string(), csr_pem: csr.to_owned() };
    let started = tokio::time::Instant::now();
    let mut pause = PAUSE.0;
    loop {
        let mut tried = Vec::new();
        for addr in addrs {
            match http.post(format!("https://{addr}/v1/join")).json(&request).send().await {
                Err(e) if http::is_untrusted(&e) => {
                    let error = anyhow::anyhow!("{addr} is not of the join token's cluster: {}", cause(&e));
                    return Err(Failure::refused(error));
                }
                Err(e) => tried.push(format!("{addr}: {}", cause(&e))),
                Ok(response) => match read::<JoinResponse>(*addr, response).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) if error.is_without_majority() => tried.push(error.to_string()),
                    Err(refused @ AdminError::Refused { .. }) => return Err(Failure::refused(refused)),
                    Err(other) => tried.push(other.to_string()),
                },
            }
        }
        if started.elapsed() > GIVE_UP {
            return Err(AdminError::Unreachable { tried }.into());
        }
        tracing::debug!(?tried, "cannot join yet");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}
