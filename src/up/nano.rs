//! The built-in model: `models/autoglm-nano`, carried in the binary so that a first run needs no download.
//!
//! Invariant: what is written is what the repository holds; a file that is already there and equal is left alone.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Its directory's name, and so its name for clients.
const NAME: &str = "autoglm-nano";

macro_rules! file {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../models/autoglm-nano/", $name)).as_slice())
    };
}

const FILES: [(&str, &[u8]); 7] = [
    file!("config.json"),
    file!("generation_config.json"),
    file!("tokenizer.json"),
    file!("tokenizer_config.json"),
    file!("chat_template.jinja"),
    file!("preprocessor_config.json"),
    file!("model.safetensors"),
];

/// Writes the model under `dir` and returns its directory.
///
/// # Errors
/// A file that cannot be written.
pub(super) fn write(dir: &Path) -> anyhow::Result<PathBuf> {
    let dir = dir.join(NAME);
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    for (name, bytes) in FILES {
        let path = dir.join(name);
        if std::fs::read(&path).is_ok_and(|found| found == bytes) {
            continue;
        }
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(dir)
}
