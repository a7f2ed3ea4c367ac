//! One prompt of a request, checked and encoded, and what `echo` repeats of it.

use std::sync::Arc;

use super::errors::ApiError;
use super::pictures::Shown;
use super::state::Target;
use super::tokenize::Detokenizer;

/// One prompt; never empty, every id below the vocabulary, and the answer fits the context with it.
#[derive(Debug)]
pub(super) struct Prompt {
    pub(super) ids: Arc<[u32]>,
    /// Longest answer, tokens; 0 where only the prompt is to be told.
    pub(super) max_tokens: u32,
    /// Where the request wants the prompt repeated before the answer.
    pub(super) echo: Option<Echo>,
    /// What it shows.
    pub(super) pictures: Shown,
}

impl Prompt {
    /// What it holds in memory, bytes.
    pub(super) fn bytes(&self) -> usize {
        let echo = self.echo.as_ref().map_or(0, |e| e.text.len() + e.offsets.len() * size_of::<usize>());
        self.ids.len() * size_of::<u32>() + echo + self.pictures.bytes()
    }
}

/// A prompt's text and where in it each of its tokens begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Echo {
    pub(super) text: String,
    /// In characters, one a token. A token that the tokenizer's own post-processor added has no text.
    pub(super) offsets: Vec<usize>,
    /// Length of the text, characters.
    pub(super) chars: usize,
}

/// The ids of a prompt's text, unless it is plainly too long for the context.
///
/// # Errors
/// [`ApiError::ContextLength`].
pub(super) fn encode(text: &str, add_special: bool, target: &Target) -> Result<Vec<u32>, ApiError> {
    let limit = target.context_tokens;
    let least = target.bundle.tokenizer.tokens_min(text.len());
    if least > limit as usize {
        return Err(ApiError::ContextLength { limit, prompt: least, at_least: "at least ", max_tokens: None });
    }
    target.bundle.tokenizer.encode(text, add_special).map_err(|e| {
        tracing::error!(error = %e, "encoding failed");
        ApiError::Internal { what: "tokenizer" }
    })
}

impl Echo {
    /// Of ids whose own text, without what a post-processor added around it, is `inner`.
    pub(super) fn of(ids: &[u32], inner: &[u32], target: &Target) -> Self {
        let before = ids.windows(inner.len().max(1)).position(|window| window == inner).unwrap_or(0);
        let mut detokenizer = Detokenizer::new(target.bundle.tokenizer.pieces().clone(), false);
        let mut echo = Self { text: String::new(), offsets: vec![0; before.min(ids.len())], chars: 0 };
        for id in inner {
            echo.offsets.push(echo.chars);
            let shown = echo.text.len();
            detokenizer.push(*id, &mut echo.text);
            echo.chars += echo.text[shown..].chars().count();
        }
        let shown = echo.text.len();
        detokenizer.finish(&mut echo.text);
        echo.chars += echo.text[shown..].chars().count();
        echo.offsets.resize(ids.len(), echo.chars);
        echo
    }
}
