//! What bytes each token id stands for, as the `ByteLevel` decoder of Hugging Face has it.
//!
//! Not here: encoding. Invariant: the concatenated bytes of any ids, read as lossy UTF-8, are what `tokenizer.decode` gives for them.

use std::collections::HashSet;
use std::path::Path;

use super::{CheckpointError, tokenizer};

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
    /// The table of `dir/tokenizer.json`.
    ///
    /// # Errors
    /// [`CheckpointError`]: the file cannot be read, has another decoder, or an id that no model of this family has.
    pub fn read(dir: &Path) -> Result<Self, CheckpointError> {
        let path = dir.join("tokenizer.json");
        let file = tokenizer::read(&path)?;
        let json = |expected, found| CheckpointError::Json { path: path.clone(), expected, found };
        let decoder = file.decoder.map_or_else(|| "none".to_owned(), |d| d.kind);
        if decoder != "ByteLevel" {
            return Err(json("a ByteLevel decoder", decoder));
        }
        let id = |id: u64| u32::try_from(id).unwrap_or(u32::MAX);
        let model = file.model.vocab.into_tokens().map(|(token, n)| (token, id(n)));
        let added = file.added_tokens.into_iter().map(|t| (t.content, id(t.id), t.special));
        Self::new(model, added).map_err(|found| json("token ids of at most 2^20", found.to_string()))
    }

    /// The table of a byte-level tokenizer: the tokens of its vocabulary as the file writes them, and the added ones,
    /// each with whether it is special.
    ///
    /// # Errors
    /// The largest id, where it is above [`Self::ID_MAX`].
    pub fn new(
        model: impl IntoIterator<Item = (String, u32)>,
        added: impl IntoIterator<Item = (String, u32, bool)>,
    ) -> Result<Self, u32> {
        // Added tokens come last: where an id stands in both, Hugging Face reads it as the added one.
        let model = model.into_iter().map(|(token, id)| (token, id, false));
        let tokens: Vec<(String, u32, bool)> = model.chain(added).collect();
        let last = tokens.iter().map(|(_, id, _)| *id).max();
        if let Some(found) = last.filter(|id| *id > Self::ID_MAX) {
            return Err(found);
        }
        let special: HashSet<String> = tokens.iter().filter(|t| t.2).map(|t| t.0.clone()).collect();
        let mut by_id = vec![None; last.map_or(0, |id| id as usize + 1)];
        for (token, id, _) in tokens {
            by_id[id as usize] = Some(token);
        }
        let by_byte = char_bytes();
        let pieces = by_id.into_iter().map(|token| {
            let special = token.as_deref().is_some_and(|t| special.contains(t));
            (token.map(|t| bytes_of(&t, &by_byte)).unwrap_or_default(), special)
        });
        Ok(Self::of_bytes(pieces))
    }

    /// A table of these pieces in order of id, with whether each is special. In all below 4 GiB.
    pub fn of_bytes(pieces: impl IntoIterator<Item = (Vec<u8>, bool)>) -> Self {
        let mut table = Self { bytes: Vec::new(), starts: vec![0], special: Vec::new(), longest: 0 };
        for (piece, special) in pieces {
            table.longest = table.longest.max(piece.len());
            table.bytes.extend_from_slice(&piece);
            table.starts.push(u32::try_from(table.bytes.len()).expect("a vocabulary's file is far below 4 GiB"));
            table.special.push(special);
        }
        table
    }

    /// Largest token id.
    pub const ID_MAX: u32 = 1 << 20;

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
