//! Prompts: words in an order that follows from the seed, or token ids where the endpoint takes them.
//!
//! Not here: how many tokens a word is (`calibration`).

use super::draw::Draw;

/// Ids that are plain tokens in every vocabulary of a few thousand and more: past the bytes and below the specials.
const IDS: std::ops::Range<u32> = 256..2048;

const WORDS: [&str; 64] = [
    "open", "the", "phone", "and", "find", "a", "blue", "shop", "near", "river", "then", "write", "down", "price",
    "of", "three", "green", "apples", "before", "noon", "while", "music", "plays", "in", "old", "garden", "where",
    "people", "walk", "under", "tall", "trees", "with", "small", "dogs", "or", "read", "news", "about", "rain", "that",
    "falls", "over", "city", "every", "second", "week", "of", "spring", "send", "one", "message", "to", "my", "friend",
    "who", "waits", "at", "station", "for", "last", "train", "home", "today",
];

/// So many words.
pub(super) fn text(num_words: u32, draw: &mut Draw) -> String {
    let mut out = String::new();
    for i in 0..num_words {
        out.push_str(if i == 0 { "" } else { " " });
        out.push_str(WORDS[draw.below(WORDS.len() as u32) as usize]);
    }
    out
}

/// So many token ids.
pub(super) fn ids(num_tokens: u32, draw: &mut Draw) -> Vec<u32> {
    (0..num_tokens).map(|_| IDS.start + draw.below(IDS.end - IDS.start)).collect()
}
