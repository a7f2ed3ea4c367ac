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
    partial: Vec<u8>,
}

impl SseLines {
    /// The payloads that end in this chunk.
    ///
    /// # Errors
    /// [`LineTooLong`].
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Result<Vec<String>, LineTooLong> {
        let mut out = Vec::new();
        for part in chunk.split_inclusive(|b| *b == b'\n') {
            self.partial.extend_from_slice(part);
            if self.partial.len() > LINE_BYTES_MAX {
                return Err(LineTooLong);
            }
            if part.ends_with(b"\n") {
                let line = String::from_utf8_lossy(&self.partial).trim_end_matches(['\n', '\r']).to_owned();
                self.partial.clear();
                if let Some(data) = line.strip_prefix("data:") {
                    out.push(data.strip_prefix(' ').unwrap_or(data).to_owned());
                }
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_chunking_gives_the_same_events() {
        let stream = ": hello\r\ndata: {\"a\":\"微信\"}\r\n\r\nevent: x\ndata:[DONE]\n\n".as_bytes();
        for size in 1..stream.len() {
            let mut lines = SseLines::default();
            let events: Vec<String> = stream.chunks(size).flat_map(|c| lines.push(c).expect("short lines")).collect();
            assert_eq!(events, ["{\"a\":\"微信\"}", "[DONE]"], "chunks of {size}");
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut lines = SseLines::default();
        let chunk = vec![b'x'; LINE_BYTES_MAX];
        assert_eq!(lines.push(&chunk), Ok(vec![]));
        assert_eq!(lines.push(b"x"), Err(LineTooLong));
    }
}
