//! Any world size and any cut gives the bits of one rank: logits of the prompt and of every greedy token, and every
//! value inside the model that is whole on a rank.

mod support;

use sharding::layers::{Point, Tap};
use support::golden::{Golden, max_abs};
use support::run::{Answer, Greedy, Setup, seq};
use support::{TINY, checkpoint};

/// Greedy answers to every text case, in one batch.
fn answers(setup: &Setup, golden: &Golden) -> Vec<Answer> {
    let prompts: Vec<_> = golden.text_cases().into_iter().map(|c| c.prompt).collect();
    let stop = golden.stop_ids();
    setup.run(|lead| lead.greedy(&prompts, &Greedy::new(48, &stop)))
}

/// Runs one model at every world size. `--nocapture` shows the table.
fn every_world_size(model: &str) {
    let golden = Golden::load(model);
    let dir = checkpoint(model);
    let cases = golden.text_cases();
    let alone = answers(&Setup::new(&dir, 1), &golden);
    for world in [1, 2, 3, 4, 8] {
        let answers = answers(&Setup::new(&dir, world), &golden);
        let mut worst = 0.0f64;
        for ((case, answer), alone) in cases.iter().zip(&answers).zip(&alone) {
            let (expected, _) = golden.tensor(&format!("{}/last_logits", case.name)).expect("last_logits");
            worst = worst.max(max_abs(&answer.logits[0], &expected));
            assert_eq!(answer.ids, case.greedy, "{model} TP {world} {}", case.name);
            assert!(answer.bits() == alone.bits(), "{model} TP {world} {}: other bits", case.name);
        }
        assert!(worst <= 1.5e-4, "{model} TP {world}: {worst:e}");
        let tokens: usize = answers.iter().map(|a| a.ids.len()).sum();
        eprintln!("| {model} | {world} | {worst:.2e} | {tokens} of {tokens} | yes |");
    }
}

#[test]
fn tiny_glm4_at_1_2_3_4_8() {
    every_world_size(TINY[0]);
}

#[test]
fn tiny_glm4_bias_f32_sharded_at_1_2_3_4_8() {
    every_world_size(TINY[1]);
}

#[test]
fn tiny_glm4v_at_1_2_3_4_8() {
    every_world_size(TINY[2]);
}

#[test]
fn uneven_cuts_and_ranks_without_work() {
    let golden = Golden::load(TINY[1]);
    let dir = checkpoint(TINY[1]);
    let alone = answers(&Setup::new(&dir, 1), &golden);
    for shares in [vec![3, 1], vec![1, 0, 2], vec![5, 1, 1], vec![1; 11], vec![0, 7]] {
        let setup = Setup { shares: shares.clone(), ..Setup::new(&dir, 1) };
        let cut = answers(&setup, &golden);
        let same = cut.iter().zip(&alone).all(|(a, b)| a.bits() == b.bits());
        assert!(same, "{shares:?}: other bits");
    }
}

#[test]
fn every_whole_value_inside_the_model() {
    for model in TINY {
        let prompt = Golden::load(model).text_cases()[1].prompt.clone();
        let values = |world| {
            Setup::new(&checkpoint(model), world).run(|lead| {
                let blocks = lead.blocks(0, prompt.len());
                let mut seen: Vec<(Point, Vec<u32>)> = Vec::new();
                let mut see = |point: Point, value: &candle_core::Tensor| {
                    use Tap::{Key, KeyRotated, Query, QueryRotated, Value};
                    if !matches!(point, Point::Layer(_, Query | Key | Value | QueryRotated | KeyRotated)) {
                        let flat = value.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("f32");
                        seen.push((point, flat.into_iter().map(f32::to_bits).collect()));
                    }
                };
                lead.step_observed(vec![seq(0, 0, prompt.clone(), &blocks, true)], &mut see);
                seen
            })
        };
        let alone = values(1);
        for world in [2, 3, 8] {
            for ((point, bits), (same_point, expected)) in values(world).into_iter().zip(&alone) {
                assert_eq!(point, *same_point);
                assert!(bits == *expected, "{model} TP {world} {point:?}: other bits");
            }
        }
    }
}
