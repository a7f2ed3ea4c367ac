//! What is asked in which request; follows from the settings, the seed and the request's number alone.

use std::sync::Arc;

use tokio::time::Instant;

use super::calibration::{Dialect, PromptLengths};
use super::call::{Ask, Input};
use super::draw::{Draw, Purpose};
use super::record::Class;
use super::settings::{Api, Settings};
use super::words;
use crate::openai::Turn;

/// Lengths and fate of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) class: Class,
    pub(super) prompt_tokens: u32,
    pub(super) max_tokens: u32,
    pub(super) hang_up_at: Option<u32>,
}

/// Makes requests by number.
#[derive(Debug, Clone)]
pub(super) struct Workload {
    settings: Arc<Settings>,
    dialect: Dialect,
    lengths: PromptLengths,
}

impl Workload {
    pub(super) fn new(settings: Arc<Settings>, dialect: Dialect, lengths: PromptLengths) -> Self {
        Self { settings, dialect, lengths }
    }

    /// The request with this number. `purpose` tells those that are measured from those that are not.
    pub(super) fn ask(&self, purpose: Purpose, index: u64, due: Instant) -> Ask {
        let shape = self.shape(index);
        let mut draw = Draw::of(self.settings.seed, purpose, index);
        let input = match self.settings.api {
            Api::Completions if self.dialect.prompt_ids => Input::Ids(words::ids(shape.prompt_tokens, &mut draw)),
            Api::Completions => Input::Text(words::text(self.lengths.words(shape.prompt_tokens), &mut draw)),
            Api::Chat => {
                let content = words::text(self.lengths.words(shape.prompt_tokens), &mut draw);
                Input::Turns(vec![Turn { role: "user", content }])
            }
        };
        let Shape { class, max_tokens, hang_up_at, .. } = shape;
        Ask { class, input, max_tokens, hang_up_at, seed: self.settings.seed.wrapping_add(index), due }
    }

    /// The lengths of the request with this number.
    pub(super) fn shape(&self, index: u64) -> Shape {
        let settings = &self.settings;
        let mut draw = Draw::of(settings.seed, Purpose::Shape, index);
        let usual = settings.prompt_tokens.draw(&mut draw);
        let max_tokens = settings.max_tokens.draw(&mut draw);
        let hangs_up = draw.unit() < settings.cancel_share;
        let at = 1 + draw.below(max_tokens);
        let long = settings.long_prompts.filter(|l| (index + 1).is_multiple_of(l.every));
        let class = match (settings.long_prompts, long) {
            (None, _) => Class::All,
            (Some(_), None) => Class::Short,
            (Some(_), Some(_)) => Class::Long,
        };
        let prompt_tokens = long.map_or(usual, |l| l.tokens);
        Shape { class, prompt_tokens, max_tokens, hang_up_at: hangs_up.then_some(at) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::LongPrompts;
    use super::super::settings::fixture::settings;
    use super::*;

    fn workload(change: impl FnOnce(&mut Settings)) -> Workload {
        let mut settings = settings();
        change(&mut settings);
        Workload::new(Arc::new(settings), Dialect::PLAIN, PromptLengths::GUESS)
    }

    #[test]
    fn every_nth_prompt_is_long_and_the_others_stay_as_they_are() {
        let plain = workload(|_| ());
        let mixed = workload(|s| s.long_prompts = Some(LongPrompts { tokens: 8_000, every: 4 }));
        for index in 0..40 {
            let (a, b) = (plain.shape(index), mixed.shape(index));
            let long = index % 4 == 3;
            assert_eq!(b.class, if long { Class::Long } else { Class::Short });
            assert_eq!(b.prompt_tokens, if long { 8_000 } else { a.prompt_tokens });
            assert_eq!((a.class, a.max_tokens), (Class::All, b.max_tokens));
        }
    }

    #[test]
    fn a_share_of_the_clients_hangs_up_within_their_answer() {
        let workload = workload(|s| s.cancel_share = 0.25);
        let shapes: Vec<Shape> = (0..4_000).map(|i| workload.shape(i)).collect();
        let hang_ups = shapes.iter().filter(|s| s.hang_up_at.is_some()).count();
        assert!((900..1_100).contains(&hang_ups), "{hang_ups}");
        assert!(shapes.iter().all(|s| s.hang_up_at.is_none_or(|at| (1..=s.max_tokens).contains(&at))));
    }

    #[test]
    fn requests_follow_from_seed_and_number() {
        let ask = |seed, index| {
            let ask = workload(|s| s.seed = seed).ask(Purpose::Words, index, Instant::now());
            serde_json::to_string(&ask.input).expect("JSON")
        };
        assert_eq!(ask(1, 5), ask(1, 5));
        assert_ne!(ask(1, 5), ask(1, 6));
        assert_ne!(ask(1, 5), ask(2, 5));
    }
}
