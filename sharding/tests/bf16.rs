//! Matrices rounded to bf16: no further from f32 than Hugging Face's own bf16 run.

mod support;

use protocol::Dtype;
use support::checkpoint;
use support::golden::{Golden, argmax};
use support::run::{Setup, every_row};

/// `log softmax` of a row.
fn log_probabilities(row: &[f32]) -> Vec<f64> {
    let max = row.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = row.iter().map(|x| f64::from(x - max).exp()).sum();
    row.iter().map(|x| f64::from(x - max) - sum.ln()).collect()
}

#[test]
fn an_f32_checkpoint_held_in_bf16() {
    let model = "tiny-glm4-bias-f32-sharded";
    let golden = Golden::load(model);
    let case = &golden.text_cases()[0];
    let (expected, shape) = golden.tensor(&format!("{}/all_logits", case.name)).expect("all_logits");
    let setup = Setup { dtype: Dtype::Bf16, ..Setup::new(&checkpoint(model), 2) };
    let logits = setup.run(|lead| {
        let blocks = lead.blocks(0, case.prompt.len());
        lead.step(every_row(&case.prompt, &blocks))
    });
    let square = |x: f64| x * x;
    let pairs = || logits.rows.iter().zip(&expected);
    let distance: f64 = pairs().map(|(a, b)| square(f64::from(a - b))).sum();
    let rms = (distance / pairs().map(|(_, b)| square(f64::from(*b))).sum::<f64>()).sqrt();
    assert!(rms > 0.0, "rounding changes something");
    assert!(rms <= 2.0 * case.bf16_rms, "{rms:e}, the reference's own is {:e}", case.bf16_rms);

    let rows = || logits.iter().zip(expected.chunks_exact(shape[1]));
    let divergence = |(row, expected): (&[f32], &[f32])| -> f64 {
        let (p, q) = (log_probabilities(expected), log_probabilities(row));
        p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
    };
    let kl = rows().map(divergence).sum::<f64>() / shape[0] as f64;
    assert!(kl <= 3.0 * case.bf16_kl, "{kl:e}, the reference's own is {:e}", case.bf16_kl);

    let agree = rows().filter(|(row, expected)| argmax(row) == argmax(expected)).count();
    assert!(agree * 100 >= shape[0] * 85, "{agree} of {} best ids agree", shape[0]);
}
