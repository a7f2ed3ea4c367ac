//! The sampler of one sequence: what it has seen, what it needs of the next row, and how its next token is chosen.

use protocol::generate::{SamplingParams, TokenLogprobs};
use protocol::step::{BEST_MAX, LogitsWanted};
use sharding::layers::{Candidate, LogitsRow, by_rank};

use super::candidates;
use super::history::History;
use super::logprobs::logprobs;
use super::philox::uniform;
use super::row::ById;
use crate::grammar::{Constraint, GrammarError};

/// Why no token could be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// A NaN or an infinity came out of the model.
    #[error("logit {logit} of id {id} at position {position} is not finite")]
    NotFinite {
        /// The first offending id.
        id: u32,
        /// Its logit.
        logit: f32,
        /// Output tokens before it; of a prompt's row, the place of the token that it foretells.
        position: u64,
    },
    /// The mask left nothing.
    #[error("all ids are masked at output position {position}")]
    AllMasked {
        /// Output tokens before it.
        position: u64,
    },
    /// The step brought candidates where the whole row was wanted.
    #[error("the row at position {position} is not whole")]
    NotWhole {
        /// As of [`Self::NotFinite`].
        position: u64,
    },
    /// The grammar cannot be followed.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
}

/// A chosen token.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Its id.
    pub id: u32,
    /// Where asked for.
    pub logprobs: Option<TokenLogprobs>,
}

/// Buffers that all sequences of an engine share; hold no state between calls.
#[derive(Debug, Default)]
pub struct Scratch {
    logits: Vec<f32>,
    candidates: Vec<Candidate>,
}

impl Scratch {
    pub(super) fn candidates(&mut self) -> &mut Vec<Candidate> {
        &mut self.candidates
    }
}

/// The sampler of one sequence.
#[derive(Debug)]
pub struct Sampler {
    params: SamplingParams,
    /// Which of the request's answers.
    choice: u16,
    history: History,
    /// What the output must match.
    constraint: Option<Constraint>,
    /// Output tokens so far: the next one's position for the generator.
    position: u64,
}

impl Sampler {
    /// The sampler of the `choice`-th answer after `prompt` and the output tokens `resume` of an earlier attempt.
    #[must_use]
    pub fn new(params: SamplingParams, choice: u16, prompt: &[u32], resume: &[u32]) -> Self {
        let mut history = History::new(&params, prompt);
        resume.iter().for_each(|id| history.record(*id));
        Self { params, choice, history, constraint: None, position: resume.len() as u64 }
    }

    /// The same under a grammar; `constraint` has gone over the resumed tokens already.
    #[must_use]
    pub fn constrained(self, constraint: Option<Constraint>) -> Self {
        Self { constraint, ..self }
    }

    /// Whether the output matches its grammar and nothing can follow: it ends here, stop id or not.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.constraint.as_ref().is_some_and(Constraint::is_ended)
    }

    /// How much of the next row [`Self::choose`] needs to choose what it would choose of the whole row.
    ///
    /// Of `n` best raw logits, at most as many can fall behind as there are ids whose logits may be lowered, and nobody
    /// rises: with `k` that many more than the best that the draw looks at, those are all among the `k` best. The whole
    /// row is wanted where a logit may be raised, where all of it is summed over (logprobs, top-p or a draw without
    /// top-k) and where `k` would be too large. Under a grammar too: the best of the few ids that it allows may stand
    /// anywhere in the row. Sending every rank the mask with the plan (vocabulary / 8 bytes) would do better; nothing
    /// does so yet.
    ///
    /// AutoGLM's own parameters (greedy, a frequency penalty) want 1 candidate more than the answer has different
    /// tokens.
    #[must_use]
    pub fn wanted(&self) -> LogitsWanted {
        self.candidates_wanted()
            .and_then(|k| u16::try_from(k).ok())
            .filter(|k| *k <= BEST_MAX)
            .map_or(LogitsWanted::Last, |k| LogitsWanted::Best { k })
    }

    fn candidates_wanted(&self) -> Option<usize> {
        let p = &self.params;
        let raises = self.history.raises() || p.logit_bias.iter().any(|(_, bias)| *bias > 0.0);
        if raises || p.logprobs.is_some() || self.constraint.is_some() {
            return None;
        }
        let kept = match (p.temperature == 0.0, p.top_k) {
            (true, _) => 1,
            (false, 0) => return None,
            (false, k) => k as usize,
        };
        let masked = if self.masks() { p.stop_token_ids.len() } else { 0 };
        Some(kept.saturating_add(self.history.len() + p.logit_bias.len() + masked))
    }

    /// Chooses the next token from its row, of which there must be as much as [`Self::wanted`] says, and counts it as
    /// output.
    ///
    /// # Errors
    /// [`SampleError`]; nothing is counted.
    pub fn choose(&mut self, row: &LogitsRow, scratch: &mut Scratch) -> Result<Choice, SampleError> {
        let position = self.position;
        let id = match row {
            LogitsRow::Whole(logits) => self.of_row(logits, scratch)?,
            LogitsRow::Best(candidates) => self.of_candidates(candidates, scratch)?,
        };
        let logprobs = match self.params.logprobs {
            None => None,
            Some(top) => {
                let logits = row.whole().ok_or(SampleError::NotWhole { position })?;
                Some(logprobs(logits, id, top, &mut scratch.candidates))
            }
        };
        if let Some(constraint) = self.constraint.as_mut().filter(|_| !self.params.stop_token_ids.contains(&id)) {
            constraint.accept(id)?;
        }
        self.position += 1;
        self.history.record(id);
        Ok(Choice { id, logprobs })
    }

    /// Of a whole row, `[vocab]`.
    fn of_row(&mut self, logits: &[f32], scratch: &mut Scratch) -> Result<u32, SampleError> {
        check_finite(logits, self.position)?;
        let Scratch { logits: adjusted, candidates } = scratch;
        let row = if self.adjusts() {
            adjusted.clear();
            adjusted.extend_from_slice(logits);
            self.adjust(adjusted.as_mut_slice());
            if let Some(constraint) = &mut self.constraint {
                constraint.mask(adjusted, &self.params.stop_token_ids)?;
            }
            adjusted.as_slice()
        } else {
            logits
        };
        if self.params.temperature == 0.0 {
            return argmax(row).ok_or(SampleError::AllMasked { position: self.position });
        }
        candidates::fill(candidates, row);
        self.draw(candidates)
    }

    /// Of candidates, by ascending id.
    fn of_candidates(&self, row: &[Candidate], scratch: &mut Scratch) -> Result<u32, SampleError> {
        let position = self.position;
        if let Some((logit, id)) = row.iter().find(|c| !c.0.is_finite()) {
            return Err(SampleError::NotFinite { id: *id, logit: *logit, position });
        }
        if self.candidates_wanted().is_none() {
            return Err(SampleError::NotWhole { position });
        }
        let candidates = &mut scratch.candidates;
        candidates.clear();
        candidates.extend_from_slice(row);
        self.adjust(candidates.as_mut_slice());
        candidates.retain(|c| c.0 > f32::NEG_INFINITY);
        if self.params.temperature == 0.0 {
            return candidates
                .iter()
                .min_by(|a, b| by_rank(a, b))
                .map(|c| c.1)
                .ok_or(SampleError::AllMasked { position });
        }
        self.draw(candidates)
    }

    fn draw(&self, candidates: &mut Vec<Candidate>) -> Result<u32, SampleError> {
        if candidates.is_empty() {
            return Err(SampleError::AllMasked { position: self.position });
        }
        let uniform = uniform(self.params.seed, self.choice, self.position);
        Ok(candidates::draw(candidates, &self.params, uniform))
    }

    /// Whether any step before temperature changes a logit.
    fn adjusts(&self) -> bool {
        !self.history.is_inert() || !self.params.logit_bias.is_empty() || self.masks() || self.constraint.is_some()
    }

    /// Whether stop ids are still masked. The grammar's mask comes after this one; neither brings an id back that the
    /// other has masked, nor does the bias, which comes before both.
    fn masks(&self) -> bool {
        self.position < u64::from(self.params.min_tokens) && !self.params.stop_token_ids.is_empty()
    }

    /// Penalties, bias and the mask of stop ids that come too early, in this order.
    fn adjust(&self, row: &mut (impl ById + ?Sized)) {
        self.history.apply(row);
        for (id, bias) in &self.params.logit_bias {
            if let Some(logit) = row.logit_mut(*id) {
                *logit += bias;
            }
        }
        if self.masks() {
            for id in &self.params.stop_token_ids {
                if let Some(logit) = row.logit_mut(*id) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}

/// # Errors
/// [`SampleError::NotFinite`] for the first id.
pub(super) fn check_finite(logits: &[f32], position: u64) -> Result<(), SampleError> {
    match (0u32..).zip(logits).find(|(_, x)| !x.is_finite()) {
        None => Ok(()),
        Some((id, logit)) => Err(SampleError::NotFinite { id, logit: *logit, position }),
    }
}

/// The id of the largest logit, the lowest of equals; `None` where all are masked.
fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best = (f32::NEG_INFINITY, None);
    for (id, x) in (0u32..).zip(logits) {
        if *x > best.0 {
            best = (*x, Some(id));
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(row: &[f32]) -> LogitsRow {
        LogitsRow::Whole(row.to_vec())
    }

    fn choose_all(params: SamplingParams, prompt: &[u32], rows: &[&[f32]]) -> Vec<u32> {
        let mut sampler = Sampler::new(params, 0, prompt, &[]);
        let mut scratch = Scratch::default();
        rows.iter().map(|row| sampler.choose(&whole(row), &mut scratch).expect("finite").id).collect()
    }

    #[test]
    fn greedy_takes_the_best_and_of_equals_the_lowest_id() {
        assert_eq!(choose_all(SamplingParams::greedy(8), &[0], &[&[1.0, 3.0, 3.0], &[-1.0, -2.0, -3.0]]), [1, 0]);
    }

    #[test]
    fn penalties_act_before_argmax_and_count_output_only() {
        let params = SamplingParams { frequency_penalty: 0.2, ..SamplingParams::greedy(8) };
        // Id 1 leads by 0.3: two of its own put it behind. Its place in the prompt does not count.
        let row: &[f32] = &[1.0, 1.3, 0.0];
        assert_eq!(choose_all(params, &[1, 1, 1], &[row; 5]), [1, 1, 0, 1, 0]);
    }

    #[test]
    fn repetition_counts_the_prompt() {
        let params = SamplingParams { repetition_penalty: 2.0, ..SamplingParams::greedy(8) };
        assert_eq!(choose_all(params, &[1], &[&[1.0, 1.9, 0.0]]), [0]);
    }

    #[test]
    fn bias_acts_before_argmax_and_cannot_bring_a_masked_id_back() {
        let params = SamplingParams { logit_bias: vec![(2, 5.0), (9, 1.0)], ..SamplingParams::greedy(8) };
        assert_eq!(choose_all(params.clone(), &[0], &[&[1.0, 2.0, 0.0]]), [2]);
        let masked = SamplingParams { min_tokens: 1, stop_token_ids: vec![2], ..params };
        let row: &[f32] = &[1.0, 2.0, 0.0];
        assert_eq!(choose_all(masked, &[0], &[row; 2]), [1, 2]);
    }

    #[test]
    fn logprobs_are_of_the_raw_row() {
        let params = SamplingParams { logit_bias: vec![(0, 50.0)], logprobs: Some(2), ..SamplingParams::greedy(8) };
        let mut sampler = Sampler::new(params, 0, &[0], &[]);
        let choice = sampler.choose(&whole(&[0.0, 2f32.ln()]), &mut Scratch::default()).expect("finite");
        let logprobs = choice.logprobs.expect("asked for");
        assert_eq!((choice.id, logprobs.top[0].0, logprobs.top[1].0), (0, 1, 0));
        assert!((logprobs.chosen - (1f32 / 3.0).ln()).abs() < 1e-6);
        assert!((logprobs.top[0].1 - (2f32 / 3.0).ln()).abs() < 1e-6);
    }

    #[test]
    fn a_resumed_sampler_goes_on_with_the_same_tokens() {
        let params = SamplingParams {
            temperature: 1.0,
            seed: 42,
            presence_penalty: 0.5,
            frequency_penalty: 0.3,
            repetition_penalty: 1.2,
            ..SamplingParams::greedy(64)
        };
        let row: Vec<f32> = (0..50u32).map(|i| (i * 7919 % 50) as f32 / 20.0).collect();
        let rows = vec![row.as_slice(); 40];
        let alone = choose_all(params.clone(), &[3, 4], &rows);
        for cut in [1, 7, 39] {
            let mut sampler = Sampler::new(params.clone(), 0, &[3, 4], &alone[..cut]);
            let mut scratch = Scratch::default();
            let rest: Vec<u32> =
                rows[cut..].iter().map(|r| sampler.choose(&whole(r), &mut scratch).expect("finite").id).collect();
            assert_eq!(rest, alone[cut..]);
        }
    }

    #[test]
    fn what_cannot_be_sampled_is_an_error_with_its_place() {
        let mut sampler = Sampler::new(SamplingParams::greedy(8), 0, &[0], &[]);
        let got = sampler.choose(&whole(&[0.0, f32::INFINITY]), &mut Scratch::default());
        assert_eq!(got, Err(SampleError::NotFinite { id: 1, logit: f32::INFINITY, position: 0 }));
        let all = SamplingParams { min_tokens: 1, stop_token_ids: vec![0, 1], ..SamplingParams::greedy(8) };
        let got = Sampler::new(all, 0, &[0], &[]).choose(&whole(&[0.0, 1.0]), &mut Scratch::default());
        assert_eq!(got, Err(SampleError::AllMasked { position: 0 }));
    }

    #[test]
    fn choices_of_one_request_differ_and_the_first_is_the_only_one() {
        let params = SamplingParams { temperature: 1.0, seed: 7, ..SamplingParams::greedy(64) };
        let draws = |choice| {
            let mut sampler = Sampler::new(params.clone(), choice, &[3], &[]);
            let mut scratch = Scratch::default();
            (0..32).map(|_| sampler.choose(&whole(&[0.0; 64]), &mut scratch).expect("finite").id).collect::<Vec<_>>()
        };
        let uniform: Vec<u32> = (0..32).map(|i| (uniform(7, 0, i) * 64.0) as u32).collect();
        assert_eq!(draws(0), uniform);
        assert!(draws(0) != draws(1) && draws(1) != draws(2));
    }

    #[test]
    fn what_lowers_logits_alone_needs_a_few_candidates() {
        let autoglm = SamplingParams { frequency_penalty: 0.2, ..SamplingParams::greedy(3000) };
        let wanted = |params: &SamplingParams| Sampler::new(params.clone(), 0, &[1, 2, 3], &[5, 6, 5]).wanted();
        assert_eq!(wanted(&SamplingParams::greedy(8)), LogitsWanted::Best { k: 1 });
        assert_eq!(wanted(&autoglm), LogitsWanted::Best { k: 3 });
        assert_eq!(wanted(&SamplingParams { repetition_penalty: 1.1, ..autoglm.clone() }), LogitsWanted::Best { k: 6 });
        assert_eq!(
            wanted(&SamplingParams { logit_bias: vec![(9, -1.0)], ..autoglm.clone() }),
            LogitsWanted::Best { k: 4 }
        );
        let early = SamplingParams { min_tokens: 4, stop_token_ids: vec![7, 8], ..autoglm.clone() };
        assert_eq!(wanted(&early), LogitsWanted::Best { k: 5 });
        assert_eq!(
            wanted(&SamplingParams { temperature: 1.0, top_k: 40, ..autoglm.clone() }),
            LogitsWanted::Best { k: 42 }
        );
        let whole = [
            SamplingParams { temperature: 1.0, ..autoglm.clone() },
            SamplingParams { logprobs: Some(0), ..autoglm.clone() },
            SamplingParams { logit_bias: vec![(9, 1.0)], ..autoglm.clone() },
            SamplingParams { presence_penalty: -0.5, ..autoglm.clone() },
            SamplingParams { repetition_penalty: 0.9, ..autoglm.clone() },
            SamplingParams { temperature: 1.0, top_k: 1024, ..autoglm.clone() },
            SamplingParams { temperature: 1.0, top_k: u32::MAX, ..autoglm },
        ];
        for params in whole {
            assert_eq!(wanted(&params), LogitsWanted::Last, "{params:?}");
        }
    }
}
