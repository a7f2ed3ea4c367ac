//! `model.safetensors.index.json`: which weight file holds which tensor.
//!
//! Not here: opening those files. Invariant: every file that comes out is a plain name, so the index cannot lead out
//! of the checkpoint's directory.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::CheckpointError;
use super::files::read_bounded;

/// Largest index, bytes.
const INDEX_BYTES_MAX: u64 = 64 << 20;

#[derive(Deserialize)]
struct RawIndex {
    weight_map: BTreeMap<String, String>,
}

/// Tensor name to file name.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, String>, CheckpointError> {
    let bytes = read_bounded(path, INDEX_BYTES_MAX)?;
    let index: RawIndex = serde_json::from_slice(&bytes).map_err(|e| CheckpointError::Json {
        path: path.to_owned(),
        expected: "an index with a `weight_map`",
        found: e.to_string().chars().take(200).collect(),
    })?;
    for (tensor, file) in &index.weight_map {
        let plain = !file.is_empty() && !file.contains(['/', '\\', '\0']) && file != "." && file != "..";
        if !plain {
            return Err(CheckpointError::IndexFile {
                index: path.to_owned(),
                tensor: tensor.clone(),
                found: file.chars().take(80).collect(),
            });
        }
    }
    Ok(index.weight_map)
}
