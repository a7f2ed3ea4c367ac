//! What a sequence has seen, as far as penalties ask: which ids stand in its prompt, and how often each stands in its
//! output.
//!
//! The semantics are those of vLLM and Hugging Face: repetition looks at prompt and output, frequency and presence at
//! the output only.

use std::collections::HashMap;

use protocol::generate::SamplingParams;

use super::row::ById;

/// Counts of one sequence. Kept only where a penalty needs them.
#[derive(Debug)]
pub(super) struct History {
    seen: HashMap<u32, u32>,
    repetition: f32,
    frequency: f32,
    presence: f32,
}

impl History {
    /// A history over `prompt`; output is [`Self::record`]ed.
    pub(super) fn new(params: &SamplingParams, prompt: &[u32]) -> Self {
        let mut history = Self {
            seen: HashMap::new(),
            repetition: params.repetition_penalty,
            frequency: params.frequency_penalty,
            presence: params.presence_penalty,
        };
        if history.repetition != 1.0 {
            history.seen.extend(prompt.iter().map(|id| (*id, 0)));
        }
        history
    }

    /// Whether no penalty is set.
    pub(super) fn is_inert(&self) -> bool {
        self.repetition == 1.0 && self.frequency == 0.0 && self.presence == 0.0
    }

    /// Counts one output token.
    pub(super) fn record(&mut self, id: u32) {
        if !self.is_inert() {
            *self.seen.entry(id).or_insert(0) += 1;
        }
    }

    /// Whether a penalty may raise a logit.
    pub(super) fn raises(&self) -> bool {
        self.repetition < 1.0 || self.frequency < 0.0 || self.presence < 0.0
    }

    /// Number of ids whose logits a penalty may change.
    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }

    /// Applies the penalties to a row. Each entry depends on its own id only, so the map's order cannot show.
    pub(super) fn apply(&self, row: &mut (impl ById + ?Sized)) {
        for (id, count) in &self.seen {
            let Some(logit) = row.logit_mut(*id) else { continue };
            if self.repetition != 1.0 {
                *logit = if *logit > 0.0 { *logit / self.repetition } else { *logit * self.repetition };
            }
            if *count > 0 {
                *logit -= self.frequency * *count as f32;
                *logit -= self.presence;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_penalty_looks_where_it_should() {
        let params = SamplingParams {
            repetition_penalty: 2.0,
            frequency_penalty: 0.5,
            presence_penalty: 0.25,
            ..SamplingParams::greedy(8)
        };
        let mut history = History::new(&params, &[0, 1]);
        [1, 2, 2].into_iter().for_each(|id| history.record(id));
        let mut logits = [4.0, -4.0, 4.0, 4.0];
        history.apply(logits.as_mut_slice());
        // 0: prompt only. 1: prompt and once in the output, negative. 2: twice in the output. 3: unseen.
        assert_eq!(logits, [2.0, -8.0 - 0.5 - 0.25, 2.0 - 1.0 - 0.25, 4.0]);
    }

    #[test]
    fn without_penalties_nothing_is_kept() {
        let mut history = History::new(&SamplingParams::greedy(8), &[0, 1]);
        history.record(1);
        assert!(history.is_inert() && history.seen.is_empty());
    }
}
