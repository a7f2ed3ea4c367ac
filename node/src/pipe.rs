//! Frames over a worker's stdin and stdout, blocking for the worker and async for its agent.
//!
//! Not here: what the frames mean. Both ends check every header and body as if it had come over the network.

use std::io::{ErrorKind, Read, Write};

use protocol::frame::{FRAME_BYTES_MAX, HEADER_BYTES};
use protocol::{Epoch, Frame, FrameError, FrameHeader, Message};
use rkyv::util::AlignedVec;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Why a pipe gives or takes no more frames.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    /// Reading or writing failed; also an end in the middle of a frame.
    #[error("pipe: {0}")]
    Io(#[from] std::io::Error),
    /// What came is not a frame of ours.
    #[error("pipe: {0}")]
    Frame(#[from] FrameError),
}

/// Reads the next message, `None` at the end of the pipe. Blocks.
///
/// # Errors
/// [`PipeError`].
pub(crate) fn read<M: Message>(pipe: &mut impl Read) -> Result<Option<M>, PipeError> {
    let mut header = [0; HEADER_BYTES];
    let first = loop {
        match pipe.read(&mut header) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if first == 0 {
        return Ok(None);
    }
    pipe.read_exact(&mut header[first..])?;
    let mut frame = empty_frame(&header)?;
    pipe.read_exact(&mut frame.body)?;
    Ok(Some(frame.read()?))
}

/// As [`read`], without blocking.
///
/// # Errors
/// [`PipeError`].
///
/// # Cancel safety
/// None: a frame that was begun is lost.
pub(crate) async fn read_async<M: Message>(pipe: &mut (impl AsyncRead + Unpin)) -> Result<Option<M>, PipeError> {
    let mut header = [0; HEADER_BYTES];
    let first = pipe.read(&mut header).await?;
    if first == 0 {
        return Ok(None);
    }
    pipe.read_exact(&mut header[first..]).await?;
    let mut frame = empty_frame(&header)?;
    pipe.read_exact(&mut frame.body).await?;
    Ok(Some(frame.read()?))
}

/// The frame that `header` announces, its body all zeros.
fn empty_frame(header: &[u8; HEADER_BYTES]) -> Result<Frame, FrameError> {
    let header = FrameHeader::decode(header)?;
    debug_assert!(header.body_len <= FRAME_BYTES_MAX);
    let mut body = AlignedVec::new();
    body.resize(header.body_len as usize, 0);
    Ok(Frame { kind: header.kind, epoch: header.epoch, body })
}

/// Writes one message and flushes it. Blocks.
///
/// # Errors
/// [`PipeError`].
pub(crate) fn write<M: Message>(pipe: &mut (impl Write + ?Sized), epoch: Epoch, message: &M) -> Result<(), PipeError> {
    pipe.write_all(&Frame::bytes_of(epoch, message)?)?;
    Ok(pipe.flush()?)
}

#[cfg(test)]
mod tests {
    use protocol::worker::{FromWorker, ToWorker};

    use super::*;

    #[test]
    fn messages_cross_and_the_end_is_told_from_a_torn_frame() {
        let mut bytes = Vec::new();
        write(&mut bytes, Epoch(2), &ToWorker::Serve).expect("memory");
        write(&mut bytes, Epoch(2), &ToWorker::Drain { deadline_ms: 5 }).expect("memory");
        let mut pipe = bytes.as_slice();
        assert_eq!(read::<ToWorker>(&mut pipe).expect("whole"), Some(ToWorker::Serve));
        assert_eq!(read::<ToWorker>(&mut pipe).expect("whole"), Some(ToWorker::Drain { deadline_ms: 5 }));
        assert!(read::<ToWorker>(&mut pipe).expect("a clean end").is_none());
        let mut torn = &bytes[..bytes.len() - 1];
        assert!(read::<ToWorker>(&mut torn).is_ok());
        assert!(matches!(read::<ToWorker>(&mut torn), Err(PipeError::Io(_))));
        let mut other = bytes.as_slice();
        let unexpected = read::<FromWorker>(&mut other);
        assert!(matches!(unexpected, Err(PipeError::Frame(FrameError::UnexpectedKind { .. }))));
    }
}
