//! Where a model's chat template and its named special tokens stand in its files.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Largest file of these that is read, bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The named tokens that transformers hands to every template.
const NAMED_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file is there and cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is above the bound.
    #[error("{}: {found} bytes, at most {FILE_BYTES_MAX}", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its size, bytes.
        found: u64,
    },
    /// A file is no JSON object.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A list of templates, none of them the default.
    #[error("{}: chat_template lists {names:?}, expected one named `default`", path.display())]
    NoDefault {
        /// The file.
        path: PathBuf,
        /// The names found.
        names: Vec<String>,
    },
}

/// A template's text and the tokens that it may name.
#[derive(Debug, Clone, PartialEq)]
pub struct TemplateSource {
    /// The file that it came from.
    pub path: PathBuf,
    /// Jinja.
    pub text: String,
    /// `bos_token` and the like, by name.
    pub tokens: Map<String, Value>,
}

impl TemplateSource {
    /// `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`: a string, or a list with a default.
    /// `None` where the model has neither. Blocking.
    ///
    /// # Errors
    /// Each [`SourceError`].
    pub fn find(dir: &Path) -> Result<Option<Self>, SourceError> {
        let config_path = dir.join("tokenizer_config.json");
        let config = read_object(&config_path)?.unwrap_or_default();
        let tokens = named_tokens(&config);
        let path = dir.join("chat_template.jinja");
        if let Some(text) = read_text(&path)? {
            return Ok(Some(Self { path, text, tokens }));
        }
        let text = match config.get("chat_template") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(list)) => default_of(list, &config_path)?,
            Some(other) => {
                let reason = format!("chat_template is {other}, expected a string or a list");
                return Err(SourceError::Malformed { path: config_path, reason });
            }
        };
        Ok(Some(Self { path: config_path, text, tokens }))
    }
}

fn default_of(list: &[Value], path: &Path) -> Result<String, SourceError> {
    let name = |entry: &Value| entry.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let default = list.iter().find(|entry| name(entry) == "default");
    match default.and_then(|entry| entry.get("template")).and_then(Value::as_str) {
        Some(text) => Ok(text.to_owned()),
        None => Err(SourceError::NoDefault { path: path.to_owned(), names: list.iter().map(name).collect() }),
    }
}

fn named_tokens(config: &Map<String, Value>) -> Map<String, Value> {
    let text = |value: &Value| value.as_str().or_else(|| value.get("content")?.as_str()).map(Value::from);
    NAMED_TOKENS.iter().filter_map(|name| Some(((*name).to_owned(), text(config.get(*name)?)?))).collect()
}

/// A text file of the model; `None` where there is none.
pub(in crate::gateway) fn read_text(path: &Path) -> Result<Option<String>, SourceError> {
    let read = |source| SourceError::Read { path: path.to_owned(), source };
    let found = match std::fs::metadata(path) {
        Ok(meta) => meta.len(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(read(e)),
    };
    if found > FILE_BYTES_MAX {
        return Err(SourceError::TooLong { path: path.to_owned(), found });
    }
    std::fs::read_to_string(path).map(Some).map_err(read)
}

/// A JSON object of the model; `None` where there is no such file.
pub(in crate::gateway) fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, SourceError> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|e| SourceError::Malformed { path: path.to_owned(), reason: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(files: &[(&str, &str)]) -> Result<Option<TemplateSource>, SourceError> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        TemplateSource::find(dir.path())
    }

    #[test]
    fn the_file_of_its_own_comes_first() {
        let config = r#"{"chat_template":"config","eos_token":{"content":"<e>"},"bos_token":"<b>","pad_token":null}"#;
        let both = find(&[("chat_template.jinja", "file"), ("tokenizer_config.json", config)]).unwrap().unwrap();
        assert_eq!(both.text, "file");
        assert_eq!(Value::from(both.tokens), serde_json::json!({"bos_token": "<b>", "eos_token": "<e>"}));
        assert_eq!(find(&[("tokenizer_config.json", config)]).unwrap().unwrap().text, "config");
        assert_eq!(find(&[]).unwrap(), None);
        assert_eq!(find(&[("tokenizer_config.json", "{}")]).unwrap(), None);
    }

    #[test]
    fn a_list_needs_its_default() {
        let list = r#"{"chat_template":[{"name":"rag","template":"r"},{"name":"default","template":"d"}]}"#;
        assert_eq!(find(&[("tokenizer_config.json", list)]).unwrap().unwrap().text, "d");
        let error = find(&[("tokenizer_config.json", &list.replace("default", "x"))]).unwrap_err();
        assert!(error.to_string().contains("tokenizer_config.json: chat_template lists [\"rag\", \"x\"]"), "{error}");
        assert!(matches!(find(&[("tokenizer_config.json", "[")]), Err(SourceError::Malformed { .. })));
    }
}
