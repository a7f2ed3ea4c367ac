//! What the gateway needs of a model version's files: tokenizer, chat template, defaults of generation.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use protocol::ModelRecord;
use protocol::generate::STOP_IDS_MAX;
use serde_json::{Map, Value};
use sharding::{CheckpointError, ModelSpec, SpecError};

use super::pictures::Eyes;
use super::template::read_object;
use super::template::{ChatTemplate, SourceError, TemplateError, TemplateSource};
use super::tokenize::{TextTokenizer, TokenizerError};

/// Why a model's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// `config.json`.
    #[error("config.json: {0}")]
    Config(#[from] SpecError),
    /// `preprocessor_config.json`.
    #[error(transparent)]
    Processor(#[from] CheckpointError),
    /// `tokenizer.json`.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template's file.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The chat template.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The tokenizer is another model's.
    #[error("{}: the tokenizer has ids up to {last}, expected all below the model's vocabulary of {vocab}", path.display())]
    Vocabulary {
        /// The tokenizer's file.
        path: PathBuf,
        /// Its largest id.
        last: usize,
        /// The model's `vocab_size`.
        vocab: u32,
    },
    /// `generation_config.json` with a value that cannot be.
    #[error("{}: {key} is {found}, expected {expected}", path.display())]
    Generation {
        /// The file.
        path: PathBuf,
        /// Which value.
        key: &'static str,
        /// What it is.
        found: String,
        /// What it may be.
        expected: String,
    },
}

/// Reads what a gateway will read of `model`: its tokenizer, chat template and generation config. For whoever wants to
/// know before a cluster starts. Blocking.
///
/// # Errors
/// [`BundleError`] naming the file.
pub fn check_model_files(model: &ModelRecord) -> Result<(), BundleError> {
    Bundle::load(model).map(drop)
}

/// What holds where a request does not say otherwise.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct GenerationDefaults {
    /// 0 is greedy.
    pub(super) temperature: f32,
    /// Nucleus mass in (0, 1].
    pub(super) top_p: f32,
    /// 0 keeps all.
    pub(super) top_k: u32,
    /// 0 keeps all.
    pub(super) min_p: f32,
    /// 1 is none.
    pub(super) repetition_penalty: f32,
    /// Longest answer, tokens.
    pub(super) max_new_tokens: Option<u32>,
    /// Ids that end an answer.
    pub(super) eos_ids: Vec<u32>,
}

/// The files of one model version, read.
#[derive(Debug)]
pub(super) struct Bundle {
    /// Text to ids and back.
    pub(super) tokenizer: TextTokenizer,
    /// Where the model has one.
    pub(super) template: Option<ChatTemplate>,
    /// What holds where a request does not say otherwise.
    pub(super) defaults: GenerationDefaults,
    /// Rows of the LM head: ids that may be named in a request are below.
    pub(super) vocab_size: u32,
    /// Longest context that the model was made for, tokens.
    pub(super) context_tokens: u32,
    /// How it sees, where it does.
    pub(super) eyes: Option<Eyes>,
}

impl Bundle {
    /// Reads the files. Blocking, for up to a second with a large vocabulary.
    ///
    /// # Errors
    /// [`BundleError`] naming the file.
    pub(super) fn load(model: &ModelRecord) -> Result<Self, BundleError> {
        let dir = Path::new(&model.dir);
        let spec = ModelSpec::from_config_json(&model.config_json)?;
        let path = dir.join("tokenizer.json");
        let tokenizer = TextTokenizer::load(&path)?;
        let ids = tokenizer.pieces().len();
        if ids > spec.vocab_size as usize {
            return Err(BundleError::Vocabulary { path, last: ids - 1, vocab: spec.vocab_size });
        }
        let template =
            TemplateSource::find(dir)?.map(|source| ChatTemplate::new(source, SystemTime::now)).transpose()?;
        Ok(Self {
            tokenizer,
            template,
            defaults: GenerationDefaults::load(dir, &spec)?,
            vocab_size: spec.vocab_size,
            context_tokens: spec.max_position_embeddings,
            eyes: Eyes::read(dir, &spec)?,
        })
    }
}

impl GenerationDefaults {
    /// As vLLM reads `generation_config.json`, except that `do_sample: false` means greedy: the temperature's default is
    /// then 0 and the file's top_p, top_k and min_p, which do not apply to greedy search, are not taken for requests
    /// that do sample. Without the file: OpenAI's defaults and the stop ids of `config.json`.
    fn load(dir: &Path, spec: &ModelSpec) -> Result<Self, BundleError> {
        let path = dir.join("generation_config.json");
        let file = File { map: read_object(&path)?.unwrap_or_default(), path };
        let samples = file.map.get("do_sample").and_then(Value::as_bool) != Some(false);
        let sampled = |key, lo, hi, neutral| if samples { file.number(key, lo, hi, neutral) } else { Ok(neutral) };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
        let top_k = sampled("top_k", 0.0, 1e9, 0.0)? as u32;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
        let longest = file.number("max_new_tokens", 0.0, 1e9, 0.0)? as u32;
        Ok(Self {
            temperature: if samples { file.number("temperature", 0.0, 100.0, 1.0)? as f32 } else { 0.0 },
            top_p: sampled("top_p", 1e-6, 1.0, 1.0)? as f32,
            top_k,
            min_p: sampled("min_p", 0.0, 1.0, 0.0)? as f32,
            repetition_penalty: file.number("repetition_penalty", 1e-3, 1e3, 1.0)? as f32,
            max_new_tokens: Some(longest).filter(|n| *n > 0),
            eos_ids: file.eos_ids(spec)?,
        })
    }
}

struct File {
    map: Map<String, Value>,
    path: PathBuf,
}

impl File {
    fn number(&self, key: &'static str, lo: f64, hi: f64, absent: f64) -> Result<f64, BundleError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(absent),
            Some(value) => match value.as_f64() {
                Some(x) if (lo..=hi).contains(&x) => Ok(x),
                _ => Err(self.broken(key, value, format!("a number, {lo} to {hi}"))),
            },
        }
    }

    fn eos_ids(&self, spec: &ModelSpec) -> Result<Vec<u32>, BundleError> {
        const KEY: &str = "eos_token_id";
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n < spec.vocab_size);
        let ids = match self.map.get(KEY) {
            None | Some(Value::Null) => return Ok(spec.eos_token_ids.clone()),
            Some(Value::Array(ids)) => ids.iter().map(id).collect::<Option<Vec<u32>>>(),
            Some(one) => id(one).map(|n| vec![n]),
        };
        let ids = ids.filter(|ids| ids.len() <= STOP_IDS_MAX);
        ids.ok_or_else(|| {
            self.broken(KEY, &self.map[KEY], format!("at most {STOP_IDS_MAX} ids below {}", spec.vocab_size))
        })
    }

    fn broken(&self, key: &'static str, found: &Value, expected: String) -> BundleError {
        BundleError::Generation { path: self.path.clone(), key, found: found.to_string(), expected }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TOKENIZER: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":null,"post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":true,
        "trim_offsets":true,"use_regex":true},"model":{"type":"BPE","vocab":{"a":0,"b":40},"merges":[]}}"#;

    fn load(vocab: u32, generation: Option<Value>) -> Result<Bundle, BundleError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), TOKENIZER).unwrap();
        if let Some(generation) = generation {
            std::fs::write(dir.path().join("generation_config.json"), generation.to_string()).unwrap();
        }
        let config = json!({
            "architectures": ["Glm4ForCausalLM"], "model_type": "glm4", "vocab_size": vocab, "hidden_size": 64,
            "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 16, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 512,
            "attention_bias": false, "eos_token_id": [7, 8],
        });
        Bundle::load(&ModelRecord {
            name: "m".to_owned(),
            digest: String::new(),
            dir: dir.path().to_str().unwrap().to_owned(),
            config_json: config.to_string(),
            stored_f32: false,
            weight_bytes: 0,
        })
    }

    #[test]
    fn without_a_generation_config_openais_defaults_hold() {
        let bundle = load(64, None).unwrap();
        assert!(bundle.template.is_none());
        assert_eq!((bundle.vocab_size, bundle.context_tokens), (64, 512));
        let expected = GenerationDefaults {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            max_new_tokens: None,
            eos_ids: vec![7, 8],
        };
        assert_eq!(bundle.defaults, expected);
    }

    #[test]
    fn a_generation_config_gives_the_defaults_as_in_vllm() {
        let mut file = json!({"temperature": 0.5, "top_p": 0.25, "top_k": 2, "min_p": 0.125, "repetition_penalty": 1.5,
            "max_new_tokens": 9, "eos_token_id": 3, "do_sample": true});
        let sampling = GenerationDefaults {
            temperature: 0.5,
            top_p: 0.25,
            top_k: 2,
            min_p: 0.125,
            repetition_penalty: 1.5,
            max_new_tokens: Some(9),
            eos_ids: vec![3],
        };
        assert_eq!(load(64, Some(file.clone())).unwrap().defaults, sampling);
        file["do_sample"] = false.into();
        let greedy = GenerationDefaults { temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0, ..sampling };
        assert_eq!(load(64, Some(file)).unwrap().defaults, greedy);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let error = load(40, None).unwrap_err().to_string();
        assert!(
            error.ends_with("the tokenizer has ids up to 40, expected all below the model's vocabulary of 40"),
            "{error}"
        );
        let error = load(64, Some(json!({"top_p": "x"}))).unwrap_err().to_string();
        assert!(error.ends_with("generation_config.json: top_p is \"x\", expected a number, 0.000001 to 1"), "{error}");
        let error = load(64, Some(json!({"eos_token_id": [1, 64]}))).unwrap_err().to_string();
        assert!(error.contains("eos_token_id is [1,64], expected at most 64 ids below 64"), "{error}");
    }
}
