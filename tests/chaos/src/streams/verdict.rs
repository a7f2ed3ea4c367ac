//! How a stream ended, and what that says. Pure.

use std::collections::BTreeMap;

use super::read::Read;

/// How a client's stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// `[DONE]`.
    Done,
    /// An error event in mid-stream, or a refusal to go on, with its code.
    Error(String),
    /// It never began: the last refusal's code.
    Refused(String),
    /// The connection was closed in order without `[DONE]` or an error event.
    Silence,
    /// Nothing came for as long as the client waits, wherever it asked.
    Stuck,
}

/// What an ending and what was read amount to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Read as by the undisturbed client, to the end.
    Identical,
    /// Not the undisturbed answer: a token doubled, missing or another. Never allowed.
    Different,
    /// Ended in silence. Never allowed.
    Silent,
    /// Stuck. Never allowed.
    Stuck,
    /// Ended with an error event of this code; what was read until then is as undisturbed.
    Error(String),
    /// Never began.
    Refused(String),
}

impl Verdict {
    /// Judges what was read.
    #[must_use]
    pub fn of(ending: &Ending, read: &Read, undisturbed: &Read) -> Self {
        match ending {
            Ending::Done if read == undisturbed => Self::Identical,
            _ if !is_beginning(read, undisturbed) => Self::Different,
            Ending::Done => Self::Different,
            Ending::Error(code) => Self::Error(code.clone()),
            Ending::Refused(code) => Self::Refused(code.clone()),
            Ending::Silence => Self::Silent,
            Ending::Stuck => Self::Stuck,
        }
    }

    /// Whether no fault excuses it.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        matches!(self, Self::Different | Self::Silent | Self::Stuck)
    }
}

/// Whether every choice reads as the undisturbed one's first part.
fn is_beginning(read: &Read, undisturbed: &Read) -> bool {
    read.choices.iter().all(|(index, choice)| {
        let Some(whole) = undisturbed.choices.get(index) else { return false };
        whole.token_ids.starts_with(&choice.token_ids)
            && choice.texts.iter().all(|(name, text)| whole.texts.get(name).is_some_and(|w| w.starts_with(text)))
            && choice.calls.iter().all(|(call, (name, arguments))| {
                whole.calls.get(call).is_some_and(|(n, a)| n.starts_with(name) && a.starts_with(arguments))
            })
            && (choice.finish_reason.is_none() || choice.finish_reason == whole.finish_reason)
    })
}

/// Verdicts counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    counts: BTreeMap<Verdict, u64>,
}

impl Tally {
    /// One more.
    pub fn add(&mut self, verdict: Verdict) {
        *self.counts.entry(verdict).or_default() += 1;
    }

    /// All of another.
    pub fn merge(&mut self, other: &Self) {
        for (verdict, count) in &other.counts {
            *self.counts.entry(verdict.clone()).or_default() += count;
        }
    }

    /// How many streams were asked for.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.counts.values().sum()
    }

    /// How many of a verdict.
    #[must_use]
    pub fn of(&self, verdict: &Verdict) -> u64 {
        self.counts.get(verdict).copied().unwrap_or(0)
    }

    /// How many that no fault excuses.
    #[must_use]
    pub fn broken(&self) -> u64 {
        self.counts.iter().filter(|(v, _)| v.is_broken()).map(|(_, count)| count).sum()
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let identical = self.of(&Verdict::Identical);
        write!(f, "{identical} of {} identical", self.all())?;
        for (verdict, count) in self.counts.iter().filter(|(v, _)| **v != Verdict::Identical) {
            match verdict {
                Verdict::Error(code) => write!(f, ", {count} error `{code}`")?,
                Verdict::Refused(code) => write!(f, ", {count} refused `{code}`")?,
                Verdict::Different => write!(f, ", {count} DIFFERENT")?,
                Verdict::Silent => write!(f, ", {count} SILENT")?,
                Verdict::Stuck => write!(f, ", {count} STUCK")?,
                Verdict::Identical => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::read::Choice;
    use super::*;

    fn read(ids: &[u64], text: &str) -> Read {
        let texts = [("content".to_owned(), text.to_owned())].into();
        let choice = Choice { token_ids: ids.to_vec(), texts, ..Choice::default() };
        Read { choices: [(0, choice)].into(), usage: None }
    }

    #[test]
    fn a_broken_answer_is_never_taken_for_a_whole_one() {
        let whole = read(&[1, 2, 3], "abc");
        let error = Ending::Error("replica_lost".to_owned());
        let judge = |ending: &Ending, read: &Read| Verdict::of(ending, read, &whole);
        assert_eq!(judge(&Ending::Done, &whole), Verdict::Identical);
        for other in [read(&[1, 2, 2, 3], "abc"), read(&[1, 3], "ac"), read(&[1, 2], "ab"), read(&[1, 2, 3], "abd")] {
            assert_eq!(judge(&Ending::Done, &other), Verdict::Different, "{other:?}");
        }
        assert_eq!(judge(&error, &read(&[1, 2], "ab")), Verdict::Error("replica_lost".to_owned()));
        assert_eq!(judge(&error, &read(&[1, 1], "aa")), Verdict::Different, "also where an error follows");
        assert_eq!(judge(&Ending::Silence, &read(&[1, 2], "ab")), Verdict::Silent);
        assert_eq!(judge(&Ending::Silence, &whole), Verdict::Silent, "the end was not told");
        let mut tally = Tally::default();
        tally.add(Verdict::Identical);
        tally.add(Verdict::Silent);
        assert_eq!((tally.all(), tally.broken()), (2, 1));
        assert_eq!(tally.to_string(), "1 of 2 identical, 1 SILENT");
    }
}
