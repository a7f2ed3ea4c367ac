//! The sampler of one sequence: what it has seen, and how its next token is chosen.

use protocol::generate::{SamplingParams, TokenLogprobs};

use super::candidates;
use super::history::History;
use super::logprobs::logprobs;
use super::philox::uniform;

/// Why no token could be chosen.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// A NaN or an infinity came out of the model.
    #[error("logit {logit} of id {id} at output position {position} is not finite")]
    NotFinite {
        /// The first offending id.
        id: u32,
        /// Its logit.
        logit: f32,
        /// Output tokens before it.
        position: u64,
    },
    /// The mask left nothing.
    #[error("all {vocab} ids are masked at output position {position}")]
    AllMasked {
        /// Ids in all.
        vocab: usize,
        /// Output tokens before it.
        position: u64,
    },
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
    candidates: Vec<(f32, u32)>,
}

/// The sampler of one sequence.
#[derive(Debug)]
pub struct Sampler {
    params: SamplingParams,
    history: History,
    /// Output tokens so far: the next one's position for the generator.
    position: u64,
}

impl Sampler {
    /// A sampler after `prompt` and the output tokens `resume` of an earlier attempt.
    #[must_use]
    pub fn new(params: SamplingParams, prompt: &[u32], resume: &[u32]) -> Self {
        let mut history = History::new(&params, prompt);
        resume.iter().for_each(|id| history.record(*id));
        Self { params, history, position: resume.len() as u64 }
    }

    /// Chooses the next token from its row of `logits` (`[vocab]`) and counts it as output.
    ///
    /// # Errors
    /// [`SampleError`]; nothing is counted.
    pub fn choose(&mut self, logits: &[f32], scratch: &mut Scratch) -> Result<Choice, SampleError> {
        let position = self.position;
        if let Some((id, logit)) = (0u32..).zip(logits).find(|(_, x)| !x.is_finite()) {
            return Err(SampleError::NotFinite { id, logit: *logit, position });
        }
        let all_masked = SampleError::AllMasked { vocab: logits.len(), position };
        let Scratch { logits: adjusted, candidates } = scratch;
        let row = if self.adjusts() {
            self.adjust(logits, adjusted);
            adjusted.as_slice()
        } else {
            logits
        };
        let id = if self.params.temperature == 0.0 {
            argmax(row).ok_or(all_masked)?
        } else {
            candidates::fill(candidates, row);
            if candidates.is_empty() {
                return Err(all_masked);
            }
            candidates::draw(candidates, &self.params, uniform(self.params.seed, position))
        };
        self.position += 1;
        self.history.record(id);
        let logprobs = self.params.logprobs.map(|top| logprobs(logits, id, top, candidates));
        Ok(Choice { id, logprobs })
    }

    /// Whether any step before temperature changes a logit.
    fn adjusts(&self) -> bool {
        !self.history.is_inert() || !self.params.logit_bias.is_empty() || self.masks()
    }

    /// Whether stop ids are still masked. A grammar's mask belongs to the same place: after the bias, which must not
    /// bring a masked id back.
    fn masks(&self) -> bool {
        self.position < u64::from(self.params.min_tokens) && !self.params.stop_token_ids.is_empty()
    }

    /// Penalties, bias and mask, in this order, from `logits` into `adjusted` (both `[vocab]`).
    fn adjust(&self, logits: &[f32], adjusted: &mut Vec<f32>) {
        adjusted.clear();
        adjusted.extend_from_slice(logits);
        self.history.apply(adjusted);
        for (id, bias) in &self.params.logit_bias {
            if let Some(logit) = adjusted.get_mut(*id as usize) {
                *logit += bias;
            }
        }
        if self.masks() {
            for id in &self.params.stop_token_ids {
                if let Some(logit) = adjusted.get_mut(*id as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
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

    fn choose_all(params: SamplingParams, prompt: &[u32], rows: &[&[f32]]) -> Vec<u32> {
        let mut sampler = Sampler::new(params, prompt, &[]);
        let mut scratch = Scratch::default();
        rows.iter().map(|row| sampler.choose(row, &mut scratch).expect("finite").id).collect()
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
        let mut sampler = Sampler::new(params, &[0], &[]);
        let choice = sampler.choose(&[0.0, 2f32.ln()], &mut Scratch::default()).expect("finite");
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
        let whole = choose_all(params.clone(), &[3, 4], &rows);
        for cut in [1, 7, 39] {
            let mut sampler = Sampler::new(params.clone(), &[3, 4], &whole[..cut]);
            let mut scratch = Scratch::default();
            let rest: Vec<u32> =
                rows[cut..].iter().map(|r| sampler.choose(r, &mut scratch).expect("finite").id).collect();
            assert_eq!(rest, whole[cut..]);
        }
    }

    #[test]
    fn what_cannot_be_sampled_is_an_error_with_its_place() {
        let mut sampler = Sampler::new(SamplingParams::greedy(8), &[0], &[]);
        let got = sampler.choose(&[0.0, f32::INFINITY], &mut Scratch::default());
        assert_eq!(got, Err(SampleError::NotFinite { id: 1, logit: f32::INFINITY, position: 0 }));
        let all = SamplingParams { min_tokens: 1, stop_token_ids: vec![0, 1], ..SamplingParams::greedy(8) };
        let got = Sampler::new(all, &[0], &[]).choose(&[0.0, 1.0], &mut Scratch::default());
        assert_eq!(got, Err(SampleError::AllMasked { vocab: 2, position: 0 }));
    }
}
