//! How much of each choice a client has been told: what a named stream's event ids say, and where one goes on.
//!
//! An id is `usage` or `done`, or has one part a choice, joined by dots: `-` nothing was told of it, `7` it was opened and the
//! text of its first 7 tokens was told, `7f` all of its text, `7x` its end too. Pure. Invariant: what a position stands for
//! depends on the ids of the tokens alone, not on how they came in events: any gateway can go on from it.

use std::fmt::Write as _;

use super::errors::{ApiError, quote};

/// What the parameter is called, and the header of browsers' event sources.
pub(super) const AFTER: &str = "after";

/// How far a choice is told, apart from its tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Not at all.
    #[default]
    Unopened,
    /// It may go on.
    Running,
    /// All of its text.
    Flushed,
    /// Its end too.
    Ended,
}

/// How far one choice is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    /// Tokens whose text was told, as far as it was certain.
    pub(super) tokens: usize,
    pub(super) phase: Phase,
}

/// How far a stream is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// By choice.
    Choices(Vec<Position>),
    /// All choices, and the count of tokens.
    Usage,
    /// All.
    Done,
}

impl Told {
    /// Nothing.
    pub(super) fn nothing(choices: usize) -> Self {
        Self::Choices(vec![Position::default(); choices])
    }

    /// What a client says that it has of a stream of so many choices, each at most `tokens_max` long.
    ///
    /// # Errors
    /// [`ApiError::InvalidValue`].
    pub(super) fn parse(text: &str, tokens_max: &[u32]) -> Result<Self, ApiError> {
        let wrong = |expected: String| ApiError::InvalidValue { param: AFTER.to_owned(), found: quote(text), expected };
        match text {
            "usage" => return Ok(Self::Usage),
            "done" => return Ok(Self::Done),
            _ => {}
        }
        let parts: Option<Vec<Position>> = text.split('.').map(Position::parse).collect();
        let parts = parts.filter(|p| p.len() == tokens_max.len());
        let parts = parts.ok_or_else(|| wrong(format!("an event's id, of {} choices", tokens_max.len())))?;
        match parts.iter().zip(tokens_max).find(|(p, max)| p.tokens > **max as usize) {
            Some((_, max)) => Err(wrong(format!("at most {max} tokens"))),
            None => Ok(Self::Choices(parts)),
        }
    }

    /// The id of the event with which all of this was told.
    pub(super) fn id(&self) -> String {
        match self {
            Self::Choices(positions) => {
                let mut id = String::with_capacity(positions.len() * 4);
                for (i, position) in positions.iter().enumerate() {
                    if i > 0 {
                        id.push('.');
                    }
                    position.write(&mut id);
                }
                id
            }
            Self::Usage => "usage".to_owned(),
            Self::Done => "done".to_owned(),
        }
    }
}

impl Position {
    /// The choice is opened.
    pub(super) const OPENED: Self = Self { tokens: 0, phase: Phase::Running };

    fn parse(part: &str) -> Option<Self> {
        if part == "-" {
            return Some(Self::default());
        }
        let (digits, phase) = match part.as_bytes().last()? {
            b'f' => (&part[..part.len() - 1], Phase::Flushed),
            b'x' => (&part[..part.len() - 1], Phase::Ended),
            _ => (part, Phase::Running),
        };
        let plain = digits.bytes().all(|b| b.is_ascii_digit());
        let tokens = digits.parse::<u32>().ok().filter(|_| plain)?;
        Some(Self { tokens: tokens as usize, phase })
    }

    fn write(self, id: &mut String) {
        let mark = match self.phase {
            Phase::Unopened => return id.push('-'),
            Phase::Running => "",
            Phase::Flushed => "f",
            Phase::Ended => "x",
        };
        write!(id, "{}{mark}", self.tokens).expect("a string takes all");
    }
}

/// What a gateway that goes on with a choice knows of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// What the client has.
    pub(super) seen: Position,
    /// Ids of its first tokens, no more than the client has; what is missing is computed again, and told to nobody.
    pub(super) ids: Vec<u32>,
}

impl Known {
    /// Of a choice of which these ids are known, of which the client has as many as it says.
    pub(super) fn of(seen: Position, mut ids: Vec<u32>) -> Self {
        ids.truncate(seen.tokens);
        Self { seen, ids }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_say_which_part_of_a_choice_was_told() {
        let at = |tokens, phase| Position { tokens, phase };
        let told =
            Told::Choices(vec![Position::default(), Position::OPENED, at(7, Phase::Flushed), at(9, Phase::Ended)]);
        assert_eq!(told.id(), "-.0.7f.9x");
        assert_eq!(Told::parse("-.0.7f.9x", &[9; 4]), Ok(told));
        assert!(at(7, Phase::Running) < at(7, Phase::Flushed) && at(7, Phase::Ended) < at(8, Phase::Running));
        assert!(Position::default() < Position::OPENED);
    }

    #[test]
    fn what_is_no_event_of_the_stream_is_refused() {
        for text in ["", "x", "f", "-1", "+1", "1y", "1.", "1.2", "--", " 1", "4294967296", "Done", "1xx"] {
            let error = Told::parse(text, &[9]).expect_err(text);
            assert_eq!((error.told().status.as_u16(), error.told().code), (400, "invalid_value"), "{text}");
        }
        assert_eq!(Told::parse("10", &[9]).unwrap_err().to_string(), "`after` is 10, expected at most 9 tokens");
    }

    proptest! {
        #[test]
        fn every_id_is_read_as_it_was_written(parts in prop::collection::vec((0usize..5, 0usize..4), 1..5)) {
            let phases = [Phase::Unopened, Phase::Running, Phase::Flushed, Phase::Ended];
            let position = |(tokens, phase): &(usize, usize)| {
                let tokens = if *phase == 0 { 0 } else { *tokens };
                Position { tokens, phase: phases[*phase] }
            };
            let told = Told::Choices(parts.iter().map(position).collect());
            prop_assert_eq!(Told::parse(&told.id(), &vec![4; parts.len()]), Ok(told));
        }
    }
}
