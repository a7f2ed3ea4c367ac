//! Text to token ids and back.
//!
//! Encoding is the `tokenizers` crate's, so that ids are Hugging Face's. Decoding is our own, since it must go token by
//! token without ever splitting a code point.

mod detokenize;
mod stop;
mod tokenizer;

pub use detokenize::Detokenizer;
pub use sharding::Pieces;
pub use stop::{StopMatcher, Stopped};
pub use tokenizer::{TextTokenizer, TokenizerError};
