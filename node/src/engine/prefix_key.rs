//! Names of KV blocks by what they hold: a chain of SHA-256 over everything that their keys and values depend on.
//!
//! A block's key covers the model version, the request's salt, and all tokens (and other content) from position 0 to
//! the block's end. Invariant: two keys are equal only where the contents are; whoever chooses prompts would have to
//! break SHA-256 to read another's block.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use kernels::BLOCK_TOKENS;

use super::picture::PromptPicture;

/// The name of a prefix of whole blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PrefixKey([u8; SHA256_OUTPUT_LEN]);

impl PrefixKey {
    /// The empty prefix under a model version and a salt: prompts of different ones share nothing.
    #[must_use]
    pub fn root(model_digest: &str, cache_salt: &str) -> Self {
        let mut context = Context::new(&SHA256);
        // Each part goes in with its length before it, so that no two pairs give one stream of bytes.
        for part in [model_digest.as_bytes(), cache_salt.as_bytes()] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        Self::of(context)
    }

    /// This prefix and one more block of `tokens`. `extra` is whatever else its content depends on, as an image behind
    /// placeholder tokens; empty where the tokens say all.
    #[must_use]
    pub fn child(&self, tokens: &[u32; BLOCK_TOKENS], extra: &[u8]) -> Self {
        let mut bytes = [0; SHA256_OUTPUT_LEN + 4 * BLOCK_TOKENS];
        let (parent, ids) = bytes.split_at_mut(SHA256_OUTPUT_LEN);
        parent.copy_from_slice(&self.0);
        for (to, token) in ids.chunks_exact_mut(4).zip(tokens) {
            to.copy_from_slice(&token.to_le_bytes());
        }
        let mut context = Context::new(&SHA256);
        context.update(&bytes);
        context.update(extra);
        Self::of(context)
    }

    fn of(context: Context) -> Self {
        let digest = context.finish();
        Self(digest.as_ref().try_into().expect("SHA-256 gives 32 bytes"))
    }
}

/// The keys of one sequence's full blocks, computed as far as somebody asked.
#[derive(Debug, Clone)]
pub(super) struct PrefixChain {
    root: PrefixKey,
    pictures: Arc<[PromptPicture]>,
    keys: Vec<PrefixKey>,
}

impl PrefixChain {
    /// A chain that starts at `root`, of a sequence in whose prompt these pictures stand.
    pub(super) fn new(root: PrefixKey, pictures: Arc<[PromptPicture]>) -> Self {
        Self { root, pictures, keys: Vec::new() }
    }

    /// Keys of the first `blocks` blocks of `tokens`, which fill them.
    pub(super) fn first(&mut self, blocks: usize, tokens: &[u32]) -> &[PrefixKey] {
        let (full, _) = tokens.as_chunks::<BLOCK_TOKENS>();
        while self.keys.len() < blocks {
            let (parent, at) = (self.keys.last().unwrap_or(&self.root), self.keys.len());
            let (first, end) = (at * BLOCK_TOKENS, (at + 1) * BLOCK_TOKENS);
            let pictures: Vec<u8> = self.pictures.iter().filter_map(|p| p.content_of(first, end)).flatten().collect();
            self.keys.push(parent.child(&full[at], &pictures));
        }
        &self.keys[..blocks]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_depends_on_all_that_came_before_it() {
        let (a, b) = ([1; BLOCK_TOKENS], [2; BLOCK_TOKENS]);
        let root = PrefixKey::root("model", "salt");
        let keys = [
            root,
            PrefixKey::root("models", "alt"),
            PrefixKey::root("model", ""),
            PrefixKey::root("", "salt"),
            root.child(&a, &[]),
            root.child(&b, &[]),
            root.child(&a, b"image"),
            root.child(&a, &[]).child(&b, &[]),
            root.child(&b, &[]).child(&b, &[]),
            PrefixKey::root("model", "").child(&a, &[]),
        ];
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(key), "key {i} is one of those before it");
        }
        assert_eq!(root.child(&a, &[]), PrefixKey::root("model", "salt").child(&a, &[]));
    }

    #[test]
    fn a_chain_gives_the_same_keys_whenever_it_is_asked() {
        let tokens: Vec<u32> = (0..70).collect();
        let mut chain = PrefixChain::new(PrefixKey::root("model", ""), Arc::default());
        let two = chain.first(2, &tokens).to_vec();
        assert_eq!(chain.first(4, &tokens)[..2], two);
        assert_eq!(chain.first(1, &tokens), &two[..1]);
    }
}
