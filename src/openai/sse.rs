//! Server-sent events, as far as OpenAI's streams use them: `data:` lines, one event each.

/// Longest line, bytes: a server that sends more is not one of chat completions.
const LINE_BYTES_MAX: usize = 4 << 20;

/// A line of an event stream that is too long to be one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a line of the stream has more than {LINE_BYTES_MAX} bytes")]
pub(crate) struct LineTooLong;

/// Cuts a byte stream into the payloads of its `data:` lines, however it was chunked.
#[derive(Debug, Default)]
pub(crate) struct SseLines {
    /// The start of a line whose end has not come.
    partial: Vec<u8>,
}

impl SseLines {
    /// Hands the payloads that end in this chunk to `event`, in order. A line that lies in one chunk is not copied.
    ///
    /// # Errors
    /// [`LineTooLong`].
    pub(crate) fn push(&mut self, chunk: &[u8], mut event: impl FnMut(&[u8])) -> Result<(), LineTooLong> {
        for part in chunk.split_inclusive(|b| *b == b'\n') {
            if self.partial.len() + part.len() > LINE_BYTES_MAX {
                return Err(LineTooLong);
            }
            if !part.ends_with(b"\n") {
                self.partial.extend_from_slice(part);
            } else if self.partial.is_empty() {
                payload(part).map(&mut event);
            } else {
                self.partial.extend_from_slice(part);
                payload(&self.partial).map(&mut event);
                self.partial.clear();
            }
        }
        Ok(())
    }
}

/// What follows `data:`; `None` for lines of other kinds.
fn payload(line: &[u8]) -> Option<&[u8]> {
    let end = line.iter().rposition(|b| !matches!(b, b'\n' | b'\r')).map_or(0, |last| last + 1);
    let data = line[..end].strip_prefix(b"data:")?;
    Some(data.strip_prefix(b" ").unwrap_or(data))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn collect(lines: &mut SseLines, chunk: &[u8]) -> Result<Vec<String>, LineTooLong> {
        let mut out = Vec::new();
        lines.push(chunk, |data| out.push(String::from_utf8(data.to_vec()).expect("UTF-8")))?;
        Ok(out)
    }

    proptest! {
        #[test]
        fn any_cuts_give_the_same_events(
            payloads in prop::collection::vec("[^\r\n]{0,40}", 1..8),
            crlf in any::<bool>(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let end = if crlf { "\r\n" } else { "\n" };
            let event = |p: &String| format!(": 微信{end}data: {p}{end}{end}id: 7{end}");
            let stream: String = payloads.iter().map(event).collect();
            let mut at: Vec<usize> = cuts.iter().map(|c| c.index(stream.len())).collect();
            at.extend([0, stream.len()]);
            at.sort_unstable();
            let mut lines = SseLines::default();
            let mut found = Vec::new();
            for cut in at.windows(2) {
                found.extend(collect(&mut lines, &stream.as_bytes()[cut[0]..cut[1]]).expect("short lines"));
            }
            prop_assert_eq!(found, payloads);
        }
    }

    #[test]
    fn any_chunk_size_gives_the_same_events() {
        let stream = ": hello\r\ndata: {\"a\":\"微信\"}\r\n\r\nevent: x\ndata:[DONE]\n\n".as_bytes();
        for size in 1..stream.len() {
            let mut lines = SseLines::default();
            let chunks = stream.chunks(size).flat_map(|c| collect(&mut lines, c).expect("short lines"));
            assert_eq!(chunks.collect::<Vec<_>>(), ["{\"a\":\"微信\"}", "[DONE]"], "chunks of {size}");
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut lines = SseLines::default();
        let chunk = vec![b'x'; LINE_BYTES_MAX];
        assert_eq!(collect(&mut lines, &chunk), Ok(vec![]));
        assert_eq!(collect(&mut lines, b"x"), Err(LineTooLong));
    }
}
