//! From a replica's events to what a client reads: text, tokens, logprobs, and the end.
//!
//! Pure: no clock, no socket. Invariants: text is whole code points and never part of a stop string that was found; the
//! text of a stop token is not shown; tokens after the end do not count; nothing depends on how tokens came in events.

use std::collections::HashSet;
use std::sync::Arc;

use protocol::generate::{FinishReason, TokenOutput};

use super::tokenize::{Detokenizer, Pieces, StopMatcher};

/// What a request says about its output.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct OutputRules {
    /// Texts that end it.
    pub(super) stop: Vec<String>,
    /// Ids that end it.
    pub(super) stop_ids: Vec<u32>,
    /// Those of them that the request itself named, not the model.
    pub(super) own_stop_ids: Vec<u32>,
    /// Whether the text that ended it is shown.
    pub(super) include_stop: bool,
    /// Whether special tokens are left out of the text.
    pub(super) skip_special: bool,
    /// Stop strings count only in the text after this many tokens.
    pub(super) min_tokens: u32,
}

/// Why an output ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Finish {
    /// A stop string was found: this one.
    StopString(String),
    /// A stop id was chosen; the id where the request itself had named it.
    StopId(Option<u32>),
    /// The answer or the context is full.
    Length,
}

/// One token and where its text begins in the output, in characters.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct OutToken {
    pub(super) token: TokenOutput,
    pub(super) offset: usize,
}

/// What one event adds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Delta {
    /// Text that is certain now; may lag behind the tokens.
    pub(super) text: String,
    /// The tokens, all that count.
    pub(super) tokens: Vec<OutToken>,
    /// The end.
    pub(super) finish: Option<Finish>,
}

/// One output so far.
#[derive(Debug)]
pub(super) struct Output {
    detokenizer: Detokenizer,
    matcher: StopMatcher,
    stop_ids: HashSet<u32>,
    rules: OutputRules,
    /// The last token, where it may turn out to be the one that ended the output: its text waits.
    waiting: Option<u32>,
    tokens: usize,
    /// Characters of text so far, shown or held back.
    chars: usize,
}

impl Output {
    pub(super) fn new(pieces: Arc<Pieces>, rules: OutputRules) -> Self {
        Self {
            detokenizer: Detokenizer::new(pieces, rules.skip_special),
            matcher: StopMatcher::new(rules.stop.clone(), rules.include_stop),
            stop_ids: rules.stop_ids.iter().copied().collect(),
            rules,
            waiting: None,
            tokens: 0,
            chars: 0,
        }
    }

    /// Number of tokens that count.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Takes the tokens of one event.
    pub(super) fn push(&mut self, tokens: Vec<TokenOutput>) -> Delta {
        let mut delta = Delta::default();
        for token in tokens {
            if let Some(id) = self.waiting.take() {
                self.show(id, &mut delta);
                if delta.finish.is_some() {
                    return delta;
                }
            }
            let id = token.id;
            delta.tokens.push(OutToken { token, offset: self.chars });
            self.tokens += 1;
            if self.stop_ids.contains(&id) {
                self.waiting = Some(id);
                continue;
            }
            self.show(id, &mut delta);
            if delta.finish.is_some() {
                return delta;
            }
        }
        delta
    }

    /// Takes the end as the replica tells it.
    pub(super) fn finish(&mut self, reason: FinishReason) -> Delta {
        let mut delta = Delta::default();
        let last = self.waiting.take();
        let stopped = reason == FinishReason::Stop;
        if let Some(id) = last.filter(|_| !stopped || self.rules.include_stop) {
            self.show(id, &mut delta);
        }
        if delta.finish.is_none() {
            let mut rest = String::new();
            self.detokenizer.finish(&mut rest);
            self.take_text(&rest, &mut delta);
        }
        if delta.finish.is_none() {
            self.matcher.finish(&mut delta.text);
            delta.finish = Some(match reason {
                FinishReason::Stop => Finish::StopId(last.filter(|id| self.rules.own_stop_ids.contains(id))),
                FinishReason::Length => Finish::Length,
            });
        }
        delta
    }

    fn show(&mut self, id: u32, delta: &mut Delta) {
        let mut text = String::new();
        self.detokenizer.push(id, &mut text);
        self.take_text(&text, delta);
    }

    fn take_text(&mut self, text: &str, delta: &mut Delta) {
        self.chars += text.chars().count();
        if self.tokens <= self.rules.min_tokens as usize {
            delta.text.push_str(text);
        } else if let Some(stopped) = self.matcher.push(text, &mut delta.text) {
            delta.finish = Some(Finish::StopString(self.rules.stop[stopped.which].clone()));
        }
    }
}
