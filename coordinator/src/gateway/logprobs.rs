//! Logprobs as the two endpoints tell them.

use serde::Serialize;
use serde_json::{Map, Value};

use super::output::OutToken;
use super::tokenize::Pieces;

/// What stands for a probability of zero: JSON has no infinity.
const LOWEST: f32 = -9999.0;

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob.max(LOWEST) } else { LOWEST }
}

/// `logprobs` of a chat choice.
#[derive(Debug, Serialize)]
pub(super) struct ChatLogprobs {
    content: Vec<ChatToken>,
    refusal: Option<()>,
}

#[derive(Debug, Serialize)]
struct ChatToken {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
    top_logprobs: Vec<TopToken>,
}

#[derive(Debug, Serialize)]
struct TopToken {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl ChatLogprobs {
    /// Of these tokens; `top` is how many alternatives were asked for.
    pub(super) fn of(tokens: &[OutToken], top: u8, pieces: &Pieces) -> Self {
        let named = |id: u32| {
            let bytes = pieces.get(id).to_vec();
            (String::from_utf8_lossy(&bytes).into_owned(), bytes)
        };
        let content = tokens.iter().filter_map(|t| {
            let logprobs = t.token.logprobs.as_ref()?;
            let (token, bytes) = named(t.token.id);
            let best = logprobs.top.iter().take(usize::from(top)).map(|(id, logprob)| {
                let (token, bytes) = named(*id);
                TopToken { token, logprob: finite(*logprob), bytes }
            });
            Some(ChatToken { token, logprob: finite(logprobs.chosen), bytes, top_logprobs: best.collect() })
        });
        Self { content: content.collect(), refusal: None }
    }
}

/// `logprobs` of a completion choice.
#[derive(Debug, Serialize)]
pub(super) struct CompletionLogprobs {
    text_offset: Vec<usize>,
    token_logprobs: Vec<f32>,
    tokens: Vec<String>,
    top_logprobs: Vec<Map<String, Value>>,
}

impl CompletionLogprobs {
    /// Of these tokens; `top` is how many of the best were asked for. The chosen one is always among them.
    pub(super) fn of(tokens: &[OutToken], top: u8, pieces: &Pieces) -> Self {
        let mut out = Self { text_offset: vec![], token_logprobs: vec![], tokens: vec![], top_logprobs: vec![] };
        for t in tokens {
            let Some(logprobs) = &t.token.logprobs else { continue };
            let token = printable(pieces.get(t.token.id));
            let best = logprobs.top.iter().take(usize::from(top)).map(|(id, l)| (printable(pieces.get(*id)), *l));
            let mut map: Map<String, Value> = best.map(|(token, l)| (token, finite(l).into())).collect();
            map.insert(token.clone(), finite(logprobs.chosen).into());
            out.text_offset.push(t.offset);
            out.token_logprobs.push(finite(logprobs.chosen));
            out.tokens.push(token);
            out.top_logprobs.push(map);
        }
        out
    }
}

/// A token as a key: its text, or, for one that is not whole characters, its bytes as OpenAI writes them.
fn printable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |text, b| format!("{text}\\x{b:02x}")),
    }
}
