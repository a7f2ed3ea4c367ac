//! Logprobs as the two endpoints tell them.

use std::collections::BTreeMap;

use protocol::generate::TokenLogprobs;
use serde::{Serialize, Serializer};

use super::output::OutToken;
use super::prompt::Echo;
use super::tokenize::Pieces;

/// What stands for a probability of zero: JSON has no infinity.
const LOWEST: f32 = -9999.0;

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob.max(LOWEST) } else { LOWEST }
}

/// How tokens are called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'a> {
    /// The bytes of each id.
    pub(super) pieces: &'a Pieces,
    /// By `token_id:N` in place of their text.
    pub(super) as_ids: bool,
}

impl Names<'_> {
    /// As text, with U+FFFD for what is not whole characters.
    fn lossy(self, id: u32) -> String {
        if self.as_ids {
            return format!("token_id:{id}");
        }
        String::from_utf8_lossy(self.pieces.get(id)).into_owned()
    }

    /// As text, or, for one that is not whole characters, its bytes as OpenAI writes them.
    fn printable(self, id: u32) -> String {
        if self.as_ids {
            return format!("token_id:{id}");
        }
        let bytes = self.pieces.get(id);
        match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => bytes.iter().fold("bytes:".to_owned(), |text, b| format!("{text}\\x{b:02x}")),
        }
    }
}

/// `logprobs` of a chat choice.
#[derive(Debug, Serialize)]
pub(super) struct ChatLogprobs {
    content: Vec<ChatToken>,
    refusal: Option<()>,
}

#[derive(Debug, Serialize)]
struct ChatToken {
    #[serde(flatten)]
    chosen: TopToken,
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
    pub(super) fn of(tokens: &[OutToken], top: u8, names: Names<'_>) -> Self {
        let named = |id: u32, logprob: f32| TopToken {
            token: names.lossy(id),
            logprob: finite(logprob),
            bytes: names.pieces.get(id).to_vec(),
        };
        let content = tokens.iter().filter_map(|t| {
            let logprobs = t.token.logprobs.as_ref()?;
            let best = logprobs.top.iter().take(usize::from(top)).map(|(id, logprob)| named(*id, *logprob));
            Some(ChatToken { chosen: named(t.token.id, logprobs.chosen), top_logprobs: best.collect() })
        });
        Self { content: content.collect(), refusal: None }
    }
}

/// `logprobs` of a completion choice. The first token of a prompt has none.
#[derive(Debug, Default, Serialize)]
pub(super) struct CompletionLogprobs {
    text_offset: Vec<usize>,
    token_logprobs: Vec<Option<f32>>,
    tokens: Vec<String>,
    top_logprobs: Vec<Option<ByText>>,
}

impl CompletionLogprobs {
    /// Adds a prompt's tokens; `logprobs` from the second on.
    pub(super) fn prompt(&mut self, ids: &[u32], echo: &Echo, logprobs: &[TokenLogprobs], top: u8, names: Names<'_>) {
        let known = std::iter::once(None).chain(logprobs.iter().map(Some));
        for ((id, offset), logprobs) in ids.iter().zip(&echo.offsets).zip(known) {
            self.token(*id, *offset, logprobs, top, names);
        }
    }

    /// Adds an answer's tokens, whose text begins at `start`; `top` is how many of the best were asked for. The chosen
    /// one is always among them.
    pub(super) fn answer(&mut self, tokens: &[OutToken], start: usize, top: u8, names: Names<'_>) {
        for t in tokens.iter().filter(|t| t.token.logprobs.is_some()) {
            self.token(t.token.id, start + t.offset, t.token.logprobs.as_ref(), top, names);
        }
    }

    fn token(&mut self, id: u32, offset: usize, logprobs: Option<&TokenLogprobs>, top: u8, names: Names<'_>) {
        self.text_offset.push(offset);
        self.token_logprobs.push(logprobs.map(|l| finite(l.chosen)));
        self.tokens.push(names.printable(id));
        self.top_logprobs.push(logprobs.map(|l| by_text(id, l, top, names)));
    }
}

/// A map by text, likeliest first. Its numbers are written as those of `token_logprobs` are, so that a client can compare
/// the two.
#[derive(Debug)]
struct ByText(Vec<(String, f32)>);

impl Serialize for ByText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(text, logprob)| (text, logprob)))
    }
}

/// Different ids of one text are one entry: the likeliest of them.
fn by_text(id: u32, logprobs: &TokenLogprobs, top: u8, names: Names<'_>) -> ByText {
    let best = logprobs.top.iter().take(usize::from(top)).copied();
    let mut entries: Vec<(String, f32)> = Vec::new();
    for (id, logprob) in best.chain([(id, logprobs.chosen)]) {
        let text = names.printable(id);
        if entries.iter().all(|(other, _)| *other != text) {
            entries.push((text, finite(logprob)));
        }
    }
    ByText(entries)
}

/// vLLM's `prompt_logprobs`: for each prompt token a map by id, null for the first.
pub(super) type PromptLogprobs = Vec<Option<BTreeMap<u32, PromptLogprob>>>;

/// One entry of [`PromptLogprobs`].
#[derive(Debug, Serialize)]
pub(super) struct PromptLogprob {
    logprob: f32,
    /// Its place among all tokens, from 1; null for a prompt token that is not among the best asked for.
    rank: Option<usize>,
    decoded_token: String,
}

/// Of a prompt's tokens; `logprobs` from the second on. The prompt's own token is always among them.
pub(super) fn prompt_logprobs(ids: &[u32], logprobs: &[TokenLogprobs], top: u8, names: Names<'_>) -> PromptLogprobs {
    let entry = |id: u32, logprob: f32, rank| {
        (id, PromptLogprob { logprob: finite(logprob), rank, decoded_token: names.lossy(id) })
    };
    let position = |(id, l): (&u32, &TokenLogprobs)| {
        let rank = l.top.iter().position(|(best, _)| best == id).map(|at| at + 1);
        let best = l.top.iter().take(usize::from(top)).enumerate();
        let best = best.map(|(at, (id, logprob))| entry(*id, *logprob, Some(at + 1)));
        Some(best.chain([entry(*id, l.chosen, rank)]).collect())
    };
    std::iter::once(None).chain(ids.iter().skip(1).zip(logprobs).map(position)).collect()
}
