//! The reference's greedy answers of autoglm-nano (Hugging Face transformers, f32).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
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

/// Where the answers and the pictures are.
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/autoglm-nano-goldens");

/// Every answer to text alone.
pub(crate) fn text_only() -> Vec<Golden> {
    let out = goldens(false);
    assert!(out.len() >= 30, "{} answers", out.len());
    out
}

/// Every answer about a picture, which the conversation brings as a `data:` URL.
pub(crate) fn about_pictures() -> Vec<Golden> {
    let mut out = goldens(true);
    assert_eq!(out.len(), 16, "answers about pictures");
    out.iter_mut().for_each(|golden| inline(&mut golden.messages));
    out
}

/// Puts files in the place of their names.
fn inline(messages: &mut Value) {
    let parts = messages.as_array_mut().expect("messages").iter_mut().filter_map(|m| m["content"].as_array_mut());
    for part in parts.flatten() {
        let Some(url) = part.pointer_mut("/image_url/url") else { continue };
        let file = format!("{FIXTURES}/{}", url.as_str().expect("a name"));
        let bytes = std::fs::read(file).expect("the picture");
        *url = Value::String(format!("data:image/png;base64,{}", STANDARD.encode(bytes)));
    }
}

fn goldens(with_picture: bool) -> Vec<Golden> {
    let text = std::fs::read_to_string(format!("{FIXTURES}/goldens_plain.json")).expect("the fixture");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    let mut out = Vec::new();
    for conversation in all["conversations"].as_array().expect("conversations") {
        if conversation["image"].is_null() == with_picture {
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
    out
}
