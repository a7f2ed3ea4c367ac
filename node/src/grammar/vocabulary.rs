//! The model's vocabulary as llguidance wants it: the bytes of each id, in a trie.
//!
//! Not here: encoding. Any tokens that spell what the grammar allows are allowed, not only those that the tokenizer
//! would have made of it, so a mask needs bytes alone.
//! Invariants: an id whose bytes a grammar must never match as text (special tokens, padding) has none here, or a name
//! behind a byte that no text holds, by which a grammar can ask for it; the id after the last one stands for the end.

use std::sync::Arc;

use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use sharding::Pieces;

/// Longest token that the trie can hold, bytes.
const TOKEN_BYTES_MAX: usize = 1000;

/// The trie of `vocab_size` ids, those of `pieces` first, and of one more id that stands for the end of the output.
pub(super) fn token_env(pieces: &Pieces, vocab_size: u32) -> TokEnv {
    let mut words: Vec<Vec<u8>> = (0..vocab_size).map(|id| word(pieces, id)).collect();
    words.push(Vec::new());
    let info = TokRxInfo::new(vocab_size + 1, vocab_size);
    Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words)))
}

fn word(pieces: &Pieces, id: u32) -> Vec<u8> {
    let bytes = pieces.get(id);
    if bytes.len() > TOKEN_BYTES_MAX || bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
        return Vec::new();
    }
    if !pieces.is_special(id) {
        return bytes.to_vec();
    }
    let mut name = vec![TokTrie::SPECIAL_TOKEN_MARKER];
    name.extend_from_slice(bytes);
    name
}
