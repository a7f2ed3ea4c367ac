//! One stream between two ranks: bytes in and out without waiting, and whole frames out of them.

use protocol::frame::{FrameHeader, HEADER_BYTES};
use protocol::{Frame, FrameError};
use quinn_proto::{Dir, ReadError, StreamId, WriteError};
use rkyv::util::AlignedVec;

use super::driver::{ConnId, Driver};
use crate::quic::ConnectionLost;

/// The stream of a connection. Calls never wait; nothing moves but what [`Driver::turn`] has brought or will take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) conn: ConnId,
    stream: StreamId,
}

impl Link {
    /// Opens the pair's stream: the higher rank does, after the handshake.
    pub(super) fn open(driver: &mut Driver, conn: ConnId) -> Option<Self> {
        let stream = driver.conn(conn)?.quic.streams().open(Dir::Bi)?;
        Some(Self { conn, stream })
    }

    /// The pair's stream once the peer has opened it.
    pub(super) fn accept(driver: &mut Driver, conn: ConnId) -> Option<Self> {
        let stream = driver.conn(conn)?.quic.streams().accept(Dir::Bi)?;
        Some(Self { conn, stream })
    }

    /// Writes as much of `bytes` as budget and flow control allow; how much that was.
    pub(super) fn write(self, driver: &mut Driver, bytes: &[u8]) -> Result<usize, ConnectionLost> {
        if let Some(lost) = driver.lost(self.conn) {
            return Err(lost);
        }
        let Some(conn) = driver.conn(self.conn) else { return Err(ConnectionLost::ClosedHere) };
        let left = usize::try_from(conn.budget.left().saturating_sub(conn.written)).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(left)];
        if bytes.is_empty() {
            return Ok(0);
        }
        match conn.quic.send_stream(self.stream).write(bytes) {
            Ok(n) => {
                conn.written += n as u64;
                Ok(n)
            }
            Err(WriteError::Blocked) => Ok(0),
            Err(e @ (WriteError::Stopped(_) | WriteError::ClosedStream)) => {
                Err(ConnectionLost::Transport { reason: format!("stream: {e}") })
            }
        }
    }

    /// Reads what has arrived into `into`, from its start; how much that was. What came before a loss is still read.
    pub(super) fn read(self, driver: &mut Driver, into: &mut [u8]) -> Result<usize, ConnectionLost> {
        let mut have = 0;
        self.read_chunks(driver, into.len(), |chunk| {
            into[have..have + chunk.len()].copy_from_slice(chunk);
            have += chunk.len();
        })
    }

    fn read_chunks(
        self,
        driver: &mut Driver,
        max: usize,
        mut each: impl FnMut(&[u8]),
    ) -> Result<usize, ConnectionLost> {
        let Some(conn) = driver.conn(self.conn) else { return Err(ConnectionLost::ClosedHere) };
        let mut have = 0;
        let mut end = None;
        {
            let mut stream = conn.quic.recv_stream(self.stream);
            let mut chunks =
                stream.read(true).map_err(|e| ConnectionLost::Transport { reason: format!("stream: {e}") })?;
            while have < max {
                match chunks.next(max - have) {
                    Ok(Some(chunk)) => {
                        each(&chunk.bytes);
                        have += chunk.bytes.len();
                    }
                    Ok(None) => {
                        end = Some("the peer ended the stream");
                        break;
                    }
                    Err(ReadError::Blocked) => break,
                    Err(ReadError::Reset(_)) => {
                        end = Some("the peer reset the stream");
                        break;
                    }
                }
            }
            // The window update, if one is due, goes with the next turn.
            let _ = chunks.finalize();
        }
        if have > 0 || max == 0 {
            return Ok(have);
        }
        match end {
            Some(reason) => Err(ConnectionLost::ClosedByPeer { reason: reason.to_owned() }),
            None => driver.lost(self.conn).map_or(Ok(0), Err),
        }
    }
}

/// A frame that is arriving.
#[derive(Default)]
pub(super) struct Arriving {
    header: [u8; HEADER_BYTES],
    have: usize,
    decoded: Option<FrameHeader>,
    body: AlignedVec,
}

/// Why no frame arrives any more.
#[derive(Debug)]
pub(super) enum ArriveError {
    Lost(ConnectionLost),
    Frame(FrameError),
}

impl Arriving {
    /// Whether a part of a frame is here.
    pub(super) fn is_partial(&self) -> bool {
        self.have > 0
    }

    /// The frame, once all of it has arrived. Its body grows with what arrives, up to `body_max` bytes.
    pub(super) fn poll(
        &mut self,
        link: Link,
        driver: &mut Driver,
        body_max: u32,
    ) -> Result<Option<Frame>, ArriveError> {
        if self.have < HEADER_BYTES {
            self.have += link.read(driver, &mut self.header[self.have..]).map_err(ArriveError::Lost)?;
            if self.have < HEADER_BYTES {
                return Ok(None);
            }
        }
        let header = match self.decoded {
            Some(header) => header,
            None => {
                let header = FrameHeader::decode(&self.header).map_err(ArriveError::Frame)?;
                if header.body_len > body_max {
                    let found = u64::from(header.body_len);
                    return Err(ArriveError::Frame(FrameError::TooLong { found, max: body_max }));
                }
                *self.decoded.insert(header)
            }
        };
        let missing = header.body_len as usize - self.body.len();
        let body = &mut self.body;
        link.read_chunks(driver, missing, |chunk| body.extend_from_slice(chunk)).map_err(ArriveError::Lost)?;
        if self.body.len() < header.body_len as usize {
            return Ok(None);
        }
        let body = std::mem::take(self).body;
        Ok(Some(Frame { kind: header.kind, epoch: header.epoch, body }))
    }
}
