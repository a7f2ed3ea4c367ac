//! The weight files of a checkpoint directory and what their headers say.
//!
//! Not here: the tensors' bytes (`weights`). Invariant: each tensor stands in exactly one file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::header::{self, StoredDtype};
use super::{CheckpointError, index};
use crate::partition::{Rule, VISION_PREFIX, tensors};
use crate::spec::{ModelSpec, PixelSpec, VisionSpec};

/// The one weight file of an unsharded checkpoint.
const SINGLE: &str = "model.safetensors";
/// The index of a sharded one.
const INDEX: &str = "model.safetensors.index.json";
/// Most weight files.
const FILES_MAX: usize = 4096;
/// Largest `config.json` and other small files, bytes.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// Where a tensor stands.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// How it is stored.
    pub dtype: StoredDtype,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Which of [`Checkpoint::files`].
    pub(super) file: usize,
    /// From the start of that file.
    pub(super) bytes: Range<u64>,
}

/// One weight file.
#[derive(Debug, Clone)]
pub(super) struct WeightFile {
    pub(super) path: PathBuf,
    /// Its size when its header was read, bytes.
    pub(super) size: u64,
}

/// A checkpoint directory whose headers have been read and checked; no weight has been touched.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    dir: PathBuf,
    pub(super) files: Vec<WeightFile>,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
}

impl Checkpoint {
    /// Reads the headers of every weight file in `dir`: `model.safetensors`, or those that the index names.
    ///
    /// # Errors
    /// [`CheckpointError`] for a missing, truncated or inconsistent file.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let mut this = Self { dir: dir.to_owned(), files: Vec::new(), tensors: BTreeMap::new() };
        let index_path = dir.join(INDEX);
        if dir.join(SINGLE).is_file() {
            this.add_file(dir.join(SINGLE))?;
        } else if index_path.is_file() {
            this.add_indexed(&index_path)?;
        } else {
            return Err(CheckpointError::MissingFile {
                dir: dir.to_owned(),
                expected: "model.safetensors or model.safetensors.index.json",
            });
        }
        Ok(this)
    }

    fn add_indexed(&mut self, index_path: &Path) -> Result<(), CheckpointError> {
        let map = index::read(index_path)?;
        let names: BTreeSet<&String> = map.values().collect();
        if names.len() > FILES_MAX {
            return Err(CheckpointError::TooLarge {
                path: index_path.to_owned(),
                max: FILES_MAX as u64,
                found: names.len() as u64,
            });
        }
        for name in names {
            let path = self.dir.join(name);
            if !path.is_file() {
                let tensor = map.iter().find(|(_, file)| *file == name).map_or("", |(tensor, _)| tensor);
                return Err(CheckpointError::IndexFile {
                    index: index_path.to_owned(),
                    tensor: tensor.to_owned(),
                    found: name.chars().take(80).collect(),
                });
            }
            self.add_file(path)?;
        }
        for (tensor, file) in map {
            let there = self.tensors.get(&tensor).is_some_and(|t| self.files[t.file].path.ends_with(&file));
            if !there {
                return Err(CheckpointError::NotInFile { tensor, path: self.dir.join(file) });
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: PathBuf) -> Result<(), CheckpointError> {
        let (entries, size) = header::read(&path)?;
        let file = self.files.len();
        for entry in entries {
            let info = TensorInfo { dtype: entry.dtype, shape: entry.shape, file, bytes: entry.bytes };
            if let Some(first) = self.tensors.insert(entry.name.clone(), info) {
                return Err(CheckpointError::Duplicate {
                    tensor: entry.name,
                    first: self.files[first.file].path.clone(),
                    second: path,
                });
            }
        }
        self.files.push(WeightFile { path, size });
        Ok(())
    }

    /// Whether every tensor that the model needs is there, in the shape that `spec` asks for and in a dtype that is
    /// read. Tensors that it does not need are not looked at.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the first tensor that does not fit.
    pub fn check(&self, spec: &ModelSpec) -> Result<(), CheckpointError> {
        for tensor in tensors(spec) {
            let Some(info) = self.tensors.get(&tensor.name) else {
                return Err(CheckpointError::MissingTensor {
                    dir: self.dir.clone(),
                    tensor: tensor.name,
                    expected: tensor.shape,
                });
            };
            let path = || self.files[info.file].path.clone();
            if !info.shape.iter().copied().eq(tensor.shape.iter().map(|d| u64::from(*d))) {
                return Err(CheckpointError::Shape {
                    path: path(),
                    tensor: tensor.name,
                    expected: tensor.shape,
                    found: info.shape.clone(),
                });
            }
            if info.dtype.bytes().is_none() {
                let found = info.dtype.name().to_owned();
                return Err(CheckpointError::Dtype { path: path(), tensor: tensor.name, found });
            }
        }
        self.check_layers(spec)
    }

    /// A dense model has no layer, and a tower no block, that its configuration does not count: with fewer it would serve,
    /// and answer nonsense.
    fn check_layers(&self, spec: &ModelSpec) -> Result<(), CheckpointError> {
        let text = (format!("{}.layers.", spec.family.text_prefix()), spec.num_layers);
        let tower = spec.vision.as_ref().map(|vision| (format!("{VISION_PREFIX}.blocks."), vision.depth));
        for (prefix, layers) in [text].into_iter().chain(tower) {
            let layer = |name: &str| name.strip_prefix(&prefix)?.split('.').next()?.parse::<u32>().ok();
            for tensor in self.tensors.keys() {
                if let Some(found) = layer(tensor).filter(|found| *found >= layers) {
                    return Err(CheckpointError::ExtraLayer {
                        dir: self.dir.clone(),
                        tensor: tensor.clone(),
                        layers,
                        found,
                    });
                }
            }
        }
        Ok(())
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A tensor's header entry.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// Every tensor's name, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Size of all weight files, bytes.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.size).sum()
    }

    /// Whether `Dtype::F32` holds any matrix of the model in four bytes an element: f32 has no narrower exact form
    /// and f16 is widened, while bf16 stays as it is.
    #[must_use]
    pub fn stored_f32(&self, spec: &ModelSpec) -> bool {
        let wide = |t: &TensorInfo| t.dtype != StoredDtype::Bf16;
        tensors(spec)
            .iter()
            .filter(|t| t.shape.len() >= 2 && t.rule != Rule::Table)
            .any(|t| self.tensor(&t.name).is_some_and(wide))
    }
}

/// The text of `config.json` and the spec it gives.
pub(crate) fn read_spec(dir: &Path) -> Result<(String, ModelSpec), CheckpointError> {
    let text = read_text(dir, "config.json")?;
    let spec = ModelSpec::from_config_json(&text)
        .map_err(|source| CheckpointError::Spec { dir: dir.to_owned(), source: source.into() })?;
    Ok((text, spec))
}

/// How pictures are made for the tower of the checkpoint in `dir`, by its `preprocessor_config.json`.
///
/// # Errors
/// [`CheckpointError`]: no such file, or one that is not of this tower.
pub fn read_pixel_spec(dir: &Path, vision: &VisionSpec) -> Result<PixelSpec, CheckpointError> {
    let text = read_text(dir, "preprocessor_config.json")?;
    PixelSpec::from_preprocessor_json(&text)
        .and_then(|spec| spec.check(vision).map(|()| spec))
        .map_err(|source| CheckpointError::Spec { dir: dir.to_owned(), source: source.into() })
}

/// A small file of `dir`.
fn read_text(dir: &Path, name: &'static str) -> Result<String, CheckpointError> {
    let path = dir.join(name);
    if !path.is_file() {
        return Err(CheckpointError::MissingFile { dir: dir.to_owned(), expected: name });
    }
    let bytes = read_bounded(&path, CONFIG_BYTES_MAX)?;
    String::from_utf8(bytes).map_err(|e| CheckpointError::Json {
        path,
        expected: "UTF-8 text",
        found: e.utf8_error().to_string(),
    })
}

/// A whole file of at most `max` bytes.
pub(super) fn read_bounded(path: &Path, max: u64) -> Result<Vec<u8>, CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > max {
        let found = std::fs::metadata(path).map_err(io)?.len();
        return Err(CheckpointError::TooLarge { path: path.to_owned(), max, found });
    }
    Ok(bytes)
}
