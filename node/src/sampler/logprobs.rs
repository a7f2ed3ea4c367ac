//! Logprobs as OpenAI's clients and vLLM's default (`raw_logprobs`) read them: the log-softmax of the model's own
//! logits, before penalties, bias and temperature.

use protocol::generate::TokenLogprobs;
use sharding::layers::{Candidate, LogitsRow, by_rank};

use super::candidates;
use super::choose::{SampleError, Scratch, check_finite};
use super::math::{exp_nonpositive, ln};

/// Logprobs of prompt tokens: `rows[i]` is the whole row after the token before `ids[i]`; rows beyond `ids` say nothing
/// of the prompt and are not looked at. `position` is that of `ids[0]` in the prompt.
///
/// # Errors
/// [`SampleError`] of a row that is not finite or not whole.
pub fn prompt_logprobs(
    rows: &[LogitsRow],
    ids: &[u32],
    top: u8,
    position: u64,
    scratch: &mut Scratch,
) -> Result<Vec<TokenLogprobs>, SampleError> {
    let one = |((row, id), position): ((&LogitsRow, &u32), u64)| {
        let logits = row.whole().ok_or(SampleError::NotWhole { position })?;
        check_finite(logits, position)?;
        Ok(logprobs(logits, *id, top, scratch.candidates()))
    };
    rows.iter().zip(ids).zip(position..).map(one).collect()
}

/// The logprob of `chosen` and of the `top` best ids, best first, from raw `logits` (`[vocab]`, finite).
pub(super) fn logprobs(logits: &[f32], chosen: u32, top: u8, buffer: &mut Vec<Candidate>) -> TokenLogprobs {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| exp_nonpositive(f64::from(x - max))).sum();
    let log_sum = f64::from(max) + ln(sum);
    let of = |logit: f32| (f64::from(logit) - log_sum) as f32;
    candidates::fill(buffer, logits);
    candidates::keep_best(buffer, usize::from(top));
    buffer.sort_unstable_by(by_rank);
    TokenLogprobs { chosen: of(logits[chosen as usize]), top: buffer.iter().map(|(x, id)| (*id, of(*x))).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_computed_by_hand() {
        // e^0 : e^ln2 : e^ln4 : e^ln4 = 1 : 2 : 4 : 4, in all 11.
        let row = [0.0, 2f32.ln(), 4f32.ln(), 4f32.ln()];
        let got = logprobs(&row, 1, 3, &mut Vec::new());
        let expect = |share: f64| (share / 11.0).ln() as f32;
        assert!((got.chosen - expect(2.0)).abs() < 1e-6);
        assert_eq!(got.top.iter().map(|t| t.0).collect::<Vec<_>>(), [2, 3, 1], "ties go to the lowest id");
        assert!((got.top[0].1 - expect(4.0)).abs() < 1e-6);
        assert!(logprobs(&row, 0, 0, &mut Vec::new()).top.is_empty());
    }

    #[test]
    fn a_prompts_logprobs_are_those_of_its_own_tokens() {
        let rows = [vec![0.0, 2f32.ln()], vec![0.0, 0.0], vec![5.0, 0.0]].map(LogitsRow::Whole);
        let got = prompt_logprobs(&rows, &[1, 0], 1, 1, &mut Scratch::default()).expect("finite");
        let chosen: Vec<f32> = got.iter().map(|l| l.chosen).collect();
        assert_eq!(got.iter().map(|l| l.top[0].0).collect::<Vec<_>>(), [1, 0]);
        assert!((chosen[0] - (2f32 / 3.0).ln()).abs() < 1e-6 && (chosen[1] - 0.5f32.ln()).abs() < 1e-6);
        let broken = [LogitsRow::Whole(vec![0.0; 2]), LogitsRow::Whole(vec![0.0, f32::NAN])];
        let error = prompt_logprobs(&broken, &[0, 0], 1, 7, &mut Scratch::default()).expect_err("a NaN");
        assert!(matches!(error, SampleError::NotFinite { id: 1, position: 8, .. }), "{error}");
        let error = prompt_logprobs(&[LogitsRow::Best(vec![(0.0, 0)])], &[0], 1, 7, &mut Scratch::default());
        assert_eq!(error, Err(SampleError::NotWhole { position: 7 }));
    }
}
