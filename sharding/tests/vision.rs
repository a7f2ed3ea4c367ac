//! The vision tower and prompts with pictures against Hugging Face's, at several world sizes, threads and chunkings.

mod support;

use std::collections::HashMap;

use candle_core::Tensor;
use protocol::{Rank, SeqId};
use sharding::layers::{Point, VisionError, VisionTap, VisionTower};
use sharding::picture::{Grid, PromptPositions};
use support::checkpoint;
use support::golden::{Case, Golden, max_abs, relative};
use support::pictures::{Pictures, pixel_spec, prepared};
use support::run::{Answer, Greedy, Lead, Look, Setup, every_row};

const MODEL: &str = "tiny-glm4v";
/// Bounds of `tests/fixtures/README.md`.
const LOGITS: f64 = 5e-4;
const VALUES: f64 = 3e-5;

fn setup(world: u16) -> Setup {
    Setup::new(&checkpoint(MODEL), world)
}

/// The tower's input for each picture of a case.
fn inputs(case: &Case) -> Vec<(Vec<f32>, Grid)> {
    let (pictures, spec) = (Pictures::load(), pixel_spec(MODEL));
    let inputs: Vec<_> = case.images.iter().map(|file| prepared(pictures.decoded(file), &spec)).collect();
    let grids: Vec<_> = inputs.iter().map(|(_, grid)| (grid.rows(), grid.columns())).collect();
    assert_eq!(grids, case.grids, "{}", case.name);
    inputs
}

fn encode(tower: &VisionTower, (pixels, grid): (Vec<f32>, Grid)) -> Tensor {
    let mut encoding = tower.begin(pixels, grid).expect("fits");
    while tower.advance(&mut encoding, 1).expect("a block") > 0 {}
    tower.finish(encoding).expect("all blocks ran")
}

/// What sequence `seq` sees when its prompt is that of `case`.
fn look(tower: &VisionTower, seq: usize, case: &Case) -> Look {
    let inputs = inputs(case);
    let grids: Vec<Grid> = inputs.iter().map(|(_, grid)| *grid).collect();
    let positions = PromptPositions::new(&case.prompt, tower.spec().image_token_id, &grids).expect("they match");
    let embeddings = inputs.into_iter().map(|input| encode(tower, input)).collect();
    Look { seq: SeqId(seq as u64), positions, embeddings }
}

fn looks(lead: &Lead, cases: &[Case]) -> Vec<Look> {
    let tower = lead.model().vision().expect("it sees");
    cases.iter().enumerate().map(|(i, case)| look(tower, i, case)).collect()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    floats(tensor).into_iter().map(f32::to_bits).collect()
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().and_then(|t| t.to_vec1()).expect("f32")
}

#[test]
fn every_value_inside_the_tower() {
    let golden = Golden::load(MODEL);
    let case = golden.cases().into_iter().find(|c| c.name == "img1").expect("the detailed case");
    let model = setup(1).load(Rank(0));
    let mut seen = HashMap::new();
    let mut see = |point: Point, value: &Tensor| {
        let Point::Vision(tap) = point else { panic!("{point:?} inside the tower") };
        assert!(seen.insert(name_of(tap), floats(value)).is_none(), "{tap:?} twice");
    };
    let (pixels, grid) = inputs(&case).remove(0);
    model.vision().expect("it sees").encode_observed(pixels, grid, &mut see).expect("encoded");
    let mut compared = 0;
    for (name, value) in seen {
        let Some((expected, _)) = golden.tensor(&format!("img1/tap/visual.{name}")) else { continue };
        let distance = relative(&value, &expected);
        eprintln!("| {name} | {distance:.1e} |");
        assert!(distance <= VALUES, "{name}: {distance:e}");
        compared += 1;
    }
    // Eight values outside of the blocks, three blocks, five values inside the first.
    assert_eq!(compared, 8 + 3 + 5, "a value that was not compared");
}

fn name_of(tap: VisionTap) -> String {
    match tap {
        VisionTap::PatchEmbed => "patch_embed".to_owned(),
        VisionTap::PostConvNorm => "post_conv_layernorm".to_owned(),
        VisionTap::Embeddings => "embeddings".to_owned(),
        VisionTap::AttentionNorm(i) => format!("blocks.{i}.norm1"),
        VisionTap::QueryKeyValue(i) => format!("blocks.{i}.attn.qkv"),
        VisionTap::Attention(i) => format!("blocks.{i}.attn"),
        VisionTap::MlpNorm(i) => format!("blocks.{i}.norm2"),
        VisionTap::Mlp(i) => format!("blocks.{i}.mlp"),
        VisionTap::Block(i) => format!("blocks.{i}"),
        VisionTap::PostNorm => "post_layernorm".to_owned(),
        VisionTap::Downsample => "downsample".to_owned(),
        VisionTap::MergerProjection => "merger.proj".to_owned(),
        VisionTap::MergerNorm => "merger.post_projection_norm".to_owned(),
        VisionTap::Merger => "merger".to_owned(),
    }
}

/// Greedy answers to every case, in one batch; `chunk` prompt tokens a step.
fn answers(setup: &Setup, cases: &[Case], chunk: usize) -> Vec<Answer> {
    let prompts: Vec<_> = cases.iter().map(|c| c.prompt.clone()).collect();
    let stop = Golden::load(MODEL).stop_ids();
    setup.run(|lead| {
        lead.looks = looks(lead, cases);
        lead.greedy(&prompts, &Greedy { chunk, ..Greedy::new(48, &stop) })
    })
}

#[test]
fn logits_and_every_greedy_token_with_pictures_at_1_2_3_4() {
    let golden = Golden::load(MODEL);
    let cases = golden.cases();
    let alone = answers(&setup(1), &cases, usize::MAX / 2);
    for world in [1, 2, 3, 4] {
        let answers = answers(&setup(world), &cases, usize::MAX / 2);
        let mut worst = 0.0f64;
        for ((case, answer), alone) in cases.iter().zip(&answers).zip(&alone) {
            let (expected, _) = golden.tensor(&format!("{}/last_logits", case.name)).expect("last_logits");
            let distance = max_abs(&answer.logits[0], &expected);
            let bound = if case.images.is_empty() { 1.5e-4 } else { LOGITS };
            assert!(distance <= bound, "TP {world} {}: {distance:e}", case.name);
            assert_eq!(answer.ids, case.greedy, "TP {world} {}", case.name);
            assert!(answer.bits() == alone.bits(), "TP {world} {}: other bits", case.name);
            worst = worst.max(distance);
        }
        let tokens: usize = answers.iter().map(|a| a.ids.len()).sum();
        eprintln!("| {MODEL}, {} cases | TP {world} | {worst:.2e} | {tokens} of {tokens} | same bits |", cases.len());
    }
}

#[test]
fn hidden_states_of_a_prompt_with_a_picture() {
    let golden = Golden::load(MODEL);
    let case = golden.cases().into_iter().find(|c| c.name == "img1").expect("the detailed case");
    setup(1).run(|lead| {
        lead.looks = looks(lead, std::slice::from_ref(&case));
        let blocks = lead.blocks(0, case.prompt.len());
        let mut seen = HashMap::new();
        let mut see = |point: Point, value: &Tensor| {
            if let Point::Hidden(i) = point {
                seen.insert(format!("hidden/{i}"), floats(value));
            } else if point == Point::Norm {
                seen.insert("hidden/4".to_owned(), floats(value));
            }
        };
        let logits = lead.step_observed(every_row(&case.prompt, &blocks), &mut see);
        let best: Vec<u32> = logits.iter().map(support::golden::argmax).collect();
        assert_eq!(best, case.prompt_argmax);
        for (name, value) in seen {
            let (expected, _) = golden.tensor(&format!("img1/{name}")).expect("hidden states");
            let distance = relative(&value, &expected);
            assert!(distance <= VALUES, "{name}: {distance:e}");
        }
    });
}

#[test]
fn a_prompt_cut_inside_a_picture_gives_the_same_bits() {
    let cases: Vec<Case> = Golden::load(MODEL).cases().into_iter().filter(|c| !c.images.is_empty()).collect();
    let whole = answers(&setup(1), &cases, usize::MAX / 2);
    for (world, chunk) in [(1, 1), (2, 5), (1, 16), (1, 17)] {
        let chunked = answers(&setup(world), &cases, chunk);
        let same = chunked.iter().zip(&whole).all(|(a, b)| a.ids == b.ids && a.bits() == b.bits());
        assert!(same, "TP {world} in chunks of {chunk}: other bits");
    }
}

#[test]
fn any_rank_with_any_threads_gives_the_same_embeddings() {
    let cases = Golden::load(MODEL).cases();
    let all: Vec<(Vec<f32>, Grid)> = cases.iter().flat_map(inputs).collect();
    let alone = setup(1).load(Rank(0));
    let expected: Vec<_> =
        all.iter().map(|input| bits(&encode(alone.vision().expect("it sees"), input.clone()))).collect();
    for (world, threads) in [(1, 3), (2, 1), (3, 2), (4, 1)] {
        let setup = Setup { threads, ..setup(world) };
        for rank in setup.world().ranks() {
            let model = setup.load(rank);
            for (input, expected) in all.iter().zip(&expected) {
                let found = bits(&encode(model.vision().expect("it sees"), input.clone()));
                assert!(found == *expected, "TP {world} rank {rank}, {threads} threads: other bits");
            }
        }
    }
}

#[test]
fn pictures_may_take_turns_block_by_block() {
    let case = Golden::load(MODEL).cases().into_iter().find(|c| c.images.len() == 2).expect("two pictures");
    let model = setup(1).load(Rank(0));
    let tower = model.vision().expect("it sees");
    let inputs = inputs(&case);
    let expected: Vec<_> = inputs.iter().map(|input| bits(&encode(tower, input.clone()))).collect();
    let mut open: Vec<_> = inputs.into_iter().map(|(pixels, grid)| tower.begin(pixels, grid).expect("fits")).collect();
    for left in [2, 1, 0] {
        for encoding in open.iter_mut().rev() {
            assert_eq!(tower.advance(encoding, 1).expect("a block"), left);
        }
    }
    let found: Vec<_> = open.into_iter().map(|encoding| bits(&tower.finish(encoding).expect("done"))).collect();
    assert!(found == expected, "other bits");
}

#[test]
fn what_a_tower_refuses() {
    let model = setup(1).load(Rank(0));
    let tower = model.vision().expect("it sees");
    let grid = Grid::new(2, 4, 2).expect("whole tokens");
    let short = tower.begin(vec![0.0; 8 * 1176 - 1], grid).map(drop).expect_err("short");
    assert!(matches!(short, VisionError::Pixels { expected: 9408, found: 9407, .. }), "{short}");
    let coarse = Grid::new(4, 4, 4).expect("whole tokens");
    let merge = tower.begin(vec![0.0; 16 * 1176], coarse).map(drop).expect_err("another merge");
    assert!(matches!(merge, VisionError::Merge { expected: 2, found: 4 }), "{merge}");
    let mut encoding = tower.begin(vec![0.0; 8 * 1176], grid).expect("fits");
    assert_eq!(tower.advance(&mut encoding, 2).expect("two blocks"), 1);
    let early = tower.finish(encoding).map(drop).expect_err("a block to go");
    assert!(matches!(early, VisionError::Unfinished { remaining: 1 }), "{early}");
}
