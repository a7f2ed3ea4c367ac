//! One event of a streamed answer, of chat completions and completions alike.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// What one event brings.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Chunk {
    #[serde(default)]
    choices: Vec<ChunkChoice>,
    /// Token counts, in the last event where they were asked for.
    pub(crate) usage: Option<Usage>,
    /// Which model at which precision, where the server says.
    pub(crate) system_fingerprint: Option<String>,
    pub(super) error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct ChunkChoice {
    /// Chat completions.
    delta: Option<Delta>,
    /// Completions.
    text: Option<String>,
    finish_reason: Option<String>,
    /// Only how many: an element takes no memory.
    token_ids: Option<Vec<IgnoredAny>>,
}

#[derive(Debug, Deserialize)]
struct Delta {
    content: Option<String>,
    reasoning_content: Option<String>,
}

/// Token counts of a whole request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Usage {
    /// Of the prompt.
    pub(crate) prompt_tokens: u32,
    /// Of all choices.
    #[serde(default)]
    pub(crate) completion_tokens: u32,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u32>,
}

impl Usage {
    /// Prompt tokens that came out of a prefix cache; `None` where the server does not say.
    pub(crate) fn cached_tokens(&self) -> Option<u32> {
        self.prompt_tokens_details.and_then(|d| d.cached_tokens)
    }
}

impl Chunk {
    /// The answer's next text, reasoning too, of every choice in turn; none of it is empty.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        self.choices.iter().flat_map(ChunkChoice::texts).filter(|t| !t.is_empty())
    }

    /// The answer's next text without the model's reasoning.
    pub(crate) fn contents(&self) -> impl Iterator<Item = &str> {
        self.choices.iter().filter_map(|c| c.delta.as_ref()?.content.as_deref())
    }

    /// Why a choice ended, where one did.
    pub(crate) fn finish_reason(&self) -> Option<&str> {
        self.choices.iter().find_map(|c| c.finish_reason.as_deref())
    }

    /// How many tokens it brings; `None` where the server does not send ids.
    pub(crate) fn num_token_ids(&self) -> Option<usize> {
        self.choices.iter().filter_map(|c| c.token_ids.as_ref().map(Vec::len)).reduce(|a, b| a + b)
    }
}

impl ChunkChoice {
    fn texts(&self) -> impl Iterator<Item = &str> {
        let delta = self.delta.as_ref();
        let of_delta = delta.into_iter().flat_map(|d| [d.reasoning_content.as_deref(), d.content.as_deref()]);
        of_delta.chain([self.text.as_deref()]).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(text: &str) -> Chunk {
        serde_json::from_str(text).expect("a chunk")
    }

    #[test]
    fn both_endpoints_chunks_are_read() {
        let chat = chunk(
            r#"{"id":"x","choices":[{"index":0,"delta":{"content":"微"},"finish_reason":null,"token_ids":[5,6]}]}"#,
        );
        assert_eq!((chat.texts().collect::<String>().as_str(), chat.num_token_ids()), ("微", Some(2)));
        let completion = chunk(r#"{"choices":[{"index":0,"text":"a","finish_reason":"stop"}],"usage":null}"#);
        assert_eq!((completion.texts().count(), completion.num_token_ids()), (1, None));
        assert_eq!(completion.finish_reason(), Some("stop"));
        let opening = chunk(r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#);
        assert_eq!(opening.texts().count(), 0);
    }

    #[test]
    fn usage_tells_cached_tokens_only_where_the_server_does() {
        let usage = |text: &str| chunk(text).usage.expect("usage");
        let plain = usage(r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}"#);
        assert_eq!((plain.prompt_tokens, plain.completion_tokens, plain.cached_tokens()), (7, 2, None));
        let cached = usage(
            r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}"#,
        );
        assert_eq!(cached.cached_tokens(), Some(4));
    }
}
