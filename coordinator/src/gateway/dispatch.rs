//! What the gateway needs of the way to a replica: one request there, events back.
//!
//! Not here: which replica (route), how it is reached (quic). Declared by the gateway, so that its HTTP side can be
//! held without a model.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use protocol::generate::{GenerateEvent, GenerateRequest};
use protocol::picture::Picture;

use crate::view::ReadyReplica;

/// Why a replica gives no (more) events.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DispatchError {
    /// It could not be reached; it has seen nothing of the request.
    #[error("cannot reach the replica: {reason}")]
    Unreachable {
        /// Why.
        reason: String,
    },
    /// It takes no more for now (full, draining, of another epoch).
    #[error("the replica does not take the request: {reason}")]
    Busy {
        /// Why.
        reason: String,
        /// When it expects to have room; `None` where it cannot say.
        retry: Option<Duration>,
    },
    /// It says that the request itself is at fault, in words for whoever sent it.
    #[error("the replica refuses the request: {reason}")]
    BadRequest {
        /// Why.
        reason: String,
    },
    /// It does not let this coordinator in.
    #[error("the replica refuses the request: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// It was lost on the way.
    #[error("the replica was lost: {reason}")]
    Lost {
        /// How.
        reason: String,
    },
    /// Nothing came before the deadline.
    #[error("no event before the deadline")]
    Deadline,
}

/// A way to replicas.
#[async_trait]
pub trait Dispatch: Send + Sync + 'static {
    /// Hands `request` to rank 0 of `replica`, and the levels of each of its pictures, in order.
    ///
    /// # Errors
    /// [`DispatchError`].
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request.
    async fn open(
        &self,
        replica: &ReadyReplica,
        request: &GenerateRequest,
        pictures: &[Picture],
        deadline: Instant,
    ) -> Result<Box<dyn Events>, DispatchError>;

    /// Whether rank 0 of `replica` answers: committed Ready says that it served once, perhaps before this
    /// whole cluster was started anew.
    ///
    /// # Errors
    /// [`DispatchError::Unreachable`].
    ///
    /// # Cancel safety
    /// Nothing is lost.
    async fn reach(&self, replica: &ReadyReplica, deadline: Instant) -> Result<(), DispatchError>;
}

/// The events of one request. Dropping it cancels the request at the replica.
#[async_trait]
pub trait Events: Send {
    /// The next event. None follows [`GenerateEvent::Failed`], or the [`GenerateEvent::Finished`] of the last choice.
    ///
    /// # Errors
    /// [`DispatchError`].
    ///
    /// # Cancel safety
    /// No event is lost when the future is dropped.
    async fn next(&mut self, deadline: Instant) -> Result<GenerateEvent, DispatchError>;

    /// Says that this choice has ended here and that no more of it should be computed. What is on its way of it still
    /// arrives. Not for the last choice that runs: dropping the events says that. A replica that cannot be told shows in
    /// [`Self::next`], or has ended already.
    ///
    /// # Cancel safety
    /// Not safe: drop the events too.
    async fn end_choice(&mut self, choice: u16, deadline: Instant);
}
