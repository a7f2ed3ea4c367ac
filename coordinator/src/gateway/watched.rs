//! A way to replicas that tells [`Attention`] how each stream went.
//!
//! Not here: what follows from it. Invariant: what passes is not changed.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use protocol::generate::{GenerateEvent, GenerateRequest};
use protocol::picture::Picture;

use super::attention::Attention;
use super::dispatch::{Dispatch, DispatchError, Events};
use crate::runtime;
use crate::view::{Group, ReadyReplica};

/// The way that is watched.
pub(super) struct Watched {
    pub(super) inner: Arc<dyn Dispatch>,
    pub(super) attention: Arc<Attention>,
}

struct WatchedEvents {
    inner: Box<dyn Events>,
    attention: Arc<Attention>,
    group: Group,
    /// Whether it has brought anything yet.
    served: bool,
}

#[async_trait]
impl Dispatch for Watched {
    async fn open(
        &self,
        replica: &ReadyReplica,
        request: &GenerateRequest,
        pictures: &[Picture],
        deadline: Instant,
    ) -> Result<Box<dyn Events>, DispatchError> {
        let (attention, group) = (&self.attention, replica.group());
        let opened = self.inner.open(replica, request, pictures, deadline).await;
        let inner = opened.inspect_err(|error| note(attention, group, error))?;
        Ok(Box::new(WatchedEvents { inner, attention: Arc::clone(attention), group, served: false }))
    }

    async fn reach(&self, replica: &ReadyReplica, deadline: Instant) -> Result<(), DispatchError> {
        self.inner.reach(replica, deadline).await
    }
}

#[async_trait]
impl Events for WatchedEvents {
    async fn next(&mut self, deadline: Instant) -> Result<GenerateEvent, DispatchError> {
        let event = self.inner.next(deadline).await;
        match &event {
            Ok(_) if !std::mem::replace(&mut self.served, true) => self.attention.served(self.group),
            Ok(_) => {}
            Err(error) => note(&self.attention, self.group, error),
        }
        event
    }

    async fn end_choice(&mut self, choice: u16, deadline: Instant) {
        self.inner.end_choice(choice, deadline).await;
    }
}

fn note(attention: &Attention, group: Group, error: &DispatchError) {
    match error {
        DispatchError::Unreachable { .. } | DispatchError::Lost { .. } => attention.lost(group, runtime::now()),
        // It has answered, or nobody has waited for it.
        DispatchError::Busy { .. }
        | DispatchError::BadRequest { .. }
        | DispatchError::Refused { .. }
        | DispatchError::Deadline => {}
    }
}
