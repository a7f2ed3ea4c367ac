//! Broken checkpoint directories: each is refused in one line that names the thing, the expectation and the finding.

mod support;

use std::path::Path;

use serde_json::{Value, json};
use sharding::{Checkpoint, CheckpointError, model_record};
use support::{TINY, checkpoint, nano};
use tempfile::TempDir;

/// A copy of a tiny checkpoint that a test may break.
struct Copy(TempDir);

impl Copy {
    fn of(model: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for entry in std::fs::read_dir(checkpoint(model)).expect("the checkpoint") {
            let from = entry.expect("an entry").path();
            std::fs::copy(&from, dir.path().join(from.file_name().expect("a file"))).expect("copied");
        }
        Self(dir)
    }

    fn dir(&self) -> &Path {
        self.0.path()
    }

    fn edit(&self, file: &str, edit: impl FnOnce(&mut Value)) {
        let path = self.dir().join(file);
        let mut json: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON");
        edit(&mut json);
        std::fs::write(&path, json.to_string()).expect("written");
    }

    /// Rewrites the header of a weight file and leaves the bytes after it.
    fn edit_header(&self, file: &str, edit: impl FnOnce(&mut Value)) {
        let path = self.dir().join(file);
        let bytes = std::fs::read(&path).expect("read");
        let length = usize::try_from(u64::from_le_bytes(*bytes.first_chunk().expect("8 bytes"))).expect("small");
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
        edit(&mut header);
        write_weights(&path, &header.to_string(), &bytes[8 + length..]);
    }

    /// The one-line refusal of [`model_record`], which must contain all `words`.
    fn refused(&self, words: &[&str]) {
        let error = model_record(self.dir()).map(drop).expect_err("refused");
        let text = error.to_string();
        assert!(words.iter().all(|w| text.contains(w)) && text.lines().count() == 1, "{words:?}: {text}");
    }
}

fn write_weights(path: &Path, header: &str, data: &[u8]) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    std::fs::write(path, bytes).expect("written");
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const SECOND: &str = "model-00002-of-00003.safetensors";
const PROCESSOR: &str = "preprocessor_config.json";
const DOWNSAMPLE: &str = "model.visual.downsample.bias";
const DOWN: &str = "model.layers.1.mlp.down_proj.weight";

#[test]
fn sound_checkpoints_are_described() {
    for dir in TINY.map(checkpoint).into_iter().chain([nano()]) {
        let record = model_record(&dir).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(record.name, dir.file_name().expect("a name").to_string_lossy());
        assert_eq!(record.stored_f32, record.name.contains("f32"));
        assert!(record.digest.len() == 64 && record.digest.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_eq!(record, model_record(&dir).expect("again"));
    }
}

#[test]
fn the_digest_follows_every_file_and_header_but_not_the_place() {
    let original = model_record(&checkpoint(TINY[0])).expect("sound").digest;
    assert_eq!(model_record(Copy::of(TINY[0]).dir()).expect("sound").digest, original);
    for file in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        let copy = Copy::of(TINY[0]);
        copy.edit(file, |json| json["a key that nobody reads"] = json!(1));
        assert_ne!(model_record(copy.dir()).expect("sound").digest, original, "{file}");
    }
    let copy = Copy::of(TINY[0]);
    std::fs::write(copy.dir().join("chat_template.jinja"), "").expect("written");
    assert_ne!(model_record(copy.dir()).expect("sound").digest, original);
    let copy = Copy::of(TINY[0]);
    copy.edit_header(SINGLE, |header| header[DOWN]["dtype"] = json!("F16"));
    assert_ne!(model_record(copy.dir()).expect("sound").digest, original);
}

#[test]
fn a_missing_tensor() {
    let copy = Copy::of(TINY[0]);
    copy.edit_header(SINGLE, |header| {
        let entry = header.as_object_mut().expect("an object").remove(DOWN).expect("it is there");
        header["something.else"] = entry;
    });
    copy.refused(&[DOWN, "[128, 352]", "no such tensor"]);
}

#[test]
fn a_layer_that_the_configuration_does_not_count() {
    let copy = Copy::of(TINY[0]);
    copy.edit("config.json", |json| json["num_hidden_layers"] = json!(3));
    copy.refused(&["model.layers.3.", "3 layers", "layer 3"]);
}

#[test]
fn a_tensor_that_nobody_needs_is_not_looked_at() {
    let copy = Copy::of(TINY[2]);
    copy.edit("config.json", |json| drop(json.as_object_mut().expect("an object").remove("vision_config")));
    copy.edit_header(SINGLE, |header| header[DOWNSAMPLE]["dtype"] = json!("I16"));
    std::fs::remove_file(copy.dir().join(PROCESSOR)).expect("removed");
    model_record(copy.dir()).expect("a configuration without a vision tower is of a model that reads text alone");
}

#[test]
fn a_vision_tower_that_is_not_whole() {
    let copy = Copy::of(TINY[2]);
    copy.edit_header(SINGLE, |header| {
        let entry = header.as_object_mut().expect("an object").remove(DOWNSAMPLE).expect("it is there");
        header["something.else"] = entry;
    });
    copy.refused(&[DOWNSAMPLE, "[128]", "no such tensor"]);
    let copy = Copy::of(TINY[2]);
    copy.edit_header(SINGLE, |header| header[DOWNSAMPLE]["dtype"] = json!("I16"));
    copy.refused(&[DOWNSAMPLE, SINGLE, "BF16, F16 or F32", "found I16"]);
    let copy = Copy::of(TINY[2]);
    copy.edit("config.json", |json| json["vision_config"]["image_size"] = json!(224));
    copy.refused(&["position_embedding", "expected shape [256, 64]", "found [64, 64]"]);
    let copy = Copy::of(TINY[2]);
    copy.edit("config.json", |json| json["vision_config"]["depth"] = json!(4));
    copy.refused(&["model.visual.blocks.3.", "no such tensor"]);
    let copy = Copy::of(TINY[2]);
    copy.edit("config.json", |json| json["vision_config"]["depth"] = json!(2));
    copy.refused(&["model.visual.blocks.2.", "2 layers", "layer 2"]);
    let copy = Copy::of(TINY[2]);
    let path = copy.dir().join(SINGLE);
    let bytes = std::fs::read(&path).expect("read");
    std::fs::write(&path, &bytes[..bytes.len() - 1]).expect("written");
    copy.refused(&[SINGLE, "truncated", &bytes.len().to_string()]);
}

#[test]
fn a_tower_without_its_processor() {
    let copy = Copy::of(TINY[2]);
    std::fs::remove_file(copy.dir().join(PROCESSOR)).expect("removed");
    copy.refused(&[PROCESSOR, "no such file"]);
    let copy = Copy::of(TINY[2]);
    copy.edit(PROCESSOR, |json| json["patch_size"] = json!(16));
    copy.refused(&[PROCESSOR, "patch_size", "(14)", "found 16", &copy.dir().display().to_string()]);
}

#[test]
fn a_shape_that_does_not_fit_the_configuration() {
    let copy = Copy::of(TINY[0]);
    copy.edit_header(SINGLE, |header| header[DOWN]["shape"] = json!([352, 128]));
    copy.refused(&[DOWN, SINGLE, "expected shape [128, 352]", "found [352, 128]"]);
    let copy = Copy::of(TINY[0]);
    copy.edit("config.json", |json| json["intermediate_size"] = json!(384));
    copy.refused(&["gate_up_proj", "expected shape [768, 128]", "found [704, 128]"]);
}

#[test]
fn a_dtype_that_is_not_read() {
    let copy = Copy::of(TINY[0]);
    copy.edit_header(SINGLE, |header| header[DOWN]["dtype"] = json!("I16"));
    copy.refused(&[DOWN, SINGLE, "BF16, F16 or F32", "found I16"]);
}

#[test]
fn bytes_that_do_not_follow_from_shape_and_dtype() {
    let copy = Copy::of(TINY[0]);
    copy.edit_header(SINGLE, |header| header[DOWN]["dtype"] = json!("F32"));
    copy.refused(&[DOWN, SINGLE, "expected 180224 bytes", "found 90112"]);
    let copy = Copy::of(TINY[0]);
    copy.edit_header(SINGLE, |header| header[DOWN]["shape"] = json!([u64::MAX, u64::MAX]));
    copy.refused(&[DOWN, SINGLE]);
    let copy = Copy::of(TINY[0]);
    copy.edit_header(SINGLE, |header| header[DOWN]["data_offsets"] = json!([100, 50]));
    copy.refused(&[DOWN, SINGLE]);
}

#[test]
fn a_truncated_file() {
    for keep in [0, 7, 100, 100_000] {
        let copy = Copy::of(TINY[0]);
        let path = copy.dir().join(SINGLE);
        let bytes = std::fs::read(&path).expect("read");
        std::fs::write(&path, &bytes[..keep]).expect("written");
        copy.refused(&[SINGLE, "truncated", "expected", &format!("found {keep}")]);
    }
    let copy = Copy::of(TINY[1]);
    let path = copy.dir().join(SECOND);
    let bytes = std::fs::read(&path).expect("read");
    std::fs::write(&path, &bytes[..bytes.len() - 1]).expect("written");
    copy.refused(&[SECOND, "truncated", &bytes.len().to_string()]);
}

#[test]
fn a_file_that_goes_on_after_its_last_tensor() {
    let copy = Copy::of(TINY[0]);
    let path = copy.dir().join(SINGLE);
    let mut bytes = std::fs::read(&path).expect("read");
    let expected = bytes.len();
    bytes.push(0);
    std::fs::write(&path, &bytes).expect("written");
    copy.refused(&[SINGLE, &format!("expected {expected} bytes"), &format!("found {}", expected + 1)]);
}

#[test]
fn tensors_that_share_bytes_or_leave_a_hole() {
    for shift in [-2i64, 2] {
        let copy = Copy::of(TINY[0]);
        copy.edit_header(SINGLE, |header| {
            let offsets = header[DOWN]["data_offsets"].clone();
            let moved = |i: usize| offsets[i].as_i64().expect("an offset") + shift;
            header[DOWN]["data_offsets"] = json!([moved(0), moved(1)]);
        });
        copy.refused(&[SINGLE, "expected its bytes to start at"]);
    }
}

#[test]
fn a_header_too_long_to_be_one() {
    let copy = Copy::of(TINY[0]);
    let path = copy.dir().join(SINGLE);
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&path, &bytes).expect("written");
    copy.refused(&[SINGLE, "header", &u64::MAX.to_string()]);
}

#[test]
fn a_header_that_is_not_one() {
    for header in ["", "[]", "{\"a\": 1}", "{\"a\": {\"dtype\": \"BF16\"}}", "{\"a\"", &"[".repeat(1000)] {
        let copy = Copy::of(TINY[0]);
        write_weights(&copy.dir().join(SINGLE), header, &[]);
        copy.refused(&[SINGLE, "expected a safetensors header"]);
    }
}

#[test]
fn a_tensor_that_stands_twice() {
    let copy = Copy::of(TINY[0]);
    let entry = r#"{"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}"#;
    let twice = format!(r#"{{"model.norm.weight": {entry}, "model.norm.weight": {entry}}}"#);
    write_weights(&copy.dir().join(SINGLE), &twice, &[0; 2]);
    copy.refused(&[SINGLE, "model.norm.weight", "twice"]);

    let copy = Copy::of(TINY[1]);
    std::fs::copy(copy.dir().join(SECOND), copy.dir().join("model-copy.safetensors")).expect("copied");
    copy.edit(INDEX, |json| {
        json["weight_map"]["model.norm.weight"] = json!("model-copy.safetensors");
    });
    copy.refused(&["expected once", "model-copy.safetensors", SECOND]);
}

#[test]
fn an_index_that_names_what_is_not_there() {
    let copy = Copy::of(TINY[1]);
    std::fs::remove_file(copy.dir().join(SECOND)).expect("removed");
    copy.refused(&[INDEX, SECOND]);
    for outside in ["../model.safetensors", "/etc/passwd", "", ".."] {
        let copy = Copy::of(TINY[1]);
        copy.edit(INDEX, |json| json["weight_map"]["lm_head.weight"] = json!(outside));
        copy.refused(&[INDEX, "lm_head.weight", &format!("`{outside}`")]);
    }
    let copy = Copy::of(TINY[1]);
    copy.edit(INDEX, |json| json["weight_map"]["lm_head.bias"] = json!(SECOND));
    copy.refused(&["lm_head.bias", SECOND, "no such tensor there"]);
    let copy = Copy::of(TINY[1]);
    std::fs::write(copy.dir().join(INDEX), "{}").expect("written");
    copy.refused(&[INDEX, "weight_map"]);
}

#[test]
fn files_that_are_not_there() {
    for (file, words) in [
        (SINGLE, ["model.safetensors or model.safetensors.index.json", "no such file"]),
        ("config.json", ["config.json", "no such file"]),
        ("tokenizer.json", ["tokenizer.json", "no such file"]),
    ] {
        let copy = Copy::of(TINY[0]);
        std::fs::remove_file(copy.dir().join(file)).expect("removed");
        copy.refused(&words);
    }
    let error = model_record(Path::new("/no/such/model")).expect_err("nothing there").to_string();
    assert!(error.contains("/no/such/model"), "{error}");
}

#[test]
fn a_configuration_that_is_refused_names_its_directory() {
    let copy = Copy::of(TINY[0]);
    copy.edit("config.json", |json| json["architectures"] = json!(["LlamaForCausalLM"]));
    copy.refused(&[&copy.dir().display().to_string(), "LlamaForCausalLM", "Glm4ForCausalLM"]);
}

#[test]
fn a_tokenizer_that_does_not_match() {
    let copy = Copy::of(TINY[0]);
    copy.edit("tokenizer.json", |json| json["added_tokens"][3]["id"] = json!(2048));
    copy.refused(&["tokenizer.json", "does not match", "below vocab_size 2048", "found 2048"]);
    let copy = Copy::of(TINY[0]);
    copy.edit("tokenizer.json", |json| json["model"]["vocab"]["far"] = json!(5000));
    copy.refused(&["tokenizer.json", "does not match", "2048", "5000", "far"]);
    let copy = Copy::of(TINY[0]);
    copy.edit("generation_config.json", |json| json["eos_token_id"] = json!([1960, 151_329]));
    copy.refused(&["generation_config.json", "2048", "151329", "eos_token_id"]);
    let copy = Copy::of(TINY[0]);
    std::fs::write(copy.dir().join("tokenizer.json"), "{}").expect("written");
    copy.refused(&["tokenizer.json", "model.vocab"]);
}

#[test]
fn a_file_that_shrank_after_its_header_was_read() {
    let copy = Copy::of(TINY[0]);
    let opened = Checkpoint::open(copy.dir()).expect("sound");
    let path = copy.dir().join(SINGLE);
    let bytes = std::fs::read(&path).expect("read");
    std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("written");
    let error = sharding::checkpoint::Weights::map(opened).map(drop).expect_err("shrunk");
    assert!(matches!(error, CheckpointError::Changed { .. }), "{error}");
}
