//! Linear layers: one summation order, and the trees that ranks share.

use half::bf16;
use kernels::{KernelError, PackedLinear, Pool, SUM_TREE_DEPTH_MAX, SumTree, WeightType};
use proptest::prelude::*;

use crate::{assert_close, bits, pools, sample, scalar};

fn layer(seed: u64, out: usize, columns: usize, weight_type: WeightType) -> PackedLinear {
    let weights = sample(seed, out * columns);
    match weight_type {
        WeightType::F32 => PackedLinear::from_f32(out, columns, &weights).expect("fits"),
        WeightType::Bf16 => {
            let weights: Vec<bf16> = weights.into_iter().map(bf16::from_f32).collect();
            PackedLinear::from_bf16(out, columns, &weights).expect("fits")
        }
    }
}

fn forward(layer: &PackedLinear, pool: &Pool, x: &[f32], bias: Option<&[f32]>, tokens: usize) -> Vec<f32> {
    let mut y = vec![f32::NAN; tokens * layer.out_features()];
    layer.forward(pool, x, bias, &mut y).expect("fits");
    y
}

/// Each row alone on the scalar path: what every other way must reproduce.
fn row_by_row(layer: &PackedLinear, x: &[f32], bias: Option<&[f32]>, tokens: usize) -> Vec<f32> {
    let columns = layer.in_features();
    (0..tokens).flat_map(|t| forward(layer, &scalar(), &x[t * columns..][..columns], bias, 1)).collect()
}

/// The tree over atoms `lo..hi` of `width` columns each, split in the middle, as a group of ranks adds.
fn tree(lo: usize, hi: usize, width: usize, first: usize) -> SumTree {
    if hi - lo == 1 {
        return SumTree::Leaf { cols: (lo - first) * width..(hi - first) * width };
    }
    let mid = usize::midpoint(lo, hi);
    SumTree::node(tree(lo, mid, width, first), tree(mid, hi, width, first))
}

/// The maximal complete subtrees of the tree over `lo..hi` inside `run`.
fn subtrees(lo: usize, hi: usize, run: &std::ops::Range<usize>, out: &mut Vec<(usize, usize)>) {
    if lo >= run.start && hi <= run.end {
        out.push((lo, hi));
    } else if lo < run.end && run.start < hi && hi - lo > 1 {
        let mid = usize::midpoint(lo, hi);
        subtrees(lo, mid, run, out);
        subtrees(mid, hi, run, out);
    }
}

fn weight_type() -> impl Strategy<Value = WeightType> {
    prop_oneof![Just(WeightType::F32), Just(WeightType::Bf16)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_instruction_set_thread_count_and_batch_gives_the_same_bits(
        seed: u64, tokens in 0_usize..20, columns in 0_usize..70, out in 0_usize..150, with_bias: bool,
        weight_type in weight_type(),
    ) {
        let layer = layer(seed, out, columns, weight_type);
        let x = sample(seed ^ 1, tokens * columns);
        let bias = sample(seed ^ 2, out);
        let bias = with_bias.then_some(bias.as_slice());
        let expected = bits(&row_by_row(&layer, &x, bias, tokens));
        for pool in pools() {
            prop_assert_eq!(&bits(&forward(&layer, &pool, &x, bias, tokens)), &expected, "{:?}", pool);
        }
    }

    #[test]
    fn trees_cut_over_ranks_add_up_to_the_one_tree(
        seed: u64, tokens in 1_usize..9, width in 1_usize..40, atoms in 1_usize..9, out in 1_usize..40,
        cuts in prop::collection::vec(0_usize..9, 0..4),
    ) {
        let columns = atoms * width;
        let weights = sample(seed, out * columns);
        let x = sample(seed ^ 1, tokens * columns);
        let whole = PackedLinear::from_f32(out, columns, &weights).expect("fits");
        let mut expected = vec![0.0; tokens * out];
        whole.forward_trees(&scalar(), &x, &[tree(0, atoms, width, 0)], &mut expected).expect("fits");

        let mut ends: Vec<usize> = cuts.into_iter().map(|c| c % (atoms + 1)).chain([atoms]).collect();
        ends.sort_unstable();
        let mut sums = Vec::new();
        let mut start = 0;
        for end in ends {
            let run = start * width..end * width;
            let rank = PackedLinear::from_rows(out, run.len(), WeightType::F32, |row, to| {
                to.copy_from_slice(&weights[row * columns..][run.clone()]);
            });
            let x: Vec<f32> = x.chunks_exact(columns).flat_map(|x| x[run.clone()].to_vec()).collect();
            let mut owned = Vec::new();
            subtrees(0, atoms, &(start..end), &mut owned);
            let trees: Vec<SumTree> = owned.iter().map(|(lo, hi)| tree(*lo, *hi, width, start)).collect();
            let mut y = vec![f32::NAN; trees.len() * tokens * out];
            rank.forward_trees(&Pool::inline(), &x, &trees, &mut y).expect("fits");
            sums.extend(owned.into_iter().zip(y.chunks_exact(tokens * out).map(<[f32]>::to_vec)));
            start = end;
        }
        let total = fold(0, atoms, &sums);
        prop_assert_eq!(bits(&total), bits(&expected));
    }
}

fn fold(lo: usize, hi: usize, sums: &[((usize, usize), Vec<f32>)]) -> Vec<f32> {
    if let Some((_, sum)) = sums.iter().find(|(range, _)| *range == (lo, hi)) {
        return sum.clone();
    }
    let mid = usize::midpoint(lo, hi);
    let (left, right) = (fold(lo, mid, sums), fold(mid, hi, sums));
    left.iter().zip(right).map(|(l, r)| l + r).collect()
}

#[test]
fn work_large_enough_to_share_gives_the_same_bits() {
    // More rows than a chunk; more columns than a visit; a ragged last tile, last block and last group.
    for (tokens, columns, out) in [(200, 300, 90), (1, 1100, 1000), (7, 1030, 330), (6, 600, 431)] {
        for weight_type in [WeightType::F32, WeightType::Bf16] {
            let layer = layer(7, out, columns, weight_type);
            let x = sample(8, tokens * columns);
            let bias = sample(9, out);
            let expected = bits(&row_by_row(&layer, &x, Some(&bias), tokens));
            for pool in pools() {
                assert_eq!(bits(&forward(&layer, &pool, &x, Some(&bias), tokens)), expected, "{pool:?}");
            }
        }
    }
}

#[test]
fn large_trees_give_the_same_bits_everywhere() {
    let (tokens, width, out) = (50, 90, 120);
    let layer = layer(3, out, 8 * width, WeightType::Bf16);
    let x = sample(4, tokens * 8 * width);
    let trees = [tree(0, 8, width, 0), tree(3, 5, width, 0), SumTree::Leaf { cols: 5..5 }];
    let run = |pool: &Pool| {
        let mut y = vec![f32::NAN; trees.len() * tokens * out];
        layer.forward_trees(pool, &x, &trees, &mut y).expect("fits");
        bits(&y)
    };
    let expected = run(&scalar());
    assert!(expected[2 * tokens * out..].iter().all(|b| *b == 0), "an empty leaf is zero");
    for pool in pools() {
        assert_eq!(run(&pool), expected, "{pool:?}");
    }
}

#[test]
fn one_leaf_over_all_columns_is_the_plain_product() {
    let layer = layer(11, 37, 129, WeightType::F32);
    let x = sample(12, 9 * 129);
    let mut y = vec![0.0; 9 * 37];
    layer.forward_trees(&Pool::inline(), &x, &[SumTree::whole(129)], &mut y).expect("fits");
    assert_eq!(bits(&y), bits(&forward(&layer, &Pool::inline(), &x, None, 9)));
}

#[test]
fn products_are_close_to_f64() {
    for (weight_type, columns) in [(WeightType::F32, 4096), (WeightType::Bf16, 13696)] {
        let (tokens, out) = (3, 33);
        let layer = layer(21, out, columns, weight_type);
        let weights: Vec<f64> = sample(21, out * columns)
            .into_iter()
            .map(|w| match weight_type {
                WeightType::F32 => f64::from(w),
                WeightType::Bf16 => bf16::from_f32(w).to_f64(),
            })
            .collect();
        let x = sample(22, tokens * columns);
        let bias = sample(23, out);
        let reference: Vec<f64> = (0..tokens * out)
            .map(|i| {
                let (x, w) = (&x[i / out * columns..], &weights[i % out * columns..][..columns]);
                w.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum::<f64>() + f64::from(bias[i % out])
            })
            .collect();
        // An output is a sum of `columns` random terms, so of size √columns.
        let tolerance = 2e-6 * (columns as f64).sqrt();
        assert_close(&forward(&layer, &Pool::inline(), &x, Some(&bias), tokens), &reference, tolerance);
    }
}

#[test]
fn empty_sides_are_legal() {
    for (out, columns, tokens) in [(0, 5, 2), (5, 0, 2), (0, 0, 0), (5, 3, 0)] {
        let layer = PackedLinear::empty(out, columns);
        let bias = vec![1.5; out];
        let y = forward(&layer, &Pool::inline(), &vec![2.0; tokens * columns], Some(&bias), tokens);
        assert!(y.iter().all(|y| *y == 1.5));
        layer.forward_trees(&Pool::inline(), &vec![2.0; tokens * columns], &[], &mut []).expect("no tree, no output");
    }
    assert_eq!(PackedLinear::empty(0, 5).bytes(), 0);
}

#[test]
fn bytes_count_whole_tiles() {
    assert_eq!(layer(1, 17, 10, WeightType::F32).bytes(), 32 * 10 * 4);
    assert_eq!(layer(1, 16, 10, WeightType::Bf16).bytes(), 16 * 10 * 2);
}

#[test]
fn what_does_not_fit_is_refused_with_both_shapes() {
    let pool = Pool::inline();
    let wrong = PackedLinear::from_f32(2, 3, &[0.0; 5]).expect_err("5 of 6");
    let expected = KernelError::Shape { op: "linear", operand: "weights", expected: vec![2, 3], found: vec![5] };
    assert_eq!(wrong, expected);

    let layer = layer(1, 2, 3, WeightType::F32);
    assert!(matches!(
        layer.forward(&pool, &[0.0; 7], None, &mut [0.0; 4]),
        Err(KernelError::Shape { operand: "x", .. })
    ));
    assert!(matches!(
        layer.forward(&pool, &[0.0; 6], None, &mut [0.0; 5]),
        Err(KernelError::Shape { operand: "y", .. })
    ));
    let bias = layer.forward(&pool, &[0.0; 6], Some(&[0.0; 3]), &mut [0.0; 4]);
    assert!(matches!(bias, Err(KernelError::Shape { operand: "bias", .. })));

    let past = SumTree::Leaf { cols: 1..4 };
    let refused = layer.forward_trees(&pool, &[0.0; 3], &[past], &mut [0.0; 2]);
    assert_eq!(refused, Err(KernelError::Columns { cols: 1..4, in_features: 3 }));
    let deep = (0..=SUM_TREE_DEPTH_MAX).fold(SumTree::whole(3), |t, _| SumTree::node(t, SumTree::whole(3)));
    let refused = layer.forward_trees(&pool, &[0.0; 3], &[deep], &mut [0.0; 2]);
    assert_eq!(refused, Err(KernelError::TreeDepth { depth: SUM_TREE_DEPTH_MAX + 1, max: SUM_TREE_DEPTH_MAX }));
}
