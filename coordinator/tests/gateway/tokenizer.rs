//! Text to ids and back, against Hugging Face's results and the `tokenizers` crate.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use coordinator::gateway::template::{ChatTemplate, Conversation, TemplateSource};
use coordinator::gateway::tokenize::{Detokenizer, TextTokenizer};
use proptest::prelude::*;
use serde_json::Map;
use tokenizers::Tokenizer;

use crate::files::{VOCAB, fixtures, nano, oracle, read_json, write_model};

fn decode(tokenizer: &TextTokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut detokenizer = Detokenizer::new(tokenizer.pieces().clone(), skip_special);
    let mut text = String::new();
    ids.iter().for_each(|id| detokenizer.push(*id, &mut text));
    detokenizer.finish(&mut text);
    text
}

#[test]
fn texts_encode_and_decode_as_hugging_face_does() {
    let carried =
        [("glm0414", "tiny-glm4"), ("glm4v", "tiny-glm4v")].map(|(golden, model)| (fixtures(), golden, model));
    let beside = oracle().map(|dir| (dir, "glm45", "tiny-glm4-moe"));
    for (dir, golden, checkpoint) in carried.into_iter().chain(beside) {
        let golden = read_json(&dir.join("goldens/tokenizer").join(format!("{golden}.json")));
        let tokenizer = TextTokenizer::load(&dir.join("checkpoints").join(checkpoint).join("tokenizer.json")).unwrap();
        for case in golden["encode"].as_array().unwrap() {
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(tokenizer.encode(case["text"].as_str().unwrap(), false).unwrap(), ids, "{case}");
            assert_eq!(decode(&tokenizer, &ids, false), case["decode"].as_str().unwrap(), "{case}");
            assert_eq!(decode(&tokenizer, &ids, true), case["decode_skip_special"].as_str().unwrap(), "{case}");
        }
        for case in golden["chat"].as_array().unwrap() {
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(tokenizer.encode(case["rendered"].as_str().unwrap(), false).unwrap(), ids, "{}", case["name"]);
        }
        let padded = u32::try_from(golden["model_vocab_size"].as_u64().unwrap()).unwrap() - 1;
        assert_eq!(decode(&tokenizer, &[padded], false), "");
    }
}

#[test]
fn nanos_conversations_render_encode_and_decode_as_hugging_face_does() {
    let goldens = read_json(&fixtures().join("autoglm-nano-goldens/goldens_plain.json"));
    let tokenizer = TextTokenizer::load(&nano().join("tokenizer.json")).unwrap();
    let source = TemplateSource::find(&nano()).unwrap().unwrap();
    let template = ChatTemplate::new(source, SystemTime::now).unwrap();
    let (mut prompts, mut answers) = (0, 0);
    for case in goldens["conversations"].as_array().unwrap() {
        for output in case["outputs"].as_object().unwrap().values() {
            let ids: Vec<u32> = serde_json::from_value(output["ids"].clone()).unwrap();
            let shown = if output["stop_id"].is_null() { &ids[..] } else { &ids[..ids.len() - 1] };
            assert_eq!(decode(&tokenizer, shown, false), output["text"].as_str().unwrap(), "{}", case["id"]);
            answers += 1;
        }
        if case["image"].is_null() {
            let messages = case["messages"].as_array().unwrap();
            let kwargs = Map::new();
            let conversation = Conversation { messages, tools: None, add_generation_prompt: true, kwargs: &kwargs };
            let text = template.render(conversation).unwrap();
            assert_eq!(text, case["prompt"].as_str().unwrap());
            let ids: Vec<u32> = serde_json::from_value(case["prompt_ids"].clone()).unwrap();
            assert_eq!(tokenizer.encode(&text, false).unwrap(), ids, "{}", case["id"]);
            prompts += 1;
        }
    }
    assert!(prompts > 0 && answers > 0);
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
    let tiny = PathBuf::from(concat!(env!("CARGO_TARGET_TMPDIR"), "/tiny"));
    std::fs::create_dir_all(&tiny).unwrap();
    write_model(&tiny);
    vec![(nano(), 4096), (fixtures().join("checkpoints/tiny-glm4v"), 2048), (tiny, VOCAB)]
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
