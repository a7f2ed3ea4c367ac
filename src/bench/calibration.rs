//! How an endpoint wants to be asked, and how long its tokens are: found by a few small requests ahead of the run.

use serde::Serialize;

use super::call::{Ask, Caller, Input};
use super::draw::{Draw, Purpose};
use super::record::{Class, End};
use super::settings::Api;
use super::words;
use crate::openai::{CallError, Turn, Usage};

/// Words of the two prompts whose token counts are compared.
const WORDS_FEW: u32 = 16;
const WORDS_MANY: u32 = 144;

/// What an endpoint understands beyond the plainest request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Dialect {
    /// Completions take token ids as prompt.
    pub(super) prompt_ids: bool,
    /// `return_token_ids`: each event says how many tokens it brings. Without it an event with text counts as one.
    pub(super) token_ids: bool,
    /// `stream_options.include_usage`.
    pub(super) usage: bool,
}

impl Dialect {
    /// What every endpoint understands.
    pub(super) const PLAIN: Self = Self { prompt_ids: false, token_ids: false, usage: false };
}

/// How many tokens a text prompt has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PromptLengths {
    per_word: f64,
    /// Of the template around it.
    around: f64,
}

impl PromptLengths {
    /// A guess for servers that do not count.
    pub(super) const GUESS: Self = Self { per_word: 1.3, around: 0.0 };

    /// The line through two prompts' lengths.
    pub(super) fn of(words_few: u32, tokens_few: u32, words_many: u32, tokens_many: u32) -> Self {
        let per_word = (f64::from(tokens_many) - f64::from(tokens_few)) / f64::from(words_many - words_few);
        if per_word <= 0.0 {
            return Self::GUESS;
        }
        Self { per_word, around: f64::from(tokens_few) - per_word * f64::from(words_few) }
    }

    /// Words for a prompt of about so many tokens with all around it.
    pub(super) fn words(self, tokens: u32) -> u32 {
        self.more_words((f64::from(tokens) - self.around).max(1.0))
    }

    /// Words for about so many tokens within a prompt.
    pub(super) fn more_words(self, tokens: f64) -> u32 {
        ((tokens / self.per_word).round() as u32).max(1)
    }
}

/// Tries ways to ask, the richest first, until one is understood, and measures the length of a word.
///
/// # Errors
/// [`CallError`] of the plainest way, or of an endpoint that does not answer now.
pub(super) async fn calibrate(caller: &mut Caller) -> Result<(), CallError> {
    let api = caller.api();
    let few = settle_dialect(caller, api).await?;
    if caller.dialect().prompt_ids {
        return Ok(());
    }
    let many = probe(caller, api, WORDS_MANY).await?;
    if let (Some(few), Some(many)) = (few, many) {
        caller.set_lengths(PromptLengths::of(WORDS_FEW, few.prompt_tokens, WORDS_MANY, many.prompt_tokens));
    }
    Ok(())
}

async fn settle_dialect(caller: &mut Caller, api: Api) -> Result<Option<Usage>, CallError> {
    let ids = api == Api::Completions;
    let ways = [
        Dialect { prompt_ids: ids, token_ids: true, usage: true },
        Dialect { prompt_ids: false, token_ids: true, usage: true },
        Dialect { prompt_ids: false, token_ids: false, usage: true },
        Dialect::PLAIN,
    ];
    let mut refused = None;
    for way in ways {
        caller.set_dialect(way);
        match probe(caller, api, WORDS_FEW).await {
            Ok(usage) => return Ok(usage),
            Err(error @ CallError::Api { status: Some(400 | 422), .. }) => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(refused.expect("every way was refused, and there are some"))
}

/// One small request; the counts that came with it.
async fn probe(caller: &Caller, api: Api, num_words: u32) -> Result<Option<Usage>, CallError> {
    let mut draw = Draw::of(caller.seed(), Purpose::Rehearsal, u64::from(num_words));
    let input = match api {
        Api::Completions if caller.dialect().prompt_ids => Input::Ids(words::ids(num_words, &mut draw)),
        Api::Completions => Input::Text(words::text(num_words, &mut draw)),
        Api::Chat => Input::Turns(vec![Turn { role: "user", content: words::text(num_words, &mut draw) }]),
    };
    let (record, _) = caller.call(Ask::now(Class::All, input, 1)).await;
    match record.end {
        End::Failed(error) => Err(error),
        _ => Ok(record.usage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_prompts_tell_the_length_of_a_word() {
        let lengths = PromptLengths::of(16, 40, 144, 296);
        assert_eq!((lengths.words(40), lengths.words(296), lengths.more_words(256.0)), (16, 144, 128));
        assert_eq!(lengths.words(1), 1, "a prompt has a word at least");
        assert_eq!(PromptLengths::of(16, 5, 144, 5), PromptLengths::GUESS);
    }
}
