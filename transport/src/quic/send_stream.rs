//! The sending half of a stream: whole frames, each with a deadline.

use protocol::frame::Refusal;
use protocol::{Epoch, Frame, Message};
use quinn::WriteError;

use super::{ConnectionLost, StreamError};
use crate::Deadline;

/// Sends frames. Dropped before [`Self::finish`], it resets the stream, so that no reader takes a broken-off sequence
/// for a whole one.
pub struct SendStream {
    quinn: quinn::SendStream,
    open: bool,
}

/// Code of a reset or stop that was asked for.
const CODE_CANCELLED: u32 = 0;
/// Code of a stream that was dropped unfinished.
const CODE_DROPPED: u32 = 1;

impl SendStream {
    pub(super) fn new(quinn: quinn::SendStream) -> Self {
        Self { quinn, open: true }
    }

    /// Sends one frame; returns when QUIC has taken all of it, which waits while the peer reads too slowly.
    ///
    /// # Errors
    /// [`StreamError`]. After an error the stream is reset: half a frame must not be followed by another.
    ///
    /// # Cancel safety
    /// Not safe: half a frame may be on its way. Drop the stream too.
    pub async fn send<M: Message>(
        &mut self,
        epoch: Epoch,
        message: &M,
        deadline: impl Into<Deadline>,
    ) -> Result<(), StreamError> {
        let bytes = Frame::bytes_of(epoch, message)?;
        self.send_bytes(&bytes, deadline.into()).await
    }

    /// Says no in place of an answer, and finishes.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn refuse(
        &mut self,
        epoch: Epoch,
        refusal: &Refusal,
        deadline: impl Into<Deadline>,
    ) -> Result<(), StreamError> {
        self.send(epoch, refusal, deadline).await?;
        self.finish()
    }

    async fn send_bytes(&mut self, bytes: &[u8], deadline: Deadline) -> Result<(), StreamError> {
        if !self.open {
            return Err(StreamError::Closed);
        }
        let waited = deadline.remaining();
        let e = match deadline.bound(self.quinn.write_all(bytes)).await {
            Some(Ok(())) => return Ok(()),
            Some(Err(e)) => write_error(e),
            None => StreamError::Deadline { waited },
        };
        self.reset();
        Err(e)
    }

    /// Nothing more comes. What was sent still arrives.
    ///
    /// # Errors
    /// [`StreamError::Closed`] when the stream was finished or reset before.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        if !std::mem::replace(&mut self.open, false) {
            return Err(StreamError::Closed);
        }
        self.quinn.finish().map_err(|_| StreamError::Closed)
    }

    /// Gives up: what has not arrived never will. The reader sees [`StreamError::Reset`].
    pub fn reset(&mut self) {
        self.reset_with(CODE_CANCELLED);
    }

    fn reset_with(&mut self, code: u32) {
        if std::mem::replace(&mut self.open, false) {
            // It fails only where the stream is closed already, which is what is wanted.
            let _ = self.quinn.reset(code.into());
        }
    }

    /// Waits until the peer stops reading ([`StreamError::Stopped`]), has acknowledged everything after
    /// [`Self::finish`] (`Ok`), or is lost.
    ///
    /// # Errors
    /// [`StreamError::Stopped`], [`StreamError::Lost`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn stopped(&self) -> Result<(), StreamError> {
        match self.quinn.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(code)) => Err(StreamError::Stopped { code: code.into_inner() }),
            Err(quinn::StoppedError::ConnectionLost(e)) => Err(StreamError::Lost(e.into())),
            Err(e) => Err(StreamError::Lost(ConnectionLost::Transport { reason: e.to_string() })),
        }
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        self.reset_with(CODE_DROPPED);
    }
}

impl std::fmt::Debug for SendStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SendStream({})", self.quinn.id())
    }
}

fn write_error(e: WriteError) -> StreamError {
    match e {
        WriteError::Stopped(code) => StreamError::Stopped { code: code.into_inner() },
        WriteError::ConnectionLost(e) => StreamError::Lost(e.into()),
        WriteError::ClosedStream | WriteError::ZeroRttRejected => StreamError::Closed,
    }
}
