//! Which replica takes a request: of those that are ready and have the room, the one with the fewest in flight.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use protocol::ReplicaId;

use crate::view::{ReadyReplica, ServedDeployment};

/// Counts what this gateway has in flight on each replica.
#[derive(Debug, Clone, Default)]
pub(super) struct Routes {
    in_flight: Arc<Mutex<HashMap<ReplicaId, usize>>>,
}

/// One request in flight; it counts until dropped.
#[derive(Debug)]
pub(super) struct Placed {
    /// Where.
    pub(super) replica: ReadyReplica,
    routes: Routes,
}

impl Routes {
    /// Places a request of so many tokens, prompt and answer, on a replica that is not among `tried`.
    pub(super) fn place(&self, deployment: &ServedDeployment, tokens: usize, tried: &[ReplicaId]) -> Option<Placed> {
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |r: &&ReadyReplica| tokens <= r.context_tokens as usize && !tried.contains(&r.replica);
        let load = |r: &&ReadyReplica| (in_flight.get(&r.replica).copied().unwrap_or(0), r.replica);
        let replica = deployment.replicas.iter().filter(fits).min_by_key(load)?.clone();
        *in_flight.entry(replica.replica).or_default() += 1;
        Some(Placed { replica, routes: self.clone() })
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        let mut in_flight = self.routes.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = in_flight.get_mut(&self.replica.replica) {
            *n -= 1;
            if *n == 0 {
                in_flight.remove(&self.replica.replica);
            }
        }
    }
}

/// The longest context that any ready replica of the deployment takes, tokens.
pub(super) fn context_tokens(deployment: &ServedDeployment) -> Option<u32> {
    deployment.replicas.iter().map(|r| r.context_tokens).max()
}
