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
    /// What came is of another epoch than the process.
    #[error("pipe: a frame of epoch {found}, expected {expected}")]
    WrongEpoch {
        /// The frame's.
        found: Epoch,
        /// The process's.
        expected: Epoch,
    },
}

/// Reads the next message and its epoch, `None` at the end of the pipe. Blocks.
///
/// # Errors
/// [`PipeError`].
pub(crate) fn read<M: Message>(pipe: &mut impl Read) -> Result<Option<(Epoch, M)>, PipeError> {
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
    Ok(Some((frame.epoch, frame.read()?)))
}

/// As [`read`], of messages of `epoch` alone.
///
/// # Errors
/// [`PipeError`].
pub(crate) fn read_of<M: Message>(epoch: Epoch, pipe: &mut impl Read) -> Result<Option<M>, PipeError> {
    read(pipe)?.map(|(found, message)| believe(found, epoch, message)).transpose()
}

fn believe<M>(found: Epoch, expected: Epoch, message: M) -> Result<M, PipeError> {
    if found == expected { Ok(message) } else { Err(PipeError::WrongEpoch { found, expected }) }
}

/// As [`read_of`], without blocking.
///
/// # Errors
/// [`PipeError`].
///
/// # Cancel safety
/// None: a frame that was begun is lost.
pub(crate) async fn read_async<M: Message>(
    epoch: Epoch,
    pipe: &mut (impl AsyncRead + Unpin),
) -> Result<Option<M>, PipeError> {
    let mut header = [0; HEADER_BYTES];
    let first = pipe.read(&mut header).await?;
    if first == 0 {
        return Ok(None);
    }
    pipe.read_exact(&mut header[first..]).await?;
    let mut frame = empty_frame(&header)?;
    pipe.read_exact(&mut frame.body).await?;
    believe(frame.epoch, epoch, frame.read()?).map(Some)
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
        assert_eq!(read::<ToWorker>(&mut pipe).expect("whole"), Some((Epoch(2), ToWorker::Serve)));
        assert_eq!(read_of::<ToWorker>(Epoch(2), &mut pipe).expect("whole"), Some(ToWorker::Drain { deadline_ms: 5 }));
        assert!(read::<ToWorker>(&mut pipe).expect("a clean end").is_none());
        let mut torn = &bytes[..bytes.len() - 1];
        assert!(read::<ToWorker>(&mut torn).is_ok());
        assert!(matches!(read::<ToWorker>(&mut torn), Err(PipeError::Io(_))));
        let mut other = bytes.as_slice();
        let unexpected = read::<FromWorker>(&mut other);
        assert!(matches!(unexpected, Err(PipeError::Frame(FrameError::UnexpectedKind { .. }))));
    }

    #[tokio::test]
    async fn a_frame_of_another_epoch_is_not_believed_by_either_end() {
        let mut bytes = Vec::new();
        write(&mut bytes, Epoch(2), &ToWorker::Serve).expect("memory");
        for (expected, believed) in [(1, false), (2, true), (3, false)] {
            let expected = Epoch(expected);
            let blocking = read_of::<ToWorker>(expected, &mut bytes.as_slice());
            let waiting = read_async::<ToWorker>(expected, &mut bytes.as_slice()).await;
            for outcome in [blocking, waiting] {
                match outcome {
                    Ok(message) => assert!(believed && message == Some(ToWorker::Serve)),
                    Err(e) => assert!(!believed && matches!(e, PipeError::WrongEpoch { found: Epoch(2), .. }), "{e}"),
                }
            }
        }
    }
}
