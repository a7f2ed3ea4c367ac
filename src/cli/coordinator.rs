//! `shardglm coordinator`: runs one Raft member until it is told to stop.

use anyhow::Context as _;
use coordinator::raft::Out;
use coordinator::{
    Coordinator, CoordinatorConfig, DeploymentSeed, GatewayLimits, LeaseTimings, MemberAddrs, RaftTimings,
};
use protocol::CoordinatorId;

use super::Failure;
use super::daemon::DaemonArgs;
use crate::config::{Config, Switch};

/// Arguments of `coordinator`.
#[derive(Debug, clap::Args)]
pub(super) struct CoordinatorArgs {
    /// Which of the configuration's coordinators this is
    #[arg(long)]
    id: u64,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Runs it.
pub(super) async fn run(args: CoordinatorArgs) -> Result<(), Failure> {
    let config = args.daemon.load()?;
    let settled = settled(&config, CoordinatorId(args.id))?;
    let stop = args.daemon.stop()?;
    let coordinator =
        Coordinator::start(settled).await.context("the coordinator did not start").map_err(Failure::refused)?;
    let addrs = coordinator.addrs();
    tracing::info!(coordinator_id = args.id, public = %addrs.public, admin = %addrs.admin, "coordinator runs");
    let ended = tokio::select! {
        () = stop.token.cancelled() => Ok(()),
        reason = coordinator.failed() => Err(anyhow::anyhow!("the coordinator cannot go on: {reason}").into()),
        out = coordinator.out() => match out {
            // As asked for: a supervisor that restarts failures must leave it.
            Out::Removed { .. } => Ok(()),
            Out::Forgot { .. } => Err(Failure::refused(out)),
        },
    };
    coordinator.shutdown(config.gateway.drain()).await;
    ended
}

fn settled(config: &Config, id: CoordinatorId) -> Result<CoordinatorConfig, Failure> {
    let me = config.coordinator(id).ok_or_else(|| {
        let known: Vec<String> = config.coordinators.iter().map(|c| c.id.to_string()).collect();
        Failure::usage(anyhow::anyhow!("--id {id}: the configuration has coordinators {}", known.join(", ")))
    })?;
    let members = config.coordinators.iter().map(|c| MemberAddrs {
        id: c.id,
        internal: c.internal,
        admin: c.admin,
        public: c.public,
    });
    let d = &config.deployment;
    Ok(CoordinatorConfig {
        id,
        state_dir: config.paths.state_dir.clone(),
        identity_dir: config.paths.identity_dir.clone(),
        internal_listen: me.internal,
        admin_listen: me.admin,
        public_listen: me.public,
        members: members.collect(),
        deployment: Some(DeploymentSeed {
            name: d.name.to_string(),
            model_dir: d.model.clone(),
            served_names: d.names(),
            tp: d.tp,
            replicas: d.replicas,
            dtype: d.dtype,
            threads_per_worker: d.threads_per_worker,
            kv_tokens: d.kv_tokens(),
            context_tokens: d.context_tokens(),
            max_seqs: d.max_seqs,
            step_tokens: d.step_tokens,
            pictures_max: d.pictures_max,
            picture_pixels_max: d.picture_pixels_max(),
        }),
        join_token: config.join_token().map_err(Failure::refused)?,
        raft: RaftTimings {
            heartbeat_ms: config.raft.heartbeat_ms,
            election_min_ms: config.raft.election_min_ms,
            election_max_ms: config.raft.election_max_ms,
        },
        lease: LeaseTimings { heartbeat_ms: config.lease.heartbeat_ms, lease_ms: config.lease.lease_ms },
        gateway: GatewayLimits {
            body_bytes_max: config.gateway.body_bytes_max as usize,
            requests_max: config.gateway.requests_max as usize,
            queue_tokens_max: config.gateway.queue_tokens_max,
            queue_bytes_max: config.gateway.queue_bytes_max,
            picture_bytes_max: config.gateway.picture_bytes_max,
            replica_wait_ms: config.gateway.replica_wait_ms,
            request_timeout_ms: config.gateway.request_timeout_ms,
        },
        picture_hosts: config.gateway.picture_hosts.clone(),
        serve_metrics: config.gateway.metrics == Switch::On,
    })
}
