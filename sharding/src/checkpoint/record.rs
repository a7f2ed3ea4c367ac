//! What the cluster remembers of a model version, and the digest that names it.
//!
//! Not here: the weights' own bytes; the digest covers where and in which shape they stand, which costs milliseconds
//! for any model. Invariant: a record exists only for a checkpoint whose headers, spec and tokenizer fit together.

use std::fmt::Write;
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use protocol::ModelRecord;

use super::files::{read_bounded, read_pixel_spec, read_spec};
use super::tokenizer::{self, TOKENIZER_BYTES_MAX};
use super::{Checkpoint, CheckpointError};

/// The files besides the weights that decide what a model says.
const FILES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "preprocessor_config.json",
];

/// Checks the checkpoint in `dir` as a whole and describes it: spec, headers, tokenizer, digest. Reads no weight.
///
/// # Errors
/// [`CheckpointError`] naming what does not fit.
pub fn model_record(dir: &Path) -> Result<ModelRecord, CheckpointError> {
    let dir = &dir.canonicalize().map_err(|source| CheckpointError::Io { path: dir.to_owned(), source })?;
    let unnamed = || CheckpointError::Name { dir: dir.clone() };
    let name = dir.file_name().and_then(|n| n.to_str()).ok_or_else(unnamed)?;
    let path = dir.to_str().ok_or_else(unnamed)?;
    let (config_json, spec) = read_spec(dir)?;
    let checkpoint = Checkpoint::open(dir)?;
    checkpoint.check(&spec)?;
    tokenizer::check(dir, spec.vocab_size)?;
    if let Some(vision) = &spec.vision {
        read_pixel_spec(dir, vision)?;
    }
    Ok(ModelRecord {
        name: name.to_owned(),
        digest: digest(&checkpoint)?,
        dir: path.to_owned(),
        config_json,
        stored_f32: checkpoint.stored_f32(&spec),
        weight_bytes: checkpoint.weight_bytes(),
    })
}

fn digest(checkpoint: &Checkpoint) -> Result<String, CheckpointError> {
    let mut context = Context::new(&SHA256);
    // Every part goes in with its length before it, so that no two checkpoints give one stream of bytes.
    let mut part = |bytes: &[u8]| {
        context.update(&(bytes.len() as u64).to_le_bytes());
        context.update(bytes);
    };
    for name in FILES {
        let path = checkpoint.dir().join(name);
        if path.is_file() {
            part(name.as_bytes());
            part(&read_bounded(&path, TOKENIZER_BYTES_MAX)?);
        }
    }
    for (name, tensor) in &checkpoint.tensors {
        part(name.as_bytes());
        part(tensor.dtype.name().as_bytes());
        let numbers = tensor.shape.iter().chain([&tensor.bytes.start, &tensor.bytes.end]);
        part(&numbers.flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>());
        let file = checkpoint.files[tensor.file].path.file_name().unwrap_or_default();
        part(file.as_encoded_bytes());
    }
    let mut hex = String::with_capacity(64);
    for byte in context.finish().as_ref() {
        write!(hex, "{byte:02x}").expect("a String takes any text");
    }
    Ok(hex)
}
