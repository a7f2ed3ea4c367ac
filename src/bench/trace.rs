//! Agents' conversations: what is said in which turn, and when. The system prompt is the same for all of them.
//!
//! Invariant: what users say, and when, follows from the settings, the seed and the conversation's number; the history
//! holds the endpoint's own answers, as a client's would.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::calibration::PromptLengths;
use super::call::{Ask, Input};
use super::draw::{Draw, Purpose};
use super::record::Class;
use super::settings::{Settings, Trace};
use super::words;
use crate::openai::Turn;

/// One conversation.
#[derive(Debug)]
pub(super) struct Conversation {
    settings: Arc<Settings>,
    trace: Trace,
    lengths: PromptLengths,
    number: u64,
    history: Vec<Turn>,
    num_turns: u32,
    taken: u32,
    draw: Draw,
}

impl Conversation {
    /// The conversation with this number.
    pub(super) fn new(settings: &Arc<Settings>, trace: Trace, lengths: PromptLengths, number: u64) -> Self {
        let mut system = Draw::of(settings.seed, Purpose::System, 0);
        let content = words::text(lengths.words(trace.system_tokens), &mut system);
        let mut draw = Draw::of(settings.seed, Purpose::Conversation, number);
        let num_turns = trace.turns.draw(&mut draw);
        let settings = Arc::clone(settings);
        Self {
            settings,
            trace,
            lengths,
            number,
            history: vec![Turn { role: "system", content }],
            num_turns,
            taken: 0,
            draw,
        }
    }

    /// The pause before the next turn, and how long the user's words are; `None` when the conversation is over.
    pub(super) fn next_pause(&mut self) -> Option<Duration> {
        let pause = self.draw.exponential(self.trace.think_s);
        (self.taken < self.num_turns).then(|| Duration::from_secs_f64(pause))
    }

    /// The next turn.
    pub(super) fn ask(&mut self, due: Instant) -> Ask {
        let tokens = self.settings.prompt_tokens.draw(&mut self.draw);
        let max_tokens = self.settings.max_tokens.draw(&mut self.draw);
        let hangs_up = self.draw.unit() < self.settings.cancel_share;
        let at = 1 + self.draw.below(max_tokens);
        let content = words::text(self.lengths.more_words(f64::from(tokens)), &mut self.draw);
        self.history.push(Turn { role: "user", content });
        let class = if self.taken == 0 { Class::FirstTurn } else { Class::LaterTurn };
        let seed = self.settings.seed.wrapping_add(self.number << 16 | u64::from(self.taken));
        self.taken += 1;
        let input = Input::Turns(self.history.clone());
        Ask { class, input, max_tokens, hang_up_at: hangs_up.then_some(at), seed, due }
    }

    /// Takes the answer into the history.
    pub(super) fn answered(&mut self, content: String) {
        self.history.push(Turn { role: "assistant", content });
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::fixture::settings;
    use super::*;

    fn conversation(number: u64) -> Conversation {
        let trace =
            Trace { conversations: 2, turns: "3..5".parse().expect("a span"), think_s: 2.0, system_tokens: 200 };
        Conversation::new(&Arc::new(settings()), trace, PromptLengths::GUESS, number)
    }

    struct Said {
        pause: Duration,
        class: Class,
        turns: Vec<(&'static str, String)>,
    }

    /// Everything that is sent in a conversation whose answers are `answer`.
    fn said(number: u64, answer: &str) -> Vec<Said> {
        let mut conversation = conversation(number);
        let mut out = Vec::new();
        while let Some(pause) = conversation.next_pause() {
            let ask = conversation.ask(Instant::now());
            let Input::Turns(turns) = ask.input else { panic!("agents chat") };
            let turns = turns.into_iter().map(|t| (t.role, t.content)).collect();
            out.push(Said { pause, class: ask.class, turns });
            conversation.answered(answer.to_owned());
        }
        out
    }

    #[test]
    fn histories_share_the_system_prompt_and_grow_by_each_answer() {
        let (first, second) = (said(0, "yes"), said(1, "yes"));
        assert_eq!(first[0].turns[0], second[0].turns[0], "one system prompt");
        assert_ne!(first[0].turns[1], second[0].turns[1], "different users");
        assert!((3..=5).contains(&first.len()));
        for pair in first.windows(2) {
            let (before, after) = (&pair[0].turns, &pair[1].turns);
            assert_eq!(before[..], after[..before.len()], "a history is only added to");
            assert_eq!(after[before.len()], ("assistant", "yes".to_owned()));
            assert_eq!(after.len(), before.len() + 2);
        }
        assert_eq!(first[0].class, Class::FirstTurn);
        assert!(first[1..].iter().all(|t| t.class == Class::LaterTurn));
    }

    #[test]
    fn what_users_say_and_when_does_not_depend_on_the_answers() {
        let users = |answer: &str| {
            let of_turn =
                |said: Said| (said.pause, said.turns.into_iter().filter(|t| t.0 == "user").collect::<Vec<_>>());
            said(7, answer).into_iter().map(of_turn).collect::<Vec<_>>()
        };
        assert_eq!(users("yes"), users("no, by no means"));
    }
}
