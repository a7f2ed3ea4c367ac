//! The kinds of requests: every way of choosing tokens that the next replica, or gateway, must go on with.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// A request with a name.
#[derive(Debug, Clone)]
pub struct Kind {
    /// For tables.
    pub name: String,
    /// Where it is posted.
    pub path: &'static str,
    /// Its body.
    pub body: Value,
}

/// Words that the template of the clusters here understands as a tool call.
const CALL: &str = r"<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>[a-z]{60,90}</arg_value>\n</tool_call>";

/// Every kind, each with answers of about `tokens` tokens, drawn from `seed` where they are drawn.
#[must_use]
pub fn kinds(tokens: u32, seed: u64) -> Vec<Kind> {
    let items = tokens.min(200);
    let integers = json!({ "type": "array", "items": { "type": "integer" }, "minItems": items, "maxItems": items });
    let schema = json!({ "type": "json_schema", "json_schema": { "name": "n", "strict": true, "schema": integers } });
    let tool = json!({ "type": "function", "function": { "name": "weather", "parameters": {
        "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] } } });
    let chat = [
        ("greedy", json!({ "temperature": 0, "ignore_eos": true })),
        ("seeded", json!({ "temperature": 1.2, "seed": seed, "top_p": 0.95, "ignore_eos": true })),
        (
            "penalties",
            json!({
                "temperature": 1.5, "seed": seed, "ignore_eos": true, "presence_penalty": 0.5, "frequency_penalty": 0.3,
                "repetition_penalty": 1.1, "min_p": 0.01,
            }),
        ),
        // Texts that hardly come, so that the tail is held back again and again and the answer is long.
        (
            "stop",
            json!({ "temperature": 1.0, "seed": seed, "ignore_eos": true, "stop": ["qqq", "  zz", "ing the xx"] }),
        ),
        ("choices", json!({ "temperature": 2.0, "seed": seed, "n": 2, "ignore_eos": true })),
        ("structured", json!({ "temperature": 0.9, "seed": seed, "response_format": schema })),
        (
            "tools",
            json!({ "temperature": 1.0, "seed": seed, "tools": [tool], "structured_outputs": { "regex": CALL } }),
        ),
        ("picture", json!({ "temperature": 1.0, "seed": seed, "ignore_eos": true })),
    ];
    let kinds = chat.into_iter().map(|(name, mut body)| {
        let text = json!({ "type": "text", "text": "tell me everything" });
        let picture = json!({ "type": "image_url", "image_url": { "url": picture() } });
        let content = if name == "picture" { json!([picture, text]) } else { json!([text]) };
        body["messages"] = json!([{ "role": "user", "content": content }]);
        body["model"] = "autoglm-nano".into();
        body["max_tokens"] = tokens.into();
        body["return_token_ids"] = true.into();
        body["stream"] = true.into();
        body["stream_options"] = json!({ "include_usage": true });
        Kind { name: name.to_owned(), path: "/v1/chat/completions", body }
    });
    kinds.collect()
}

fn picture() -> String {
    const PNG: &[u8] = include_bytes!("../../../fixtures/autoglm-nano-goldens/plain_images/06_swipe.png");
    format!("data:image/png;base64,{}", STANDARD.encode(PNG))
}
