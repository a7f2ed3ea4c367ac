//! What bytes each token id stands for, as the `ByteLevel` decoder of Hugging Face has it.
//!
//! Invariant: the concatenated bytes of any ids, read as lossy UTF-8, are what `tokenizer.decode` gives for them.

use std::collections::HashSet;

use tokenizers::Tokenizer;

/// Largest token id.
const ID_MAX: u32 = 1 << 20;

/// id → bytes, for every id of a tokenizer. Ids beyond it (a vocabulary is padded) stand for nothing.
#[derive(Debug)]
pub struct Pieces {
    bytes: Vec<u8>,
    /// `[ids + 1]`: where each id's bytes start.
    starts: Vec<u32>,
    special: Vec<bool>,
    longest: usize,
}

impl Pieces {
    /// The table of a tokenizer; else its largest id and the limit which that breaks.
    pub(super) fn of(tokenizer: &Tokenizer) -> Result<Self, (u32, u32)> {
        // Added tokens come last: where an id stands in both, Hugging Face reads it as the added one.
        let model = tokenizer.get_vocab(false).into_iter().map(|(token, id)| (id, token));
        let added = tokenizer.get_added_tokens_decoder();
        let special: HashSet<&str> = added.values().filter(|t| t.special).map(|t| t.content.as_str()).collect();
        let added = added.iter().map(|(id, token)| (*id, token.content.clone()));
        let tokens: Vec<(u32, String)> = model.chain(added).collect();
        let last = tokens.iter().map(|(id, _)| *id).max();
        if let Some(found) = last.filter(|id| *id > ID_MAX) {
            return Err((found, ID_MAX));
        }
        let mut by_id = vec![None; last.map_or(0, |id| id as usize + 1)];
        for (id, token) in tokens {
            by_id[id as usize] = Some(token);
        }
        let by_byte = char_bytes();
        let mut pieces = Self { bytes: Vec::new(), starts: vec![0], special: Vec::new(), longest: 0 };
        for token in by_id {
            pieces.special.push(token.as_deref().is_some_and(|t| special.contains(t)));
            let piece = token.map(|t| bytes_of(&t, &by_byte)).unwrap_or_default();
            pieces.longest = pieces.longest.max(piece.len());
            pieces.bytes.extend_from_slice(&piece);
            pieces.starts.push(u32::try_from(pieces.bytes.len()).expect("a vocabulary's file is far below 4 GiB"));
        }
        Ok(pieces)
    }

    /// A table of these pieces, with whether each is special.
    #[cfg(test)]
    pub(in crate::gateway) fn for_tests(pieces: &[(&[u8], bool)]) -> Self {
        let mut table = Self { bytes: Vec::new(), starts: vec![0], special: Vec::new(), longest: 0 };
        for (piece, special) in pieces {
            table.bytes.extend_from_slice(piece);
            table.starts.push(u32::try_from(table.bytes.len()).unwrap());
            table.special.push(*special);
        }
        table
    }

    /// The bytes of one id; empty beyond the tokenizer.
    #[must_use]
    pub fn get(&self, id: u32) -> &[u8] {
        let i = id as usize;
        match (self.starts.get(i), self.starts.get(i + 1)) {
            (Some(&from), Some(&to)) => &self.bytes[from as usize..to as usize],
            _ => &[],
        }
    }

    /// Whether `skip_special_tokens` leaves the id out.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// Number of ids in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.special.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.special.is_empty()
    }

    /// Length of the longest id's bytes.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.longest
    }
}

/// A token's bytes: each character by the byte map, or, where one is not in it, the text itself.
fn bytes_of(token: &str, by_byte: &[Option<u8>; MAPPED]) -> Vec<u8> {
    let byte = |c: char| by_byte.get(c as usize).copied().flatten();
    token.chars().map(byte).collect::<Option<_>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

/// One past the highest code point of the byte map.
const MAPPED: usize = 256 + 68;

/// GPT-2's map of bytes to printable characters, by character: printable Latin-1 stands for itself, the 68 other bytes
/// for U+0100 onwards, in order.
fn char_bytes() -> [Option<u8>; MAPPED] {
    let mut map = [None; MAPPED];
    let mut next = 256;
    for byte in 0..=u8::MAX {
        let itself = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let at = if itself {
            usize::from(byte)
        } else {
            next += 1;
            next - 1
        };
        map[at] = Some(byte);
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_map_covers_every_byte_once() {
        let mut seen: Vec<u8> = char_bytes().into_iter().flatten().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..=u8::MAX).collect::<Vec<_>>());
        assert_eq!(char_bytes()['Ġ' as usize], Some(b' '));
        assert_eq!(char_bytes()['Ċ' as usize], Some(b'\n'));
    }

    #[test]
    fn a_token_outside_of_the_map_is_its_own_text() {
        assert_eq!(bytes_of("Ġhi", &char_bytes()), b" hi");
        assert_eq!(bytes_of("两 个", &char_bytes()), "两 个".as_bytes());
    }
}
