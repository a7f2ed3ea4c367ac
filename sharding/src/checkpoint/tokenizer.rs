//! Whether the tokenizer and the stop ids beside a checkpoint belong to it.
//!
//! Not here: tokenising. Invariant: after [`check`], every id that the tokenizer can make is a row of the embedding.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::CheckpointError;
use super::files::read_bounded;

/// Largest `tokenizer.json`, bytes.
pub(super) const TOKENIZER_BYTES_MAX: u64 = 128 << 20;
/// Largest `generation_config.json`, bytes.
const GENERATION_BYTES_MAX: u64 = 4 << 20;

#[derive(Deserialize)]
pub(super) struct Tokenizer {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    pub(super) model: Model,
    #[serde(default)]
    pub(super) decoder: Option<Decoder>,
}

#[derive(Deserialize)]
pub(super) struct Decoder {
    #[serde(rename = "type")]
    pub(super) kind: String,
}

#[derive(Deserialize)]
pub(super) struct AddedToken {
    pub(super) id: u64,
    pub(super) content: String,
    #[serde(default)]
    pub(super) special: bool,
}

#[derive(Deserialize)]
pub(super) struct Model {
    pub(super) vocab: Vocab,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Vocab {
    /// BPE, WordPiece, WordLevel: text to id.
    Map(HashMap<String, u64>),
    /// Unigram: the id is the place.
    List(Vec<(String, f64)>),
}

impl Vocab {
    /// Each token and its id.
    pub(super) fn into_tokens(self) -> Box<dyn Iterator<Item = (String, u64)>> {
        match self {
            Self::Map(map) => Box::new(map.into_iter()),
            Self::List(list) => Box::new((0..).zip(list).map(|(id, (text, _))| (text, id))),
        }
    }
}

#[derive(Deserialize)]
struct GenerationConfig {
    #[serde(default)]
    eos_token_id: Option<EosIds>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum EosIds {
    One(u64),
    Many(Vec<u64>),
}

/// Holds `tokenizer.json` and `generation_config.json` of `dir` to the model's vocabulary.
pub(super) fn check(dir: &Path, vocab_size: u32) -> Result<(), CheckpointError> {
    let path = dir.join("tokenizer.json");
    if !path.is_file() {
        return Err(CheckpointError::MissingFile { dir: dir.to_owned(), expected: "tokenizer.json" });
    }
    let tokenizer = read(&path)?;
    if let Some((found, token)) = highest_id(tokenizer)
        && found >= u64::from(vocab_size)
    {
        let token = format!("{:?}", token.chars().take(40).collect::<String>());
        return Err(CheckpointError::TokenizerMismatch { path, vocab_size, found, token });
    }
    let path = dir.join("generation_config.json");
    if !path.is_file() {
        return Ok(());
    }
    let generation: GenerationConfig = parse(&path, GENERATION_BYTES_MAX, "an object with stop ids")?;
    let ids = match generation.eos_token_id {
        None => Vec::new(),
        Some(EosIds::One(id)) => vec![id],
        Some(EosIds::Many(ids)) => ids,
    };
    match ids.into_iter().find(|id| *id >= u64::from(vocab_size)) {
        None => Ok(()),
        Some(found) => {
            Err(CheckpointError::TokenizerMismatch { path, vocab_size, found, token: "eos_token_id".to_owned() })
        }
    }
}

/// Reads a `tokenizer.json`.
pub(super) fn read(path: &Path) -> Result<Tokenizer, CheckpointError> {
    parse(path, TOKENIZER_BYTES_MAX, "a tokenizer with a `model.vocab`")
}

fn highest_id(tokenizer: Tokenizer) -> Option<(u64, String)> {
    let added = tokenizer.added_tokens.into_iter().map(|t| (t.id, t.content)).max();
    let own = tokenizer.model.vocab.into_tokens().map(|(text, id)| (id, text)).max();
    added.max(own)
}

fn parse<T: serde::de::DeserializeOwned>(
    path: &Path,
    bytes_max: u64,
    expected: &'static str,
) -> Result<T, CheckpointError> {
    let bytes = read_bounded(path, bytes_max)?;
    serde_json::from_slice(&bytes).map_err(|e| CheckpointError::Json {
        path: path.to_owned(),
        expected,
        found: e.to_string().chars().take(200).collect(),
    })
}
