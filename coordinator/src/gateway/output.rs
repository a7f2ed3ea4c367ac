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
    /// Ids of the tokens that count: at most as many as were asked for.
    ids: Vec<u32>,
    /// Characters of text so far, shown or held back.
    chars: usize,
    ended: bool,
}

impl Output {
    pub(super) fn new(pieces: Arc<Pieces>, rules: OutputRules) -> Self {
        Self {
            detokenizer: Detokenizer::new(pieces, rules.skip_special),
            matcher: StopMatcher::new(rules.stop.clone(), rules.include_stop),
            stop_ids: rules.stop_ids.iter().copied().collect(),
            rules,
            waiting: None,
            ids: Vec::new(),
            chars: 0,
            ended: false,
        }
    }

    /// One whose end was told elsewhere.
    pub(super) fn told(pieces: Arc<Pieces>, rules: OutputRules) -> Self {
        Self { ended: true, ..Self::new(pieces, rules) }
    }

    /// Number of tokens that count.
    pub(super) fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Their ids: what a replica must know that goes on with it.
    pub(super) fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Whether a delta has told its end; nothing may be pushed any more.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes the tokens of one event.
    pub(super) fn push(&mut self, tokens: Vec<TokenOutput>) -> Delta {
        let delta = self.take_tokens(tokens);
        self.ended = delta.finish.is_some();
        delta
    }

    fn take_tokens(&mut self, tokens: Vec<TokenOutput>) -> Delta {
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
            self.ids.push(id);
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
        self.ended = true;
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
        if self.tokens() <= self.rules.min_tokens as usize {
            delta.text.push_str(text);
        } else if let Some(stopped) = self.matcher.push(text, &mut delta.text) {
            delta.finish = Some(Finish::StopString(self.rules.stop[stopped.which].clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ids of the table below.
    const STOP: u32 = 6;

    fn pieces() -> Arc<Pieces> {
        let table: [(&[u8], bool); 8] = [
            (b"a", false),
            (b"b", false),
            (b"ab", false),
            (b"\xe5\xa5", false),
            (b"\xbd", false),
            (b"\xff", false),
            (b"</answer>", false),
            (b"<|user|>", true),
        ];
        Arc::new(Pieces::of_bytes(table.map(|(piece, special)| (piece.to_vec(), special))))
    }

    fn token(id: u32) -> TokenOutput {
        TokenOutput { id, logprobs: None }
    }

    /// Text, ids with their offsets, and the end, of an output whose tokens came in these events.
    fn run(rules: &OutputRules, events: &[&[u32]], end: FinishReason) -> (String, Vec<(u32, usize)>, Option<Finish>) {
        let mut output = Output::new(pieces(), rules.clone());
        let (mut text, mut ids) = (String::new(), Vec::new());
        let deltas = events.iter().map(|ids| Some(ids.to_vec())).chain([None]);
        for event in deltas {
            let delta = match event {
                Some(ids) => output.push(ids.into_iter().map(token).collect()),
                None => output.finish(end),
            };
            text.push_str(&delta.text);
            ids.extend(delta.tokens.iter().map(|t| (t.token.id, t.offset)));
            if delta.finish.is_some() {
                assert_eq!(output.tokens(), ids.len());
                return (text, ids, delta.finish);
            }
        }
        (text, ids, None)
    }

    #[test]
    fn the_stop_tokens_text_waits_for_what_follows() {
        let rules = OutputRules { stop_ids: vec![STOP], ..OutputRules::default() };
        let stopped = run(&rules, &[&[0, STOP]], FinishReason::Stop);
        assert_eq!(stopped, ("a".to_owned(), vec![(0, 0), (STOP, 1)], Some(Finish::StopId(None))));
        // Too early to stop, says the replica, so it is text.
        let went_on = run(&rules, &[&[0, STOP], &[1]], FinishReason::Length);
        assert_eq!(went_on, ("a</answer>b".to_owned(), vec![(0, 0), (STOP, 1), (1, 10)], Some(Finish::Length)));
    }

    #[test]
    fn bytes_that_never_become_a_character_are_told_in_the_end() {
        let rules = OutputRules::default();
        assert_eq!(run(&rules, &[&[3], &[4]], FinishReason::Length).0, "好");
        assert_eq!(run(&rules, &[&[3]], FinishReason::Length).0, "\u{fffd}");
        assert_eq!(run(&rules, &[&[3, 0, 5]], FinishReason::Length).0, "\u{fffd}a\u{fffd}");
    }

    proptest! {
        #[test]
        fn how_tokens_come_in_events_does_not_matter(
            ids in prop::collection::vec(0u32..8, 1..24),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            stop in prop::collection::vec("[ab好]{1,3}", 0..3),
            (include_stop, skip_special, stops, min_tokens) in (any::<bool>(), any::<bool>(), any::<bool>(), 0u32..4),
        ) {
            let stop_ids = vec![STOP, 7];
            let rules = OutputRules { stop, stop_ids, own_stop_ids: vec![7], include_stop, skip_special, min_tokens };
            let end = if stops { FinishReason::Stop } else { FinishReason::Length };
            let mut at: Vec<usize> = cuts.iter().map(|c| c.index(ids.len())).chain([0, ids.len()]).collect();
            at.sort_unstable();
            let cut: Vec<&[u32]> = at.windows(2).map(|w| &ids[w[0]..w[1]]).collect();
            let single: Vec<&[u32]> = ids.chunks(1).collect();
            let one_by_one = run(&rules, &single, end);
            prop_assert_eq!(&run(&rules, &cut, end), &one_by_one);
            prop_assert_eq!(&run(&rules, &[&ids], end), &one_by_one);
            if min_tokens == 0 && !include_stop {
                prop_assert!(rules.stop.iter().all(|s| !one_by_one.0.contains(s.as_str())));
            }
        }
    }
}
