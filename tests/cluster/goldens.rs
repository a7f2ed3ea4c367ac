//! The reference's greedy answers of autoglm-nano (Hugging Face transformers, f32).

use serde_json::Value;

/// Where the two best logits are nearer than this, another order of additions may choose the other.
const GAP_MIN: f64 = 0.01;

/// One answer.
#[derive(Debug, Clone)]
pub(crate) struct Golden {
    /// Which.
    pub(crate) id: String,
    /// The conversation, as JSON.
    pub(crate) messages: Value,
    /// The rendered conversation's ids.
    pub(crate) prompt_ids: Vec<u32>,
    /// Frequency penalty.
    pub(crate) frequency_penalty: f64,
    /// Bound on the answer, tokens.
    pub(crate) max_tokens: u64,
    /// The answer.
    pub(crate) text: String,
    /// Its ids with the stop token.
    pub(crate) ids: Vec<u32>,
    /// Whether it ended with a stop token, and not at its bound.
    pub(crate) stops: bool,
}

/// Every answer to text alone.
pub(crate) fn text_only() -> Vec<Golden> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/autoglm-nano-goldens/goldens_plain.json");
    let all: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("the fixture")).expect("JSON");
    let mut out = Vec::new();
    for conversation in all["conversations"].as_array().expect("conversations") {
        if !conversation["image"].is_null() {
            continue;
        }
        for (name, output) in conversation["outputs"].as_object().expect("outputs") {
            if output["min_top2_gap"].as_f64().expect("a number") < GAP_MIN {
                continue;
            }
            let ids = |v: &Value| serde_json::from_value(v.clone()).expect("ids");
            out.push(Golden {
                id: format!("{} {name}", conversation["id"].as_str().expect("an id")),
                messages: conversation["messages"].clone(),
                prompt_ids: ids(&conversation["prompt_ids"]),
                frequency_penalty: name.trim_start_matches("freq_").parse().expect("a number"),
                max_tokens: conversation["max_tokens"].as_u64().expect("a number"),
                text: output["text"].as_str().expect("a text").to_owned(),
                ids: ids(&output["ids"]),
                stops: !output["stop_id"].is_null(),
            });
        }
    }
    assert!(out.len() >= 30, "{} answers", out.len());
    out
}
