//! Waits until a starting cluster serves: polls the admin API and every gateway's `/health/ready`.
//!
//! Invariant: it ends. Without progress for [`STALL`] it fails and says in which phase.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use protocol::admin::{DeploymentInfo, ReplicaPhase};

use super::UpSpec;
use super::home::Home;
use super::phase::Phase;
use super::progress::Progress;
use crate::admin::{AdminClient, AdminError};
use crate::cli::Failure;
use crate::config::Config;
use crate::trust;

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(50);
/// Longest time without progress.
const STALL: Duration = Duration::from_secs(120);
/// How long a deployment may be blocked with every node there: the report may be older than the last node.
const BLOCKED_GRACE: Duration = Duration::from_secs(5);
/// How long one look at a gateway may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns when every gateway answers 200.
///
/// # Errors
/// A replica that cannot be formed, a deployment that cannot be placed, or no progress.
pub(super) async fn wait(config: &Config, home: &Home, spec: &UpSpec, progress: &mut Progress) -> Result<(), Failure> {
    let admin = config.coordinators.iter().map(|c| c.admin).collect();
    let admin = AdminClient::connect(admin, &trust::admin_dir(home.dir()), true)?;
    let http = reqwest::Client::builder().no_proxy().timeout(LOOK_TIMEOUT).build().map_err(anyhow::Error::from)?;
    let public: Vec<SocketAddr> = config.coordinators.iter().map(|c| c.public).collect();
    let mut best = Phase::Electing;
    let mut since = Instant::now();
    let mut blocked_since: Option<Instant> = None;
    progress.show(&best);
    loop {
        if let Some((phase, deployments)) = look(&admin, spec.nodes).await? {
            blocked_since = check(&deployments, &phase, blocked_since)?;
            progress.show(&phase);
            if phase > best {
                best = phase.clone();
                since = Instant::now();
            }
            if phase == Phase::Formed && all_ready(&http, &public).await {
                return Ok(());
            }
        }
        if since.elapsed() > STALL {
            return Err(anyhow::anyhow!("no progress for {} s: {best}", STALL.as_secs()).into());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// One look; `None` while no coordinator answers or none can say.
async fn look(admin: &AdminClient, nodes: u16) -> Result<Option<(Phase, Vec<DeploymentInfo>)>, Failure> {
    let look = async {
        let members = admin.members().await?.items;
        let seen = admin.nodes().await?.items;
        let deployments = admin.deployments().await?.items;
        Ok((Phase::of(&members, &seen, &deployments, nodes), deployments))
    };
    match look.await {
        Ok(seen) => Ok(Some(seen)),
        Err(AdminError::Unreachable { .. }) => Ok(None),
        Err(error) if error.is_without_majority() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Fails on what time does not mend; returns since when the deployment is blocked.
fn check(deployments: &[DeploymentInfo], phase: &Phase, since: Option<Instant>) -> Result<Option<Instant>, Failure> {
    for deployment in deployments {
        let mut replicas = deployment.replicas.iter();
        if let Some(failed) = replicas.find(|r| r.phase == ReplicaPhase::Failed) {
            let reason = failed.reason.as_deref().unwrap_or("no reason was given");
            return Err(anyhow::anyhow!("replica {} cannot be formed: {reason}", failed.replica).into());
        }
        if let Some(reason) = &deployment.blocked
            && *phase >= Phase::Placing
        {
            let since = since.unwrap_or_else(Instant::now);
            if since.elapsed() > BLOCKED_GRACE {
                return Err(anyhow::anyhow!("deployment {} cannot be placed: {reason}", deployment.name).into());
            }
            return Ok(Some(since));
        }
    }
    Ok(None)
}

async fn all_ready(http: &reqwest::Client, public: &[SocketAddr]) -> bool {
    for addr in public {
        match http.get(format!("http://{addr}/health/ready")).send().await {
            Ok(response) if response.status() == reqwest::StatusCode::OK => {}
            _ => return false,
        }
    }
    true
}
