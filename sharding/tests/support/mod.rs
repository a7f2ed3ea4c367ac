//! Where fixtures lie, and what is in them. Not here: what is asserted about them.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod golden;
pub(crate) mod group;
pub(crate) mod pictures;
pub(crate) mod reference;
pub(crate) mod run;

use std::path::PathBuf;

use sharding::ModelSpec;

/// The tiny models that are served.
pub(crate) const TINY: [&str; 3] = ["tiny-glm4", "tiny-glm4-bias-f32-sharded", "tiny-glm4v"];

/// `tests/fixtures` of the workspace.
pub(crate) fn fixtures() -> PathBuf {
    workspace().join("tests/fixtures")
}

/// A tiny model's checkpoint.
pub(crate) fn checkpoint(model: &str) -> PathBuf {
    fixtures().join("checkpoints").join(model)
}

/// The model that comes with the project.
pub(crate) fn nano() -> PathBuf {
    workspace().join("models/autoglm-nano")
}

fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The spec in a `config.json`.
pub(crate) fn spec_of(path: PathBuf) -> ModelSpec {
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    ModelSpec::from_config_json(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The dense specs of `real_configs`, with their file names.
pub(crate) fn real_specs() -> Vec<(String, ModelSpec)> {
    let dir = fixtures().join("real_configs");
    let mut files: Vec<_> = std::fs::read_dir(dir).expect("real_configs").map(|e| e.expect("entry").path()).collect();
    files.sort();
    let dense = files.into_iter().filter(|p| !p.display().to_string().contains("GLM-4.5"));
    dense.map(|p| (p.file_name().expect("a file").to_string_lossy().into_owned(), spec_of(p))).collect()
}
