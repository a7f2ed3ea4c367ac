//! What admins change: the command that a body means, agreed on, and the answer.
//!
//! Not here: what a change does (`state`), what a failure is called (`error`). Invariant: what is answered with success was
//! applied, and is on the disks of a majority.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use protocol::NodeId;
use protocol::admin::{CordonRequest, CordonWritten, ScaleRequest, ScaleWritten};
use serde::de::DeserializeOwned;

use super::error::CallFailed;
use super::routes::{BODY_BYTES_MAX, NAME_SHOWN_MAX};
use super::server::AdminParts;
use crate::raft::Written;
use crate::state::{Applied, Command, DeploymentCommand, NodeCommand};

/// How long a majority may take to agree, an election of a new leader included.
const WRITE_TIMEOUT: Duration = Duration::from_secs(4);

type Body = Result<Bytes, BytesRejection>;

pub(super) async fn cordon(
    State(parts): State<Arc<AdminParts>>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<CordonWritten>, CallFailed> {
    set_cordon(&parts, name, body, true).await
}

pub(super) async fn uncordon(
    State(parts): State<Arc<AdminParts>>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<CordonWritten>, CallFailed> {
    set_cordon(&parts, name, body, false).await
}

async fn set_cordon(
    parts: &AdminParts,
    name: String,
    body: Body,
    is_set: bool,
) -> Result<Json<CordonWritten>, CallFailed> {
    let CordonRequest { expected } = read(body)?.unwrap_or_default();
    let node = label("node", &name)?;
    let command = Command::Node(NodeCommand::SetCordon { node: node.clone(), is_set, expected });
    match write(parts, command).await? {
        Written { index: log_index, applied: Applied::Revision(revision) } => {
            Ok(Json(CordonWritten { node, cordoned: is_set, revision, log_index }))
        }
        other => Err(CallFailed::Mixed(other)),
    }
}

pub(super) async fn scale(
    State(parts): State<Arc<AdminParts>>,
    Path(deployment): Path<String>,
    body: Body,
) -> Result<Json<ScaleWritten>, CallFailed> {
    let request = read(body)?.ok_or_else(|| CallFailed::BadRequest("a body with `replicas` is needed".to_owned()))?;
    let ScaleRequest { replicas, expected_generation: expected } = request;
    label("deployment", &deployment)?;
    let command = Command::Deployment(DeploymentCommand::Scale { name: deployment.clone(), replicas, expected });
    match write(&parts, command).await? {
        Written { index: log_index, applied: Applied::Generation(generation) } => {
            Ok(Json(ScaleWritten { deployment, replicas, generation, log_index }))
        }
        other => Err(CallFailed::Mixed(other)),
    }
}

/// A name from outside, before it goes into the log: names of nodes and of deployments are DNS labels, so nothing else is known.
fn label(what: &'static str, name: &str) -> Result<NodeId, CallFailed> {
    NodeId::new(name).map_err(|_| CallFailed::Unknown { what, name: name.chars().take(NAME_SHOWN_MAX).collect() })
}

async fn write(parts: &AdminParts, command: Command) -> Result<Written, CallFailed> {
    let said = command.to_string();
    match parts.consensus.write(command, WRITE_TIMEOUT).await {
        Ok(written) => {
            tracing::info!(command = said, index = written.index, "an admin's change is agreed on");
            Ok(written)
        }
        Err(reason) => {
            tracing::info!(command = said, %reason, "an admin's change is not agreed on");
            Err(CallFailed::of_write(reason, parts.reach()))
        }
    }
}

/// The body, where there is one.
fn read<T: DeserializeOwned>(body: Body) -> Result<Option<T>, CallFailed> {
    let body = body.map_err(|e| match e.status().as_u16() {
        413 => CallFailed::TooLarge(BODY_BYTES_MAX),
        _ => CallFailed::BadRequest(e.body_text()),
    })?;
    if body.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&body).map(Some).map_err(|e| CallFailed::BadRequest(format!("the body: {e}")))
}
