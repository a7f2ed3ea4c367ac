//! No token is lost or doubled: what a client reads is what the model says, from the first token to the end or to a clear
//! error, and once nothing goes wrong any more, to the end.

use std::collections::BTreeMap;

use super::Invariant;
use crate::engine::model;
use crate::fact::Fact;

/// The answers under way.
#[derive(Debug, Default)]
pub(super) struct Streams {
    answers: BTreeMap<String, Answer>,
    calm: bool,
}

#[derive(Debug)]
struct Answer {
    max_tokens: u32,
    /// By choice: prompt and answer so far, and whether it has ended.
    choices: Vec<(Vec<u32>, bool)>,
    prompt: usize,
    /// It began when nothing went wrong any more.
    calm: bool,
}

impl Answer {
    fn told(&mut self, choice: u16, tokens: &[u32], finished: bool) -> Result<(), String> {
        let Some((context, ended)) = self.choices.get_mut(usize::from(choice)) else {
            return Err(format!("choice {choice} was not asked for"));
        };
        for token in tokens {
            let (at, expected) = (context.len() - self.prompt, model(context, choice));
            if *ended || *token != expected {
                return Err(format!("token {at} of choice {choice} is {token}, not {expected}; ended: {ended}"));
            }
            context.push(*token);
        }
        if finished && std::mem::replace(ended, true) {
            return Err(format!("choice {choice} ends twice"));
        }
        let (found, max) = (context.len() - self.prompt, self.max_tokens as usize);
        if found > max || *ended && found < max {
            return Err(format!("choice {choice} has {found} tokens, {max} were asked for; ended: {ended}"));
        }
        Ok(())
    }
}

impl Invariant for Streams {
    fn name(&self) -> &'static str {
        "no token lost or doubled"
    }

    fn see(&mut self, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::Calm => self.calm = true,
            Fact::Asked { stream, prompt, max_tokens, choices } => {
                let choices = (0..*choices).map(|_| (prompt.clone(), false)).collect();
                let answer = Answer { max_tokens: *max_tokens, choices, prompt: prompt.len(), calm: self.calm };
                self.answers.insert(stream.clone(), answer);
            }
            Fact::Told { stream, choice, tokens, finished } => {
                let answer = self.answers.get_mut(stream).ok_or_else(|| format!("{stream} was not asked for"))?;
                answer.told(*choice, tokens, *finished).map_err(|what| format!("{stream}: {what}"))?;
            }
            Fact::AnswerEnded { stream, refused, error } => {
                let answer = self.answers.remove(stream).ok_or_else(|| format!("{stream} was not asked for"))?;
                let begun = answer.choices.iter().any(|(context, _)| context.len() > answer.prompt);
                let silent = error.as_ref().is_some_and(|e| !refused && !e.starts_with("told"));
                if silent || *refused && begun {
                    return Err(format!("{stream}: {error:?}"));
                }
                if let Some(error) = error.as_ref().filter(|_| answer.calm) {
                    return Err(format!("{stream}: {error}, and nothing goes wrong"));
                }
                if error.is_none() && answer.choices.iter().any(|(_, ended)| !ended) {
                    return Err(format!("{stream} is over before all of its choices are"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(max_tokens: u32) -> Fact {
        Fact::Asked { stream: "s".into(), prompt: vec![7], max_tokens, choices: 1 }
    }

    fn told(tokens: &[u32], finished: bool) -> Fact {
        Fact::Told { stream: "s".into(), choice: 0, tokens: tokens.to_vec(), finished }
    }

    fn ended(error: Option<&str>) -> Fact {
        Fact::AnswerEnded { stream: "s".into(), refused: false, error: error.map(str::to_owned) }
    }

    fn check(facts: &[Fact]) -> Result<(), String> {
        let mut invariant = Streams::default();
        facts.iter().try_for_each(|fact| invariant.see(fact))
    }

    #[test]
    fn tokens_that_are_lost_doubled_or_others_are_found_and_ends_in_silence() {
        let first = model(&[7], 0);
        let second = model(&[7, first], 0);
        check(&[asked(2), told(&[first], false), told(&[second], true), ended(None)]).expect("as it should be");
        check(&[asked(2), told(&[first], false), ended(Some("told: replica_lost"))]).expect("a clear error");
        for wrong in [
            vec![asked(2), told(&[second], false)],
            vec![asked(2), told(&[first], false), told(&[first], false)],
            vec![asked(2), told(&[first], true)],
            vec![asked(1), told(&[first, second], false)],
            vec![asked(2), told(&[first], false), ended(None)],
            vec![asked(2), told(&[first], false), ended(Some("the stream ended in silence"))],
            vec![Fact::Calm, asked(2), told(&[first], false), ended(Some("told: replica_lost"))],
        ] {
            check(&wrong).expect_err("not what the model says");
        }
    }
}
