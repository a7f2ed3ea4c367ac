//! Adds records up, by class and over all.
//!
//! Invariant: memory is bounded whatever the run's length: samples by `durations`, kinds of errors by [`ERRORS_MAX`].

use std::collections::BTreeMap;

use super::durations::Durations;
use super::record::{Class, End, Record};
use super::report::{Counts, ErrorKind, Figures, Tokens};
use crate::openai::CallError;

/// Most kinds of errors that are told apart.
const ERRORS_MAX: usize = 64;

/// Everything that came in so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    classes: BTreeMap<Class, Sums>,
    errors: BTreeMap<(String, String), ErrorKind>,
    late: Durations,
    fingerprint: Option<String>,
}

/// Sums of one class.
#[derive(Debug, Default)]
struct Sums {
    counts: Counts,
    tokens: Tokens,
    head: Durations,
    first_token: Durations,
    inter_token: Durations,
    per_token: Durations,
    e2e: Durations,
}

impl Tally {
    pub(super) fn add(&mut self, record: Record) {
        if let End::Failed(error) = &record.end {
            self.add_error(error);
        }
        if record.end == End::TimedOut {
            self.count_error("-", "timeout", "the client's own bound", None);
        }
        if record.end != End::Dropped {
            self.late.push(record.late);
        }
        self.classes.entry(Class::All).or_default().add(&record);
        if record.class != Class::All {
            self.classes.entry(record.class).or_default().add(&record);
        }
        if self.fingerprint.is_none() {
            self.fingerprint = record.fingerprint;
        }
    }

    /// Counts of all requests.
    pub(super) fn counts(&self) -> Counts {
        self.classes.get(&Class::All).map(|s| s.counts).unwrap_or_default()
    }

    /// Tokens of all requests.
    pub(super) fn tokens(&self) -> Tokens {
        self.classes.get(&Class::All).map(|s| s.tokens).unwrap_or_default()
    }

    /// Figures of each class; of all together first.
    pub(super) fn figures(&self) -> Vec<Figures> {
        self.classes.iter().map(|(class, sums)| sums.figures(*class)).collect()
    }

    /// Kinds of errors, the commonest first.
    pub(super) fn errors(&self) -> Vec<ErrorKind> {
        let mut errors: Vec<ErrorKind> = self.errors.values().cloned().collect();
        errors.sort_by_key(|e| std::cmp::Reverse(e.count));
        errors
    }

    /// How late the client itself sent.
    pub(super) fn late(&self) -> &Durations {
        &self.late
    }

    /// The server's name for its model, version and precision.
    pub(super) fn fingerprint(&self) -> Option<&str> {
        self.fingerprint.as_deref()
    }

    fn add_error(&mut self, error: &CallError) {
        let text = error.to_string();
        match error {
            CallError::Api { status, code, message, retry_after_s } => {
                let status = status.map_or_else(|| "stream".to_owned(), |s| s.to_string());
                self.count_error(&status, code, message, *retry_after_s);
            }
            CallError::Unreachable { .. } => self.count_error("-", "unreachable", &text, None),
            CallError::Broken { .. } => self.count_error("-", "broken", &text, None),
            CallError::NotACompletion { .. } => self.count_error("-", "not_a_completion", &text, None),
        }
    }

    fn count_error(&mut self, status: &str, code: &str, example: &str, retry_after_s: Option<u32>) {
        let mut key = (status.to_owned(), code.to_owned());
        if self.errors.len() >= ERRORS_MAX && !self.errors.contains_key(&key) {
            key = ("other".to_owned(), "other".to_owned());
        }
        let kind = self.errors.entry(key.clone()).or_insert_with(|| ErrorKind {
            status: key.0,
            code: key.1,
            count: 0,
            retry_after_s: None,
            example: example.to_owned(),
        });
        kind.count += 1;
        if let Some(s) = retry_after_s {
            let (low, high) = kind.retry_after_s.unwrap_or((s, s));
            kind.retry_after_s = Some((low.min(s), high.max(s)));
        }
    }
}

impl Sums {
    fn add(&mut self, record: &Record) {
        self.counts.add(&record.end);
        self.tokens.add(record);
        if let Some(head) = record.head {
            self.head.push(head);
        }
        if let Some(first) = record.first_token {
            self.first_token.push(first);
        }
        record.gaps_us.iter().for_each(|us| self.inter_token.push_us(*us));
        if record.end == End::Done {
            self.e2e.push(record.e2e);
            let tokens = record.output_tokens();
            if let Some(first) = record.first_token.filter(|_| tokens > 1) {
                self.per_token.push(record.e2e.saturating_sub(first) / (tokens - 1));
            }
        }
    }

    fn figures(&self, class: Class) -> Figures {
        Figures {
            class,
            counts: self.counts,
            tokens: self.tokens,
            head_ms: self.head.summary(),
            ttft_ms: self.first_token.summary(),
            inter_token_ms: self.inter_token.summary(),
            tpot_ms: self.per_token.summary(),
            e2e_ms: self.e2e.summary(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn failed(status: u16, code: &str, retry_after_s: Option<u32>) -> Record {
        let error = CallError::Api { status: Some(status), code: code.into(), message: "m".into(), retry_after_s };
        Record::new(Class::Short, End::Failed(error))
    }

    #[test]
    fn errors_are_told_apart_by_status_and_code_with_the_range_of_retry_after() {
        let mut tally = Tally::default();
        [Some(3), Some(1), None].into_iter().for_each(|s| tally.add(failed(429, "queue_full", s)));
        tally.add(failed(503, "no_replica_ready", None));
        let errors = tally.errors();
        assert_eq!(errors.len(), 2);
        assert_eq!(
            (errors[0].code.as_str(), errors[0].count, errors[0].retry_after_s),
            ("queue_full", 3, Some((1, 3)))
        );
        assert_eq!(tally.counts().refused, 4);
        (0..200).for_each(|i| tally.add(failed(500, &format!("e{i}"), None)));
        assert_eq!(tally.errors().len(), ERRORS_MAX + 1, "the rest go together");
        assert_eq!(tally.errors().iter().map(|e| e.count).sum::<u64>(), 204);
    }

    #[test]
    fn classes_are_kept_apart_and_together() {
        let mut tally = Tally::default();
        for (class, ms, num) in [(Class::Short, 10, 3), (Class::Long, 500, 1)] {
            for _ in 0..num {
                let mut record = Record::new(class, End::Done);
                record.first_token = Some(Duration::from_millis(ms));
                record.e2e = Duration::from_millis(ms + 90);
                record.tokens = 10;
                record.gaps_us = vec![10_000; 9];
                tally.add(record);
            }
        }
        let figures = tally.figures();
        let of = |class| figures.iter().find(|f| f.class == class).expect("there");
        let max = |class| of(class).ttft_ms.as_ref().expect("samples").max;
        assert_eq!((max(Class::All), max(Class::Short), max(Class::Long)), (500.0, 10.0, 500.0));
        assert_eq!(of(Class::Short).tpot_ms.as_ref().expect("samples").p50, 10.0);
        assert_eq!(
            (of(Class::All).tokens.output, of(Class::Long).inter_token_ms.as_ref().expect("gaps").count),
            (40, 9)
        );
    }
}
