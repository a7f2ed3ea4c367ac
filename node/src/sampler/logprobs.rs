//! Logprobs as OpenAI's clients and vLLM's default (`raw_logprobs`) read them: the log-softmax of the model's own
//! logits, before penalties, bias and temperature.

use protocol::generate::TokenLogprobs;

use super::candidates::{self, by_rank};
use super::math::{exp_nonpositive, ln};

/// The logprob of `chosen` and of the `top` best ids, best first, from raw `logits` (`[vocab]`, finite).
pub(super) fn logprobs(logits: &[f32], chosen: u32, top: u8, buffer: &mut Vec<(f32, u32)>) -> TokenLogprobs {
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
}
