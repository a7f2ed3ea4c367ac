//! The coordinators: listed, added, removed.
//!
//! Not here: how the members change (`raft`). Invariant: what is answered as done is agreed on by a majority.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use protocol::CoordinatorId;
use protocol::admin::{AddMember, MemberInfo};

use super::error::CallFailed;
use super::routes::{self, ListArgs};
use super::server::AdminParts;
use crate::config::MemberAddrs;
use crate::raft::{Consensus, MemberChange, MemberRecord};

/// How long a leader may be looked for; the change itself is bounded by Raft's part.
const LEADER_TIMEOUT: Duration = Duration::from_millis(500);
/// Largest id of a coordinator.
const ID_MAX: u64 = 65_535;

pub(super) async fn list(State(parts): State<Arc<AdminParts>>, args: ListArgs) -> impl IntoResponse {
    routes::list(&parts, args, |_, _| infos(&parts.consensus)).await
}

pub(super) async fn add(
    State(parts): State<Arc<AdminParts>>,
    body: Result<Json<AddMember>, JsonRejection>,
) -> Result<StatusCode, CallFailed> {
    let Json(asked) = body.map_err(|e| CallFailed::BadRequest(e.body_text()))?;
    let AddMember { id, internal_addr, admin_addr, public_addr } = asked;
    check(id)?;
    let change = MemberChange::add(MemberAddrs {
        id,
        internal: addr("internal_addr", &internal_addr)?,
        admin: addr("admin_addr", &admin_addr)?,
        public: addr("public_addr", &public_addr)?,
    });
    made(&parts, change).await
}

pub(super) async fn remove(
    State(parts): State<Arc<AdminParts>>,
    id: Result<Path<u64>, PathRejection>,
) -> Result<StatusCode, CallFailed> {
    let Path(id) = id.map_err(|e| CallFailed::BadRequest(e.body_text()))?;
    let id = CoordinatorId(id);
    check(id)?;
    made(&parts, MemberChange::Remove { id }).await
}

async fn made(parts: &AdminParts, change: MemberChange) -> Result<StatusCode, CallFailed> {
    let changed = parts.consensus.change_members(change, LEADER_TIMEOUT).await;
    changed.map(|()| StatusCode::NO_CONTENT).map_err(|error| CallFailed::of_change(error, parts.reach()))
}

fn check(id: CoordinatorId) -> Result<(), CallFailed> {
    if (1..=ID_MAX).contains(&id.0) {
        return Ok(());
    }
    Err(CallFailed::BadRequest(format!("coordinator id {id}, expected 1..={ID_MAX}")))
}

/// An address that others can dial.
fn addr(what: &str, text: &str) -> Result<std::net::SocketAddr, CallFailed> {
    let wrong = || {
        let text: String = text.chars().take(80).collect();
        CallFailed::BadRequest(format!("{what} is `{text}`, expected ip:port of this coordinator, as others reach it"))
    };
    let addr: std::net::SocketAddr = text.parse().map_err(|_| wrong())?;
    if addr.port() == 0 || addr.ip().is_unspecified() || addr.ip().is_multicast() {
        return Err(wrong());
    }
    Ok(addr)
}

fn infos(consensus: &Consensus) -> Vec<MemberInfo> {
    let leadership = *consensus.leadership().borrow();
    let reached = consensus.reached();
    let role = |m: &MemberRecord| match leadership.leader {
        _ if m.addrs.id != consensus.id() && !reached.contains(&m.addrs.id) => "unreachable",
        _ if !m.votes => "learner",
        Some(leader) if leader == m.addrs.id => "leader",
        Some(_) => "follower",
        None if m.addrs.id == consensus.id() => "candidate",
        None => "unknown",
    };
    let info = |m: &MemberRecord| MemberInfo {
        id: m.addrs.id,
        role: role(m).to_owned(),
        votes: m.votes,
        term: leadership.term,
        internal_addr: m.addrs.internal.to_string(),
        admin_addr: m.addrs.admin.to_string(),
        public_addr: m.addrs.public.to_string(),
    };
    consensus.newest_members().list.iter().map(info).collect()
}
