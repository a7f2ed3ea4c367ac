//! Norm, gate, rotary, embedding, sum and argmax.

use half::bf16;
use kernels::{EmbeddingTable, KernelError, Pool, RotaryStyle};
use kernels::{add, argmax, embed_rows, rms_norm, rotary, silu_mul, silu_mul_split};
use proptest::prelude::*;

use crate::{assert_close, bits, pools, sample, scalar};

fn norm(pool: &Pool, x: &[f32], weight: &[f32]) -> Vec<f32> {
    let mut y = vec![f32::NAN; x.len()];
    rms_norm(pool, x, weight, 1e-5, &mut y).expect("fits");
    y
}

fn gate(pool: &Pool, gate_up: &[f32], width: usize) -> Vec<f32> {
    let mut y = vec![f32::NAN; gate_up.len() / 2];
    silu_mul(pool, gate_up, width, &mut y).expect("fits");
    y
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn norms_give_the_same_bits_everywhere(seed: u64, tokens in 0_usize..6, width in 1_usize..100) {
        let (x, weight) = (sample(seed, tokens * width), sample(seed ^ 1, width));
        let expected: Vec<u32> = x.chunks_exact(width).flat_map(|x| bits(&norm(&scalar(), x, &weight))).collect();
        for pool in pools() {
            prop_assert_eq!(&bits(&norm(&pool, &x, &weight)), &expected, "{:?}", pool);
        }
    }

    #[test]
    fn gates_give_the_same_bits_everywhere(seed: u64, tokens in 0_usize..6, width in 1_usize..70, size in 0_i32..9) {
        let x: Vec<f32> = sample(seed, tokens * 2 * width).iter().map(|x| x * 2_f32.powi(size)).collect();
        let expected: Vec<u32> = x.chunks_exact(2 * width).flat_map(|x| bits(&gate(&scalar(), x, width))).collect();
        for pool in pools() {
            prop_assert_eq!(&bits(&gate(&pool, &x, width)), &expected, "{:?}", pool);
            let halves = |half: usize| x.chunks_exact(width).skip(half).step_by(2).flatten().copied().collect::<Vec<_>>();
            let mut y = vec![f32::NAN; tokens * width];
            silu_mul_split(&pool, &halves(0), &halves(1), &mut y).expect("fits");
            prop_assert_eq!(&bits(&y), &expected, "{:?}", pool);
        }
    }
}

#[test]
fn rows_enough_to_share_give_the_same_bits() {
    let (tokens, width) = (600, 2000);
    let (x, weight) = (sample(1, tokens * width), sample(2, width));
    let (normed, gated) = (bits(&norm(&scalar(), &x, &weight)), bits(&gate(&scalar(), &x, width / 2)));
    for pool in pools() {
        assert_eq!(bits(&norm(&pool, &x, &weight)), normed, "{pool:?}");
        assert_eq!(bits(&gate(&pool, &x, width / 2)), gated, "{pool:?}");
    }
}

#[test]
fn norm_and_gate_are_close_to_f64() {
    let (width, weight) = (4096, sample(2, 4096));
    let x: Vec<f32> = sample(1, 3 * width).iter().map(|x| x * 10.0).collect();
    let reference = x.chunks_exact(width).flat_map(|x| {
        let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / width as f64;
        let scale = 1.0 / (mean + 1e-5).sqrt();
        x.iter().zip(&weight).map(move |(x, w)| f64::from(*x) * scale * f64::from(*w)).collect::<Vec<_>>()
    });
    assert_close(&norm(&Pool::inline(), &x, &weight), &reference.collect::<Vec<_>>(), 3e-7);

    let reference = x.chunks_exact(2 * 64).flat_map(|x| {
        let (gates, ups) = x.split_at(64);
        let silu = |g: f64| g / (1.0 + (-g).exp());
        gates.iter().zip(ups).map(|(g, u)| silu(f64::from(*g)) * f64::from(*u)).collect::<Vec<_>>()
    });
    assert_close(&gate(&Pool::inline(), &x, 64), &reference.clone().collect::<Vec<_>>(), 5e-7);
}

#[test]
fn extreme_gates_stay_finite() {
    let y = gate(&Pool::inline(), &[-1e30, 1e30, -200.0, 0.0, 1.0, 1.0, 1.0, 1.0], 4);
    assert_eq!(y, [0.0, 1e30, 0.0, 0.0]);
    assert!(gate(&Pool::inline(), &[f32::NAN, 1.0], 1)[0].is_nan());
}

#[test]
fn rotary_turns_pairs_by_their_angle_and_leaves_the_rest() {
    let (tokens, heads, head_dim, rot) = (3, 2, 10, 6);
    let angles = sample(4, tokens * rot / 2);
    let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
    for style in [RotaryStyle::Interleaved, RotaryStyle::HalfSplit] {
        let x = sample(5, tokens * heads * head_dim);
        let mut y = x.clone();
        rotary(style, &mut y, (heads, head_dim, rot), &cos, &sin).expect("fits");
        let mut reference: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        for (i, head) in reference.chunks_exact_mut(head_dim).enumerate() {
            for p in 0..rot / 2 {
                let (sin, cos) = f64::from(angles[i / heads * rot / 2 + p]).sin_cos();
                let (a, b) = match style {
                    RotaryStyle::Interleaved => (2 * p, 2 * p + 1),
                    RotaryStyle::HalfSplit => (p, p + rot / 2),
                };
                (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
            }
        }
        assert_close(&y, &reference, 2e-7);
    }
}

#[test]
fn rotary_refuses_odd_or_too_many_dimensions_and_takes_none() {
    let style = RotaryStyle::Interleaved;
    let odd = rotary(style, &mut [0.0; 8], (1, 8, 3), &[0.0], &[0.0]);
    assert_eq!(odd, Err(KernelError::RotaryDims { rot: 3, head_dim: 8 }));
    assert!(matches!(rotary(style, &mut [0.0; 8], (1, 8, 10), &[], &[]), Err(KernelError::RotaryDims { .. })));
    let short = rotary(style, &mut [0.0; 16], (1, 8, 4), &[0.0; 2], &[0.0; 4]);
    let expected = KernelError::Shape { op: "rotary", operand: "cos", expected: vec![2, 2], found: vec![2] };
    assert_eq!(short, Err(expected));
    rotary(style, &mut [1.0; 8], (1, 8, 0), &[], &[]).expect("nothing turns");
    rotary(style, &mut [], (0, 8, 4), &[0.0; 2], &[0.0; 2]).expect("no heads");
}

#[test]
fn embedding_rows_of_other_ranks_are_zero() {
    let table: Vec<f32> = (0..6).map(|x| x as f32).collect();
    let halves: Vec<bf16> = table.iter().map(|x| bf16::from_f32(*x)).collect();
    for table in [EmbeddingTable::F32(&table), EmbeddingTable::Bf16(&halves)] {
        let mut y = [9.0; 10];
        embed_rows(table, 7, 2, &[8, 6, 7, 10, 9], &mut y).expect("fits");
        assert_eq!(y, [2.0, 3.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 4.0, 5.0]);
        assert!(matches!(embed_rows(table, 0, 4, &[], &mut []), Err(KernelError::Shape { operand: "table", .. })));
        assert!(matches!(embed_rows(table, 0, 2, &[1], &mut [0.0]), Err(KernelError::Shape { operand: "y", .. })));
    }
    embed_rows(EmbeddingTable::F32(&[]), 0, 0, &[1, 2], &mut []).expect("no width");
}

#[test]
fn sums_are_element_by_element() {
    let mut y = [0.0; 3];
    add(&[1.0, 2.0, 3.0], &[0.5, 0.25, -3.0], &mut y).expect("fits");
    assert_eq!(y, [1.5, 2.25, 0.0]);
    assert!(matches!(add(&[1.0], &[], &mut y), Err(KernelError::Shape { operand: "b", .. })));
}

#[test]
fn argmax_takes_the_lowest_of_equals() {
    assert_eq!(argmax(&[]), None);
    assert_eq!(argmax(&[f32::NAN]), None);
    assert_eq!(argmax(&[f32::NEG_INFINITY, f32::NEG_INFINITY]), Some(0));
    assert_eq!(argmax(&[f32::NAN, 1.0, f32::NAN, 1.0]), Some(1));
    assert_eq!(argmax(&[-0.0, 0.0]), Some(0));
    for n in [15, 16, 17, 100] {
        let mut x = sample(3, n);
        x[n - 1] = 2.0;
        assert_eq!(argmax(&x), Some(n - 1));
        x[n / 2] = 2.0;
        assert_eq!(argmax(&x), Some(n / 2));
    }
}

#[test]
fn norm_and_gate_refuse_what_does_not_fit() {
    let pool = Pool::inline();
    let x = rms_norm(&pool, &[0.0; 7], &[1.0; 3], 1e-5, &mut [0.0; 6]);
    let expected = KernelError::Shape { op: "rms_norm", operand: "x", expected: vec![2, 3], found: vec![7] };
    assert_eq!(x, Err(expected));
    rms_norm(&pool, &[], &[], 1e-5, &mut []).expect("no width");
    let gate = silu_mul(&pool, &[0.0; 7], 2, &mut [0.0; 4]);
    assert!(matches!(gate, Err(KernelError::Shape { operand: "gate_up", .. })));
    silu_mul(&pool, &[], 0, &mut []).expect("no width");
}
