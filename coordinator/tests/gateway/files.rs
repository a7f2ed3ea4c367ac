//! Files that the tests read, and a tiny model directory of their own.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// The folder of Hugging Face's own results, where it lies beside the checkout.
pub(crate) fn oracle() -> Option<PathBuf> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/oracle");
    if !dir.is_dir() {
        eprintln!("SKIPPED: {} is not there", dir.display());
        return None;
    }
    Some(dir)
}

/// The checkpoints and results that the project carries.
pub(crate) fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// A JSON file.
pub(crate) fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

/// The model that the project carries.
pub(crate) fn nano() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/autoglm-nano")
}

/// Ids of the tiny model's special tokens; ids below 256 are bytes.
pub(crate) const END: u32 = 256;
pub(crate) const USER: u32 = 257;
pub(crate) const ASSISTANT: u32 = 258;
/// An added token that is not special.
pub(crate) const ANSWER: u32 = 259;
/// Rows of its LM head: more than its tokenizer has ids.
pub(crate) const VOCAB: u32 = 272;

/// Writes a model directory whose tokenizer has one token a byte, so that a test can cut text anywhere.
pub(crate) fn write_model(dir: &Path) {
    let write = |name: &str, value: Value| std::fs::write(dir.join(name), value.to_string()).unwrap();
    write("tokenizer.json", tokenizer_json());
    write("generation_config.json", json!({"do_sample": false, "eos_token_id": [END, USER]}));
    let template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}\
                    {% if add_generation_prompt %}<|assistant|>{% endif %}{{ suffix }}";
    std::fs::write(dir.join("chat_template.jinja"), template).unwrap();
}

fn tokenizer_json() -> Value {
    let vocab: serde_json::Map<String, Value> =
        (0..=u8::MAX).map(|b| (byte_char(b).to_string(), u32::from(b).into())).collect();
    let added = |id: u32, content: &str, special: bool| {
        json!({"id": id, "content": content, "special": special, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false})
    };
    json!({
        "version": "1.0", "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [added(END, "<|endoftext|>", true), added(USER, "<|user|>", true),
                         added(ASSISTANT, "<|assistant|>", true), added(ANSWER, "</answer>", false)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    })
}

/// GPT-2's printable stand-in for a byte.
fn byte_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|b| !printable(*b)).count();
    char::from_u32(256 + u32::try_from(before).unwrap()).unwrap()
}

/// A `config.json` with the tiny model's vocabulary.
pub(crate) fn config_json() -> String {
    json!({
        "architectures": ["Glm4ForCausalLM"], "model_type": "glm4", "vocab_size": VOCAB, "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
        "max_position_embeddings": 512, "attention_bias": false, "tie_word_embeddings": false, "hidden_act": "silu",
        "eos_token_id": [END],
    })
    .to_string()
}

/// The token of each byte of a text.
pub(crate) fn ids(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}
