//! How long a request waits for anybody: not past its deadline, not past the gateway's own end, and not for a group that is
//! known to be gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::RequestId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::admission::{Moved, Place, Waiting};
use super::dispatch::DispatchError;
use super::errors::ApiError;
use super::state::{App, Target};
use super::validate::ValidRequest;
use crate::runtime;
use crate::view::{ClusterView, Group, Outlook, ReadyReplica};

/// Within which a group that is lost is no longer in the view: a lease of its nodes, by default. One that stays is out of this
/// gateway's reach alone.
const LOSS_KNOWN_WITHIN: Duration = Duration::from_secs(3);

/// What ends the waiting of one request.
pub(super) struct Wait {
    /// From arrival to the last token.
    timeout: Duration,
    deadline: Instant,
    draining: CancellationToken,
    stop: CancellationToken,
    view: watch::Receiver<Arc<ClusterView>>,
}

impl Wait {
    pub(super) fn new(app: &App, request: &ValidRequest, deadline: Instant) -> Self {
        let (draining, stop) = (app.draining.clone(), app.stop.clone());
        Self { timeout: request.terms.timeout, deadline, draining, stop, view: app.view.clone() }
    }

    /// When the request's time is over.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// How much of it is left.
    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(runtime::now())
    }

    /// Waits for a replica: for room as long as there is time, for one to be formed no longer than the gateway's own bound, and for
    /// none of another model version: the prompt is in the words of this one. A gateway that ends begins with nothing that has not
    /// begun.
    ///
    /// # Errors
    /// [`ApiError::QueueTimeout`], [`ApiError::NoReplica`], [`ApiError::ShuttingDown`].
    ///
    /// # Cancel safety
    /// Dropping the future gives the place in the queue back.
    pub(super) async fn for_place(
        &self,
        app: &App,
        id: RequestId,
        mut waiting: Waiting,
        target: &Target,
    ) -> Result<Place, ApiError> {
        let mut view = self.view.clone();
        let none = || ApiError::NoReplica { model: target.model.clone() };
        let is_served = || self.view.borrow().answers_as(&target.deployment.spec);
        let replica = loop {
            view.mark_unchanged();
            if !is_served() {
                return Err(none());
            }
            let patience = waiting.patience();
            let until = patience.map_or(self.deadline, |patience| patience.min(self.deadline));
            tokio::select! {
                biased;
                () = self.draining.cancelled() => return Err(ApiError::ShuttingDown),
                replica = waiting.replica() => break replica.ok_or_else(none)?,
                () = tokio::time::sleep_until(until.into()) => {
                    if patience.is_some() {
                        tracing::debug!(request_id = %id, "no replica was formed in time");
                        return Err(none());
                    }
                    tracing::debug!(request_id = %id, "no replica had room in time");
                    return Err(ApiError::QueueTimeout { timeout: self.timeout, retry: app.gate.one_is_over_in() });
                }
                () = changed(&mut view) => {}
            }
        };
        // A replica of another version is granted by a view that says so.
        if is_served() { Ok(waiting.at(replica)) } else { Err(none()) }
    }

    /// Waits for another replica than those that were `tried`, where `place` was lost before its first token: as long as one is to
    /// come, or the loss is not known yet. Whether there is one.
    ///
    /// # Errors
    /// [`ApiError::Deadline`], [`ApiError::ShuttingDown`].
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn for_another(
        &mut self,
        app: &App,
        place: &mut Place,
        target: &Target,
        tried: &[Group],
    ) -> Result<bool, ApiError> {
        let spec = &target.deployment.spec;
        let now = runtime::now();
        let until = now + Duration::from_millis(u64::from(app.limits.replica_wait_ms));
        let known_by = until.min(now + LOSS_KNOWN_WITHIN);
        loop {
            self.look();
            match place.elsewhere(spec, tried) {
                Moved::There => return Ok(true),
                Moved::Never => return Ok(false),
                Moved::NotNow => {}
            }
            let now = runtime::now();
            let until = match self.view.borrow().outlook(spec, tried) {
                Outlook::Unknown => known_by,
                Outlook::Coming => until,
                Outlook::Nothing => now,
            };
            if until <= now {
                return Ok(false);
            }
            self.for_change(until).await?;
        }
    }

    /// Forgets which views there were, so that [`Self::for_change`] waits for one that comes after this.
    pub(super) fn look(&mut self) {
        self.view.mark_unchanged();
    }

    /// Waits for the next view, at most until `until`.
    ///
    /// # Errors
    /// [`ApiError::Deadline`], [`ApiError::ShuttingDown`].
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn for_change(&mut self, until: Instant) -> Result<(), ApiError> {
        let (late, stop) = (self.deadline <= until, self.stop.clone());
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(ApiError::ShuttingDown),
            () = changed(&mut self.view) => Ok(()),
            () = tokio::time::sleep_until(until.min(self.deadline).into()) => {
                if late { Err(self.late()) } else { Ok(()) }
            }
        }
    }

    fn late(&self) -> ApiError {
        ApiError::Deadline { timeout: self.timeout }
    }

    /// Waits for what a replica does.
    ///
    /// # Errors
    /// What the replica's way says, as [`ApiError`].
    ///
    /// # Cancel safety
    /// That of `wait`.
    pub(super) async fn for_replica<T>(
        &mut self,
        replica: &ReadyReplica,
        wait: impl Future<Output = Result<T, DispatchError>>,
    ) -> Result<T, ApiError> {
        let late = ApiError::Deadline { timeout: self.timeout };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(ApiError::ShuttingDown),
            done = tokio::time::timeout_at(self.deadline.into(), wait) => match done {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(DispatchError::Deadline)) | Err(_) => Err(late),
                Ok(Err(DispatchError::Busy { reason, retry })) => {
                    tracing::debug!(%reason, "replica is busy");
                    Err(ApiError::ReplicaFull { retry })
                }
                Ok(Err(e @ DispatchError::Unreachable { .. })) => Err(ApiError::ReplicaLost { reason: e.to_string() }),
                Ok(Err(DispatchError::Lost { reason })) => Err(ApiError::ReplicaLost { reason }),
                Ok(Err(DispatchError::BadRequest { reason })) => Err(ApiError::Refused { reason }),
                Ok(Err(DispatchError::Refused { reason })) => Err(ApiError::ReplicaFailed { reason }),
            },
            () = gone(&mut self.view, replica) => {
                let reason = format!("its group of epoch {} is gone", replica.epoch);
                Err(ApiError::ReplicaLost { reason })
            }
        }
    }
}

/// Until the view says that a replica's group is not there any more.
async fn gone(view: &mut watch::Receiver<Arc<ClusterView>>, replica: &ReadyReplica) {
    while view.borrow_and_update().has_group(replica.replica, replica.epoch) {
        changed(view).await;
    }
}

async fn changed(view: &mut watch::Receiver<Arc<ClusterView>>) {
    if view.changed().await.is_err() {
        // Nobody will say any more.
        std::future::pending().await
    }
}
