//! An authenticated connection: calls (one frame there, one back) and long-lived streams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use protocol::{Epoch, Identity, Message};

use super::{CallError, ConnectionLost, RecvStream, SendStream, StreamError};
use crate::Deadline;

/// A connection to one peer, whose identity the handshake has proved. Cheap to clone; it closes when the last clone and
/// stream is gone.
#[derive(Clone)]
pub struct Connection {
    quinn: quinn::Connection,
    peer: Arc<Identity>,
}

impl Connection {
    pub(super) fn new(quinn: quinn::Connection, peer: Identity) -> Self {
        Self { quinn, peer: Arc::new(peer) }
    }

    /// Who the peer is.
    #[must_use]
    pub fn peer(&self) -> &Identity {
        &self.peer
    }

    /// Where the peer is.
    #[must_use]
    pub fn remote_addr(&self) -> SocketAddr {
        self.quinn.remote_address()
    }

    /// Smoothed round-trip time.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.quinn.rtt()
    }

    /// Sends `request` on a stream of its own and waits for the one answer. A [`protocol::frame::Refusal`] in its place,
    /// or an answer of a lower epoch, is an error.
    ///
    /// # Errors
    /// [`CallError`].
    ///
    /// # Cancel safety
    /// Dropping the future resets the stream: the peer sees that nobody waits any more.
    pub async fn call<Req: Message, Resp: Message>(
        &self,
        epoch: Epoch,
        request: &Req,
        deadline: impl Into<Deadline>,
    ) -> Result<Resp, CallError> {
        let deadline = deadline.into();
        let (mut send, mut recv) = self.open(deadline).await?;
        // A peer that refuses early may stop the request; its answer still tells why.
        match send.send(epoch, request, deadline).await {
            Ok(()) => drop(send.finish()),
            Err(StreamError::Stopped { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        let answer = recv.recv_message::<Resp>(epoch, deadline).await?;
        recv.end_now();
        Ok(answer)
    }

    /// Opens a stream. The peer sees it with the first frame.
    ///
    /// # Errors
    /// [`StreamError::Lost`]; [`StreamError::Deadline`] while the peer allows no further stream.
    pub async fn open(&self, deadline: impl Into<Deadline>) -> Result<(SendStream, RecvStream), StreamError> {
        let deadline = deadline.into();
        let waited = deadline.remaining();
        let opened = deadline.bound(self.quinn.open_bi()).await.ok_or(StreamError::Deadline { waited })?;
        let (send, recv) = opened.map_err(ConnectionLost::from)?;
        Ok((SendStream::new(send), RecvStream::new(recv)))
    }

    /// The next stream that the peer opens. It waits as long as the connection lives, which keep-alives bound.
    ///
    /// # Errors
    /// [`ConnectionLost`].
    ///
    /// # Cancel safety
    /// No stream is lost when the future is dropped.
    pub async fn accept_stream(&self) -> Result<(SendStream, RecvStream), ConnectionLost> {
        let (send, recv) = self.quinn.accept_bi().await?;
        Ok((SendStream::new(send), RecvStream::new(recv)))
    }

    /// Waits until the connection is lost or closed.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn closed(&self) -> ConnectionLost {
        self.quinn.closed().await.into()
    }

    /// Whether it is lost or closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.quinn.close_reason().is_some()
    }

    /// Why it is closed; `None` while it lives.
    #[must_use]
    pub fn lost(&self) -> Option<ConnectionLost> {
        self.is_closed().then(|| ConnectionLost::of(&self.quinn))
    }

    /// Closes it at once, unsent data included, and tells the peer why.
    pub fn close(&self, reason: &str) {
        self.quinn.close(0u32.into(), reason.as_bytes());
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({} at {})", self.peer, self.remote_addr())
    }
}
