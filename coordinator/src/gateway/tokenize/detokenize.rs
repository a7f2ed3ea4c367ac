//! Token ids to text, one at a time.
//!
//! Invariants: what is handed out is whole code points; all of it together equals `tokenizer.decode` of all ids,
//! U+FFFD for U+FFFD, however the ids were chunked.

use std::sync::Arc;

use super::Pieces;

/// The text of one output so far, up to its last whole code point.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    pieces: Arc<Pieces>,
    skip_special: bool,
    /// The start of a code point: at most three bytes.
    pending: Vec<u8>,
}

impl Detokenizer {
    /// Starts an output; `skip_special` leaves special tokens out of the text.
    #[must_use]
    pub fn new(pieces: Arc<Pieces>, skip_special: bool) -> Self {
        Self { pieces, skip_special, pending: Vec::new() }
    }

    /// Appends to `text` what `id` completes; often nothing.
    pub fn push(&mut self, id: u32, text: &mut String) {
        if self.skip_special && self.pieces.is_special(id) {
            return;
        }
        self.pending.extend_from_slice(self.pieces.get(id));
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(whole) => {
                    text.push_str(whole);
                    rest = &[];
                    break;
                }
                Err(e) => {
                    let (whole, after) = rest.split_at(e.valid_up_to());
                    text.push_str(std::str::from_utf8(whole).expect("checked up to here"));
                    rest = after;
                    match e.error_len() {
                        Some(bad) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &rest[bad..];
                        }
                        None => break,
                    }
                }
            }
        }
        let kept = rest.len();
        self.pending.drain(..self.pending.len() - kept);
    }

    /// Appends what an unfinished code point at the very end reads as.
    pub fn finish(&mut self, text: &mut String) {
        if !self.pending.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            self.pending.clear();
        }
    }
}
