//! Stop strings over a text that arrives in parts.
//!
//! Invariants: no part of a stop string that is found has been handed out before; what is found does not depend on how
//! the text was cut into parts: the match that ends first, of those the longest.

/// Where a text ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// Which of the stop strings, by its place in the request.
    pub which: usize,
}

/// Holds back what may become a stop string.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stops: Vec<String>,
    include: bool,
    /// A proper prefix of some stop string, or empty.
    held: String,
}

impl StopMatcher {
    /// `stops` are not empty strings; `include` hands out the stop string itself too.
    #[must_use]
    pub fn new(stops: Vec<String>, include: bool) -> Self {
        Self { stops, include, held: String::new() }
    }

    /// Takes the next part and appends to `out` what is certain to belong to the output.
    pub fn push(&mut self, part: &str, out: &mut String) -> Option<Stopped> {
        if self.stops.is_empty() {
            out.push_str(part);
            return None;
        }
        let mut text = std::mem::take(&mut self.held);
        text.push_str(part);
        if let Some((which, start, end)) = self.first_match(&text) {
            out.push_str(&text[..if self.include { end } else { start }]);
            return Some(Stopped { which });
        }
        let keep = self.partial(&text);
        let held = text.split_off(text.len() - keep);
        out.push_str(&text);
        self.held = held;
        None
    }

    /// Appends what was held back, since nothing follows.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&std::mem::take(&mut self.held));
    }

    fn first_match(&self, text: &str) -> Option<(usize, usize, usize)> {
        let found = self.stops.iter().enumerate().filter_map(|(which, stop)| {
            let start = text.find(stop.as_str())?;
            Some((which, start, start + stop.len()))
        });
        found.min_by_key(|(which, start, end)| (*end, *start, *which))
    }

    /// Bytes at the end of `text` that are a proper prefix of some stop string; the most there are.
    fn partial(&self, text: &str) -> usize {
        let longest = |stop: &String| {
            let ends = stop.char_indices().map(|(i, _)| i).filter(|i| *i > 0 && *i <= text.len());
            ends.rev().find(|i| text.as_bytes().ends_with(&stop.as_bytes()[..*i])).unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[&str], include: bool, parts: &[&str]) -> (String, Option<usize>) {
        let mut matcher = StopMatcher::new(stops.iter().map(|s| (*s).to_owned()).collect(), include);
        let mut out = String::new();
        for part in parts {
            if let Some(stopped) = matcher.push(part, &mut out) {
                return (out, Some(stopped.which));
            }
        }
        matcher.finish(&mut out);
        (out, None)
    }

    #[test]
    fn a_stop_string_across_parts_is_found_and_not_shown() {
        assert_eq!(run(&["</answer>"], false, &["ok</", "ans", "wer", "> more"]), ("ok".to_owned(), Some(0)));
        assert_eq!(run(&["</answer>"], true, &["ok</", "answer>x"]), ("ok</answer>".to_owned(), Some(0)));
        assert_eq!(run(&["</answer>"], false, &["ok</", "ans"]), ("ok</ans".to_owned(), None));
        assert_eq!(run(&["。"], false, &["你好。再见"]), ("你好".to_owned(), Some(0)));
    }

    #[test]
    fn the_match_that_ends_first_wins_and_of_those_the_longest() {
        assert_eq!(run(&["bcd", "c"], false, &["abcde"]), ("ab".to_owned(), Some(1)));
        assert_eq!(run(&["c", "bc"], false, &["abc"]), ("a".to_owned(), Some(1)));
    }

    #[test]
    fn a_restarted_prefix_is_held_back() {
        assert_eq!(run(&["aab"], false, &["a", "a", "a", "b"]), ("a".to_owned(), Some(0)));
    }

    proptest! {
        #[test]
        fn the_parts_do_not_matter(
            text in "[ab好]{0,24}", stops in prop::collection::vec("[ab好]{1,4}", 1..4), cuts in prop::collection::vec(0usize..24, 0..8)
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let mut bounds: Vec<usize> = cuts.into_iter().filter(|c| text.is_char_boundary(*c)).collect();
            bounds.extend([0, text.len()]);
            bounds.sort_unstable();
            let parts: Vec<&str> = bounds.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            prop_assert_eq!(run(&stops, false, &parts), run(&stops, false, &[&text]));
            prop_assert_eq!(run(&stops, true, &parts), run(&stops, true, &[&text]));
            let chars: Vec<String> = text.chars().map(String::from).collect();
            let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
            let (out, found) = run(&stops, false, &chars);
            prop_assert_eq!((out.clone(), found), run(&stops, false, &[&text]));
            if found.is_none() {
                prop_assert!(stops.iter().all(|s| !text.contains(s)));
                prop_assert_eq!(out, text);
            }
        }
    }
}
