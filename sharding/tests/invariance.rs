//! A sequence's logits have the same bits alone and in a batch, whole and chunked, in one thread and in several.

mod support;

use support::golden::Golden;
use support::run::{Answer, Greedy, Setup};
use support::{TINY, checkpoint};

/// Tokens of each answer that are compared.
const TOKENS: usize = 12;

fn prompts(golden: &Golden) -> Vec<Vec<u32>> {
    golden.text_cases().into_iter().map(|c| c.prompt).collect()
}

/// One answer after the other, whole prompts.
fn alone(setup: &Setup, prompts: &[Vec<u32>]) -> Vec<Answer> {
    let run = Greedy::new(TOKENS, &[]);
    setup.run(|lead| prompts.iter().flat_map(|p| lead.greedy(std::slice::from_ref(p), &run)).collect())
}

fn assert_same_bits(left: &[Answer], right: &[Answer], what: &str) {
    assert_eq!(left.len(), right.len());
    for (i, (a, b)) in left.iter().zip(right).enumerate() {
        assert!(a.ids == b.ids && a.bits() == b.bits(), "{what}: sequence {i} has other bits");
    }
}

#[test]
fn alone_and_in_a_batch_of_many() {
    for model in TINY {
        let setup = Setup::new(&checkpoint(model), 2);
        let prompts = prompts(&Golden::load(model));
        let many: Vec<_> = prompts.iter().cycle().take(32).cloned().collect();
        let batch = setup.run(|lead| lead.greedy(&many, &Greedy::new(TOKENS, &[])));
        let alone = alone(&setup, &prompts);
        let expected: Vec<_> = alone.iter().cycle().take(32).cloned().collect();
        assert_same_bits(&batch, &expected, model);
    }
}

#[test]
fn whole_and_chunked() {
    for model in TINY {
        let setup = Setup::new(&checkpoint(model), 1);
        let prompts = prompts(&Golden::load(model));
        let whole = alone(&setup, &prompts);
        for chunk in [1, 5, 16, 17] {
            let chunked = setup.run(|lead| lead.greedy(&prompts, &Greedy { chunk, ..Greedy::new(TOKENS, &[]) }));
            assert_same_bits(&chunked, &whole, &format!("{model} in chunks of {chunk}"));
        }
    }
}

#[test]
fn one_thread_and_several() {
    for model in TINY {
        let prompts = prompts(&Golden::load(model));
        let many: Vec<_> = prompts.iter().cycle().take(12).cloned().collect();
        let run = |threads| {
            let setup = Setup { threads, ..Setup::new(&checkpoint(model), 1) };
            setup.run(|lead| lead.greedy(&many, &Greedy::new(TOKENS, &[])))
        };
        assert_same_bits(&run(3), &run(1), model);
    }
}
