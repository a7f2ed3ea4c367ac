//! A model's `tokenizer.json`: text to ids as Hugging Face does it, and the table that turns ids back into bytes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokenizers::{DecoderWrapper, Tokenizer};

use super::Pieces;

/// Largest `tokenizer.json` that is read, bytes.
const FILE_BYTES_MAX: u64 = 128 << 20;

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is above the bound.
    #[error("{}: {found} bytes, at most {FILE_BYTES_MAX}", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its size, bytes.
        found: u64,
    },
    /// The file is no tokenizer.
    #[error("{}: not a tokenizer: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// A decoder that the byte table does not stand for.
    #[error("{}: the decoder is {found}, expected ByteLevel", path.display())]
    Decoder {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: String,
    },
    /// An id that no model of this family has.
    #[error("{}: token id {found} is above the limit of {max}", path.display())]
    Id {
        /// The file.
        path: PathBuf,
        /// The largest id.
        found: u32,
        /// The limit.
        max: u32,
    },
    /// A text that cannot be encoded.
    #[error("the text cannot be encoded: {reason}")]
    Encode {
        /// What the encoder says.
        reason: String,
    },
}

/// Encoder and byte table of one model.
#[derive(Debug)]
pub struct TextTokenizer {
    inner: Tokenizer,
    pieces: Arc<Pieces>,
}

impl TextTokenizer {
    /// Reads `tokenizer.json`. Blocking.
    ///
    /// # Errors
    /// Each [`TokenizerError`] but [`TokenizerError::Encode`].
    pub fn load(path: &Path) -> Result<Self, TokenizerError> {
        let read = |source| TokenizerError::Read { path: path.to_owned(), source };
        let found = std::fs::metadata(path).map_err(read)?.len();
        if found > FILE_BYTES_MAX {
            return Err(TokenizerError::TooLong { path: path.to_owned(), found });
        }
        let bytes = std::fs::read(path).map_err(read)?;
        let malformed =
            |e: tokenizers::Error| TokenizerError::Malformed { path: path.to_owned(), reason: e.to_string() };
        let mut inner = Tokenizer::from_bytes(bytes).map_err(malformed)?;
        // transformers resets both on every call; a file that carries them would cut or pad prompts.
        inner.with_truncation(None).map_err(malformed)?;
        inner.with_padding(None);
        match inner.get_decoder() {
            Some(DecoderWrapper::ByteLevel(_)) => {}
            other => {
                let found = other.map_or_else(|| "absent".to_owned(), |d| kind_of(&format!("{d:?}")));
                return Err(TokenizerError::Decoder { path: path.to_owned(), found });
            }
        }
        let added = inner.get_added_tokens_decoder();
        let added = added.into_iter().map(|(id, token)| (token.content, id, token.special));
        let pieces = Pieces::new(inner.get_vocab(false), added).map_err(|found| TokenizerError::Id {
            path: path.to_owned(),
            found,
            max: Pieces::ID_MAX,
        })?;
        Ok(Self { inner, pieces: Arc::new(pieces) })
    }

    /// The ids of `text`. `add_special` adds what the tokenizer's own post-processor adds; special tokens that stand
    /// in the text become their ids either way, as Hugging Face has it.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        self.inner
            .encode_fast(text, add_special)
            .map(|e| e.get_ids().to_vec())
            .map_err(|e| TokenizerError::Encode { reason: e.to_string() })
    }

    /// The bytes of each id.
    #[must_use]
    pub fn pieces(&self) -> &Arc<Pieces> {
        &self.pieces
    }

    /// Fewest tokens that `bytes` of text can come to, since no token stands for more bytes than the longest one.
    #[must_use]
    pub fn tokens_min(&self, bytes: usize) -> usize {
        bytes.div_ceil(self.pieces.longest().max(1))
    }
}

/// The name of an enum's variant from its debug form.
fn kind_of(debug: &str) -> String {
    debug.chars().take_while(|c| c.is_alphanumeric()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        assert!(TextTokenizer::load(&path).unwrap_err().to_string().contains("tokenizer.json"));
        std::fs::write(&path, "{\"version\":").unwrap();
        let error = TextTokenizer::load(&path).unwrap_err();
        assert!(matches!(error, TokenizerError::Malformed { .. }), "{error}");
        std::fs::write(
            &path,
            r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
                "pre_tokenizer":null,"post_processor":null,"decoder":{"type":"Fuse"},
                "model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#,
        )
        .unwrap();
        let error = TextTokenizer::load(&path).unwrap_err();
        assert!(error.to_string().ends_with("the decoder is Fuse, expected ByteLevel"), "{error}");
    }
}
