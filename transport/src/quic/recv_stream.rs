//! The receiving half of a stream: whole frames, checked as far as their headers go, each with a deadline.
//!
//! A body is read into aligned memory that grows with the bytes that have arrived, so a peer that claims 64 MiB and
//! sends nothing costs nothing.

use futures_util::FutureExt;
use protocol::frame::{FrameHeader, HEADER_BYTES, Refusal};
use protocol::{Epoch, FRAME_BYTES_MAX, Frame, FrameError, Kind, Message};
use quinn::ReadError;
use rkyv::util::AlignedVec;

use super::StreamError;
use crate::Deadline;

/// Memory that is set aside for a body before any of it has arrived, bytes.
const BODY_FIRST_BYTES: usize = 64 << 10;

/// Receives frames. Dropped before the end, it asks the peer to stop.
pub struct RecvStream {
    quinn: quinn::RecvStream,
    body_max: u32,
    partial: Partial,
}

/// What has arrived of the current frame; kept across a deadline or a dropped future.
#[derive(Default)]
struct Partial {
    header: [u8; HEADER_BYTES],
    header_len: usize,
    decoded: Option<FrameHeader>,
    body: AlignedVec,
}

impl RecvStream {
    pub(super) fn new(quinn: quinn::RecvStream) -> Self {
        Self { quinn, body_max: FRAME_BYTES_MAX, partial: Partial::default() }
    }

    /// Lowers the largest body that is taken, bytes (64 MiB at first).
    pub fn set_body_max(&mut self, bytes: u32) {
        self.body_max = bytes.min(FRAME_BYTES_MAX);
    }

    /// The next frame, its body unchecked.
    ///
    /// # Errors
    /// [`StreamError`]; [`StreamError::Ended`] after the last.
    ///
    /// # Cancel safety
    /// Safe: what has arrived of a frame stays for the next call, also after [`StreamError::Deadline`].
    pub async fn recv(&mut self, deadline: impl Into<Deadline>) -> Result<Frame, StreamError> {
        let deadline = deadline.into();
        let waited = deadline.remaining();
        match deadline.bound(self.recv_unbounded()).await {
            Some(done) => done,
            None => Err(StreamError::Deadline { waited }),
        }
    }

    /// The next frame as an `M`, of at least `epoch`; a [`Refusal`] in its place is an error.
    ///
    /// # Errors
    /// [`StreamError`].
    ///
    /// # Cancel safety
    /// As [`Self::recv`].
    pub async fn recv_message<M: Message>(
        &mut self,
        epoch: Epoch,
        deadline: impl Into<Deadline>,
    ) -> Result<M, StreamError> {
        let frame = self.recv(deadline).await?;
        if frame.kind == Kind::Refusal && M::KIND != Kind::Refusal {
            return Err(StreamError::Refused(frame.read::<Refusal>()?));
        }
        if frame.epoch < epoch {
            return Err(StreamError::StaleEpoch { found: frame.epoch, expected: epoch });
        }
        Ok(frame.read::<M>()?)
    }

    async fn recv_unbounded(&mut self) -> Result<Frame, StreamError> {
        let header = loop {
            if let Some(header) = self.partial.decoded {
                break header;
            }
            if self.partial.header_len == HEADER_BYTES {
                let header = FrameHeader::decode(&self.partial.header)?;
                if header.body_len > self.body_max {
                    return Err(FrameError::TooLong { found: u64::from(header.body_len), max: self.body_max }.into());
                }
                self.partial.body.reserve((header.body_len as usize).min(BODY_FIRST_BYTES));
                self.partial.decoded = Some(header);
                continue;
            }
            let have = self.partial.header_len;
            match self.quinn.read(&mut self.partial.header[have..]).await.map_err(read_error)? {
                Some(n) => self.partial.header_len += n,
                None if have == 0 => return Err(StreamError::Ended),
                None => return Err(StreamError::Truncated { found: have, expected: HEADER_BYTES }),
            }
        };
        let expected = header.body_len as usize;
        while self.partial.body.len() < expected {
            let missing = expected - self.partial.body.len();
            match self.quinn.read_chunk(missing, true).await.map_err(read_error)? {
                Some(chunk) => self.partial.body.extend_from_slice(&chunk.bytes),
                None => return Err(StreamError::Truncated { found: self.partial.body.len(), expected }),
            }
        }
        let partial = std::mem::take(&mut self.partial);
        Ok(Frame { kind: header.kind, epoch: header.epoch, body: partial.body })
    }

    /// Takes note of the stream's end if it is already here, which spares the peer a request to stop.
    pub(super) fn end_now(&mut self) {
        let _ = self.quinn.read_chunk(1, true).now_or_never();
    }

    /// Wants no more: the sender sees [`StreamError::Stopped`].
    pub fn stop(&mut self) {
        // It fails only where the stream has ended already, which is what is wanted.
        let _ = self.quinn.stop(0u32.into());
    }
}

impl std::fmt::Debug for RecvStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RecvStream({})", self.quinn.id())
    }
}

fn read_error(e: ReadError) -> StreamError {
    match e {
        ReadError::Reset(code) => StreamError::Reset { code: code.into_inner() },
        ReadError::ConnectionLost(e) => StreamError::Lost(e.into()),
        ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => StreamError::Closed,
    }
}
