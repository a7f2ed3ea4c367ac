//! Text to ids and back, against Hugging Face's results and the `tokenizers` crate.

use std::path::{Path, PathBuf};

use coordinator::gateway::tokenize::{Detokenizer, TextTokenizer};
use proptest::prelude::*;
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::files::{VOCAB, nano, oracle, write_model};

fn decode(tokenizer: &TextTokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut detokenizer = Detokenizer::new(tokenizer.pieces().clone(), skip_special);
    let mut text = String::new();
    ids.iter().for_each(|id| detokenizer.push(*id, &mut text));
    detokenizer.finish(&mut text);
    text
}

#[test]
fn the_oracles_texts_encode_and_decode_as_hugging_face_does() {
    let Some(oracle) = oracle() else { return };
    for (golden, checkpoint) in [("glm0414", "tiny-glm4"), ("glm4v", "tiny-glm4v"), ("glm45", "tiny-glm4-moe")] {
        let path = oracle.join("goldens/tokenizer").join(format!("{golden}.json"));
        let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let tokenizer =
            TextTokenizer::load(&oracle.join("checkpoints").join(checkpoint).join("tokenizer.json")).unwrap();
        for case in golden["encode"].as_array().unwrap() {
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(tokenizer.encode(case["text"].as_str().unwrap(), false).unwrap(), ids, "{case}");
            assert_eq!(decode(&tokenizer, &ids, false), case["decode"].as_str().unwrap(), "{case}");
            assert_eq!(decode(&tokenizer, &ids, true), case["decode_skip_special"].as_str().unwrap(), "{case}");
        }
        let padded = u32::try_from(golden["model_vocab_size"].as_u64().unwrap()).unwrap() - 1;
        assert_eq!(decode(&tokenizer, &[padded], false), "");
    }
}

#[test]
fn every_token_of_the_models_decodes_as_in_the_tokenizers_crate() {
    for (dir, size) in models() {
        let reference = Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
        let ours = TextTokenizer::load(&dir.join("tokenizer.json")).unwrap();
        for id in 0..size {
            for skip in [false, true] {
                assert_eq!(decode(&ours, &[id], skip), reference.decode(&[id], skip).unwrap(), "{id}");
            }
        }
    }
}

#[test]
fn a_files_truncation_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    let tokenizer = TextTokenizer::load(&dir.path().join("tokenizer.json")).unwrap();
    assert_eq!(tokenizer.encode("more than four", true).unwrap().len(), 14);
    assert_eq!(tokenizer.tokens_min(27), 3, "the longest token is `<|assistant|>` or `<|endoftext|>`: 13 bytes");
}

/// Model directories and how many ids to try.
fn models() -> Vec<(PathBuf, u32)> {
    [(nano(), 4096), (PathBuf::from(concat!(env!("CARGO_TARGET_TMPDIR"), "/tiny")), VOCAB)]
        .into_iter()
        .filter(|(dir, _)| {
            if dir.ends_with("tiny") {
                std::fs::create_dir_all(dir).unwrap();
                write_model(dir);
            }
            dir.join("tokenizer.json").is_file() || {
                eprintln!("SKIPPED: {} has no tokenizer", dir.display());
                false
            }
        })
        .collect()
}

fn load(dir: &Path) -> (Tokenizer, TextTokenizer) {
    let path = dir.join("tokenizer.json");
    (Tokenizer::from_file(&path).unwrap(), TextTokenizer::load(&path).unwrap())
}

#[test]
fn any_ids_in_any_chunks_read_as_their_whole() {
    for (dir, size) in models() {
        let (reference, ours) = load(&dir);
        let strategy = (prop::collection::vec(0..size, 0..40), any::<bool>());
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(512));
        let outcome = runner.run(&strategy, |(ids, skip)| {
            let whole = reference.decode(&ids, skip).unwrap();
            let mut detokenizer = Detokenizer::new(ours.pieces().clone(), skip);
            let mut parts = Vec::new();
            for id in &ids {
                let mut part = String::new();
                detokenizer.push(*id, &mut part);
                parts.push(part);
            }
            let mut last = String::new();
            detokenizer.finish(&mut last);
            parts.push(last);
            prop_assert_eq!(parts.concat(), whole);
            Ok(())
        });
        outcome.unwrap();
    }
}
