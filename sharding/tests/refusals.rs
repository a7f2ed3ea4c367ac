//! What a rank refuses to load or to run, and that it goes on afterwards.

mod support;

use std::num::NonZeroUsize;

use candle_core::Tensor;
use kernels::Pool;
use protocol::step::{BlockCopy, StepPlan, StepSeq};
use protocol::{Dtype, Rank, ReductionTree, WorldSize};
use sharding::layers::{Glm4Text, Group, GroupError, LoadError, Sight, StepError, Unobserved};
use sharding::picture::{Grid, PromptPositions};
use support::checkpoint;
use support::group::ThreadGroup;
use support::run::{Setup, seq};

fn setup() -> Setup {
    Setup { kv_tokens: 64, ..Setup::new(&checkpoint("tiny-glm4"), 1) }
}

fn alone() -> ThreadGroup {
    ThreadGroup::group(WorldSize::ONE).remove(0)
}

fn step(seqs: Vec<StepSeq>) -> StepPlan {
    StepPlan { seqs, ..StepPlan::last(9) }
}

#[test]
fn bad_steps_are_refused_and_the_next_good_one_runs() {
    let mut model = setup().load(Rank(0));
    let mut group = alone();
    let good = step(vec![seq(3, 0, vec![1, 2, 3], &[2], true)]);
    let expected = model.step(&mut group, &good).expect("a step");
    let bad: [(StepSeq, &str); 5] = [
        (seq(3, 0, vec![1, 2048], &[0], true), "token 2048 of sequence 3: expected an id below 2048"),
        (seq(3, 0, vec![1; 17], &[0], true), "expected 2 KV blocks with numbers below 5, found [0]"),
        (seq(3, 16, vec![1], &[0], true), "expected 2 KV blocks with numbers below 5, found [0]"),
        (seq(3, 0, vec![1], &[5], true), "expected 1 KV blocks with numbers below 5, found [5]"),
        (seq(3, u32::MAX as usize, vec![1], &[0], true), "expected 268435456 KV blocks"),
    ];
    for (seq, words) in bad {
        let error = model.step(&mut group, &step(vec![seq])).expect_err(words).to_string();
        assert!(error.contains(words) && error.contains("step 9"), "{error}");
    }
    assert_eq!(model.step(&mut group, &good).expect("a step"), expected);
}

#[test]
fn pictures_that_do_not_fit_the_step_are_refused_and_text_goes_on() {
    let mut model = Setup { kv_tokens: 64, ..Setup::new(&checkpoint("tiny-glm4v"), 1) }.load(Rank(0));
    let token = model.vision().expect("it sees").spec().image_token_id;
    let prompt = vec![1, token, token, 2];
    let grid = Grid::new(2, 4, 2).expect("whole tokens");
    let positions = &PromptPositions::new(&prompt, token, &[grid]).expect("one picture of two tokens");
    let picture = |rows: usize, width: usize| {
        vec![Tensor::zeros((rows, width), candle_core::DType::F32, &candle_core::Device::Cpu).expect("a tensor")]
    };
    let mut run = |seqs: Vec<StepSeq>, sights: &[Sight<'_>]| {
        model.step_observed(&mut alone(), &step(seqs), sights, &mut Unobserved).map(drop).map_err(|e| e.to_string())
    };
    let whole = || vec![seq(3, 0, prompt.clone(), &[2], true)];
    for (rows, width, found) in [(1, 128, "[1, 128]"), (2, 64, "[2, 64]")] {
        let embeddings = &picture(rows, width)[..];
        let error = run(whole(), &[Sight { index: 0, positions, embeddings }]).expect_err("another shape");
        assert_eq!(error, format!("step 9: sequence 3: expected picture 0 as [2, 128], found {found}"));
    }
    let missing = run(whole(), &[Sight { index: 0, positions, embeddings: &[] }]).expect_err("no picture");
    assert!(missing.contains("expected picture 0 as [2, 128], found []"), "{missing}");
    let embeddings = &picture(2, 128)[..];
    let sight = |index| Sight { index, positions, embeddings };
    for sights in [&[sight(1)][..], &[sight(0), sight(0)]] {
        let error = run(whole(), sights).expect_err("not in the step");
        assert!(error.contains("expected places in ascending order below 1"), "{error}");
    }
    run(whole(), &[sight(0)]).expect("a picture that fits");
    let past = vec![seq(3, 4, vec![5], &[2], true)];
    run(past, &[Sight { index: 0, positions, embeddings: &[] }]).expect("past its pictures it needs none");
}

#[test]
fn copies_that_do_not_fit_are_refused_by_their_numbers() {
    let mut model = setup().load(Rank(0));
    let copies = |pairs: &[(u32, u32)]| {
        let copies = pairs.iter().map(|(from, to)| BlockCopy { from: *from, to: *to }).collect();
        StepPlan { copies, ..step(vec![seq(3, 0, vec![1, 2, 3], &[2], true)]) }
    };
    for pairs in [&[(0, 5)][..], &[(5, 0)], &[(0, 1), (3, 1)], &[(0, 1), (1, 3)], &[(1, 1)]] {
        let error = model.step(&mut alone(), &copies(pairs)).expect_err("refused").to_string();
        assert!(error.contains("step 9: copy of KV block") && error.contains("below 5"), "{pairs:?}: {error}");
    }
    model.step(&mut alone(), &copies(&[(0, 1), (0, 3)])).expect("two copies of one block");
}

#[test]
fn a_step_that_samples_nothing_gives_no_rows() {
    let mut model = setup().load(Rank(0));
    for seqs in [vec![], vec![seq(0, 0, vec![1, 2], &[0], false)]] {
        let logits = model.step(&mut alone(), &step(seqs)).expect("a step").expect("rank 0");
        assert!(logits.rows.is_empty());
    }
}

#[test]
fn a_group_of_another_size_is_refused() {
    let mut model = setup().load(Rank(0));
    let mut two = ThreadGroup::group(WorldSize::new(2).expect("in range"));
    for group in &mut two {
        let error = model.step(group, &step(vec![seq(0, 0, vec![1], &[0], true)])).expect_err("two ranks");
        assert!(matches!(error, StepError::WrongGroup { expected_world: 1, world: 2, .. }), "{error}");
    }
}

/// A group whose peer is gone.
struct Broken;

impl Group for Broken {
    fn rank(&self) -> Rank {
        Rank(0)
    }

    fn world_size(&self) -> WorldSize {
        WorldSize::ONE
    }

    fn all_reduce(&mut self, _: &ReductionTree, _: &[f32], _: &mut [f32]) -> Result<(), GroupError> {
        Err(GroupError::new("peer 1 is gone"))
    }

    fn all_gather(&mut self, _: &[usize], _: &[f32], out: &mut [f32]) -> Result<(), GroupError> {
        out.fill(0.5);
        Ok(())
    }
}

#[test]
fn a_broken_group_is_told_apart_from_a_bad_step() {
    let mut model = setup().load(Rank(0));
    let error = model.step(&mut Broken, &step(vec![seq(0, 0, vec![1], &[0], true)])).expect_err("broken");
    assert!(matches!(error, StepError::Group(_)) && error.to_string().contains("peer 1 is gone"), "{error}");
}

#[test]
fn plans_that_do_not_fit_are_refused_before_anything_is_read() {
    let setup = setup();
    let load = |plan: &protocol::Plan, rank| {
        let pool = Pool::new(NonZeroUsize::MIN).expect("no threads");
        let mut read = false;
        let error = Glm4Text::load(&setup.dir, &setup.spec, plan, rank, Dtype::F32, pool, &mut |_, _| read = true)
            .expect_err("refused");
        assert!(!read);
        error
    };
    let good = setup.plan();
    assert!(matches!(load(&good, Rank(1)), LoadError::NoSuchRank { rank: Rank(1), ranks: 1 }));
    let mut other = good.clone();
    other.ranks[0].cut.vocab_rows.end -= 1;
    assert!(matches!(load(&other, Rank(0)), LoadError::Cut(_)));
    let mut wide = good;
    wide.ranks[0].cut.mlp_cols.end = u32::MAX;
    assert!(matches!(load(&wide, Rank(0)), LoadError::Cut(_)));
}

#[test]
fn a_checkpoint_of_another_shape_is_refused() {
    let setup = Setup { dir: checkpoint("tiny-glm4v"), ..setup() };
    let load =
        || Glm4Text::load(&setup.dir, &setup.spec, &setup.plan(), Rank(0), Dtype::F32, Pool::inline(), &mut |_, _| ());
    let error = load().map(drop).expect_err("other names").to_string();
    assert!(error.contains("model.embed_tokens.weight") && error.contains("no such tensor"), "{error}");
}
