//! What a vision tower needs: attention within a picture, layer norm, GELU, positions between the rows of a table.

use kernels::{KernelError, Pool, TablePlace, add_bicubic, gelu, layer_norm, picture_attention, silu_mul_split};
use proptest::prelude::*;

use crate::{assert_close, bits, pools, sample, scalar};

struct Picture {
    patches: usize,
    heads: usize,
    head_dim: usize,
    qkv: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Picture {
    fn new(seed: u64, patches: usize, heads: usize, head_dim: usize) -> Self {
        let angles = sample(seed ^ 1, patches * head_dim / 2);
        let (cos, sin) = angles.iter().map(|a| ((a * 3.0).cos(), (a * 3.0).sin())).unzip();
        let qkv = sample(seed, patches * 3 * heads * head_dim).iter().map(|x| x * 3.0).collect();
        Self { patches, heads, head_dim, qkv, cos, sin }
    }

    fn attend(&self, pool: &Pool) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.patches * self.heads * self.head_dim];
        let heads = (self.heads, self.head_dim);
        picture_attention(pool, &self.qkv, heads, (&self.cos, &self.sin), 0.3, &mut out).expect("fits");
        out
    }

    /// The plainest way, in f64.
    fn reference(&self) -> Vec<f64> {
        let (dim, half) = (self.head_dim, self.head_dim / 2);
        let row = |patch: usize, which: usize, head: usize| {
            let row = &self.qkv[((3 * patch + which) * self.heads + head) * dim..][..dim];
            row.iter().map(|x| f64::from(*x)).collect::<Vec<_>>()
        };
        let turned = |patch: usize, which: usize, head: usize| {
            let x = row(patch, which, head);
            let angle = |i: usize| (f64::from(self.cos[patch * half + i]), f64::from(self.sin[patch * half + i]));
            let low = (0..half).map(|i| x[i] * angle(i).0 - x[half + i] * angle(i).1);
            let high = (0..half).map(|i| x[half + i] * angle(i).0 + x[i] * angle(i).1);
            low.chain(high).collect::<Vec<_>>()
        };
        let mut out = Vec::new();
        for patch in 0..self.patches {
            for head in 0..self.heads {
                let q = turned(patch, 0, head);
                let score =
                    |p: usize| turned(p, 1, head).iter().zip(&q).map(|(k, q)| k * q).sum::<f64>() * f64::from(0.3_f32);
                let scores: Vec<f64> = (0..self.patches).map(score).collect();
                let largest = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
                let total: f64 = weights.iter().sum();
                out.extend(
                    (0..dim).map(|d| (0..self.patches).map(|p| weights[p] * row(p, 2, head)[d]).sum::<f64>() / total),
                );
            }
        }
        out
    }
}

#[test]
fn every_patch_attends_to_every_patch() {
    for (patches, heads, head_dim) in [(1, 1, 2), (4, 2, 16), (16, 3, 8), (60, 4, 20), (113, 2, 34)] {
        let picture = Picture::new(7, patches, heads, head_dim);
        assert_close(&picture.attend(&Pool::inline()), &picture.reference(), 1e-5);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn pictures_give_the_same_bits_everywhere(seed: u64, patches in 1_usize..140, heads in 1_usize..4, half in 1_usize..20) {
        let picture = Picture::new(seed, patches, heads, 2 * half);
        let expected = bits(&picture.attend(&scalar()));
        for pool in pools() {
            prop_assert_eq!(&bits(&picture.attend(&pool)), &expected, "{:?}", pool);
        }
    }
}

#[test]
fn a_picture_large_enough_to_share_gives_the_same_bits() {
    let picture = Picture::new(3, 500, 2, 32);
    let expected = bits(&picture.attend(&scalar()));
    for pool in pools() {
        assert_eq!(bits(&picture.attend(&pool)), expected, "{pool:?}");
    }
}

#[test]
fn a_patch_does_not_depend_on_where_it_stands_among_the_queries() {
    // The same query under the same angle at two places, in another group of rows and another register block.
    let mut picture = Picture::new(5, 130, 1, 16);
    let (from, to) = (3, 127);
    let query = picture.qkv[3 * from * 16..][..16].to_vec();
    picture.qkv[3 * to * 16..][..16].copy_from_slice(&query);
    for angles in [&mut picture.cos, &mut picture.sin] {
        let own = angles[from * 8..][..8].to_vec();
        angles[to * 8..][..8].copy_from_slice(&own);
    }
    let out = picture.attend(&Pool::inline());
    assert_eq!(bits(&out[from * 16..][..16]), bits(&out[to * 16..][..16]));
}

#[test]
fn attention_refuses_what_does_not_fit() {
    let pool = Pool::inline();
    let call = |qkv: usize, head_dim: usize, angles: usize, out: usize| {
        let (qkv, angles) = (vec![0.0; qkv], vec![0.0; angles]);
        picture_attention(&pool, &qkv, (2, head_dim), (&angles, &angles), 1.0, &mut vec![0.0; out])
    };
    assert_eq!(call(0, 3, 0, 0), Err(KernelError::RotaryDims { rot: 3, head_dim: 3 }));
    let expected =
        KernelError::Shape { op: "picture_attention", operand: "qkv", expected: vec![2, 3, 2, 4], found: vec![47] };
    assert_eq!(call(47, 4, 4, 16), Err(expected));
    assert!(matches!(call(48, 4, 3, 16), Err(KernelError::Shape { operand: "cos", .. })));
    assert!(matches!(call(48, 4, 4, 15), Err(KernelError::Shape { operand: "out", .. })));
    call(0, 4, 0, 0).expect("no patches");
    call(0, 0, 0, 0).expect("no width");
}

fn normed(pool: &Pool, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let mut y = vec![f32::NAN; x.len()];
    layer_norm(pool, x, (weight, bias), 1e-5, &mut y).expect("fits");
    y
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn layer_norms_are_close_to_f64_and_the_same_bits_everywhere(
        seed: u64,
        tokens in 0_usize..5,
        width in 1_usize..100,
        offset in prop::sample::select(vec![0.0_f32, 100.0]),
    ) {
        let x: Vec<f32> = sample(seed, tokens * width).iter().map(|x| x + offset).collect();
        let (weight, bias) = (sample(seed ^ 1, width), sample(seed ^ 2, width));
        let expected = normed(&scalar(), &x, &weight, &bias);
        for pool in pools() {
            prop_assert_eq!(bits(&normed(&pool, &x, &weight, &bias)), bits(&expected), "{:?}", pool);
        }
        let reference = x.chunks_exact(width).flat_map(|x| {
            let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / width as f64;
            let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / width as f64;
            let scale = 1.0 / (variance + f64::from(1e-5_f32)).sqrt();
            let y = x.iter().zip(&weight).zip(&bias);
            y.map(move |((x, w), b)| (f64::from(*x) - mean) * scale * f64::from(*w) + f64::from(*b)).collect::<Vec<_>>()
        });
        // A mean of 100 leaves an f32 deviation 17 bits of its own, and a row of equal values is all rounding.
        let tolerance = if offset == 0.0 { 2e-6 } else if width < 8 { 1e-2 } else { 1e-4 };
        assert_close(&expected, &reference.collect::<Vec<_>>(), tolerance);
    }
}

#[test]
fn layer_norm_refuses_what_does_not_fit() {
    let pool = Pool::inline();
    let bias = layer_norm(&pool, &[0.0; 6], (&[1.0; 3], &[0.0; 2]), 1e-5, &mut [0.0; 6]);
    assert!(matches!(bias, Err(KernelError::Shape { operand: "bias", .. })));
    let x = layer_norm(&pool, &[0.0; 7], (&[1.0; 3], &[0.0; 3]), 1e-5, &mut [0.0; 6]);
    assert!(matches!(x, Err(KernelError::Shape { operand: "x", .. })));
    layer_norm(&pool, &[], (&[], &[]), 1e-5, &mut []).expect("no width");
}

fn gelu_of(pool: &Pool, x: &[f32]) -> Vec<f32> {
    let mut y = vec![f32::NAN; x.len()];
    gelu(pool, x, &mut y).expect("fits");
    y
}

#[test]
fn gelu_is_the_exact_one_and_not_its_approximation() {
    // x · Φ(x), Φ from tables of the normal distribution.
    let table =
        [(0.0, 0.5), (0.5, 0.691_462_461_3), (1.0, 0.841_344_746_1), (2.0, 0.977_249_868_1), (3.0, 0.998_650_102_0)];
    let x: Vec<f32> = table.iter().flat_map(|(x, _)| [*x, -*x]).collect();
    let reference: Vec<f64> = table.iter().flat_map(|(x, p)| [f64::from(*x) * p, -f64::from(*x) * (1.0 - p)]).collect();
    assert_close(&gelu_of(&Pool::inline(), &x), &reference, 1e-7);
    let ends = gelu_of(&Pool::inline(), &[1e30, -1e30, f32::INFINITY, f32::NAN, -40.0]);
    assert_eq!(ends[..3], [1e30, 0.0, f32::INFINITY]);
    assert!(ends[3].is_nan() && ends[4] == 0.0);
    assert!(matches!(gelu(&Pool::inline(), &[1.0], &mut []), Err(KernelError::Shape { operand: "y", .. })));
}

#[test]
fn gates_and_gelus_enough_to_share_give_the_same_bits() {
    let x: Vec<f32> = sample(1, 80_003).iter().map(|x| x * 6.0).collect();
    let up = sample(2, x.len());
    let gate = |pool: &Pool| {
        let mut y = vec![f32::NAN; x.len()];
        silu_mul_split(pool, &x, &up, &mut y).expect("fits");
        bits(&y)
    };
    let expected = (bits(&gelu_of(&scalar(), &x)), gate(&scalar()));
    for pool in pools() {
        assert!((bits(&gelu_of(&pool, &x)), gate(&pool)) == expected, "{pool:?}");
    }
}

/// A table whose cells hold `f(row, column)` and its negative.
fn table(side: usize, f: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    let cells = (0..side).flat_map(|r| (0..side).map(move |c| (r as f32, c as f32)));
    cells.flat_map(|(r, c)| [f(r, c), -f(r, c)]).collect()
}

#[test]
fn a_place_on_a_cell_is_that_cell_and_one_between_follows_the_kernel() {
    let side = 6;
    let plane = table(side, |r, c| 10.0 * r - 3.0 * c + 1.0);
    let mut places = Vec::new();
    for (r, c) in [(0.0, 0.0), (5.0, 5.0), (2.0, 3.0), (2.25, 2.5), (1.75, 3.0)] {
        places.push(TablePlace { row: r, column: c });
    }
    let mut y = vec![f32::NAN; 2 * places.len()];
    let x = vec![1.0; y.len()];
    add_bicubic(&Pool::inline(), (&plane, side), &places, &x, &mut y).expect("fits");
    // Keys' kernel with a = −0.75 is exact on cells; between them it bends a plane by its odd part, so that 2.25 reads
    // as 2 + w with w the first moment of the four weights at t = 0.25.
    let moment = |t: f64| {
        let a = -0.75;
        let inner = |x: f64| ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
        let outer = |x: f64| ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a;
        -outer(1.0 + t) + inner(1.0 - t) + 2.0 * outer(2.0 - t)
    };
    let value = |r: f64, c: f64| {
        let at = |x: f64| x.floor() + moment(x - x.floor());
        10.0 * at(r) - 3.0 * at(c) + 1.0
    };
    let reference: Vec<f64> =
        places.iter().map(|p| value(f64::from(p.row), f64::from(p.column))).flat_map(|v| [1.0 + v, 1.0 - v]).collect();
    assert_close(&y, &reference, 1e-6);
}

#[test]
fn beyond_the_table_lies_its_edge() {
    let side = 4;
    let cells = table(side, |r, c| r * r + 7.0 * c);
    let read = |row: f32, column: f32| {
        let mut y = [f32::NAN; 2];
        add_bicubic(&Pool::inline(), (&cells, side), &[TablePlace { row, column }], &[0.0; 2], &mut y).expect("fits");
        y[0]
    };
    // All four taps of a row are the edge, and the weights add up to 1.
    for far in [-3.0, -1e30] {
        assert_eq!(read(far, 0.0), read(0.0, 0.0), "{far}");
    }
    assert_eq!(read(1e30, 3.0), read(3.0, 3.0));
    // At -0.25 the taps are cells 0, 0, 0 and 1.
    let a = -0.75_f64;
    let weight = ((a * 1.25 - 5.0 * a) * 1.25 + 8.0 * a) * 1.25 - 4.0 * a;
    assert!((f64::from(read(-0.25, 0.0)) - weight).abs() < 1e-6);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn table_rows_give_the_same_bits_everywhere(seed: u64, side in 1_usize..6, width in 1_usize..40, count in 0_usize..30) {
        let cells = sample(seed, side * side * width);
        let at = sample(seed ^ 1, 2 * count);
        let place = |p: &[f32; 2]| TablePlace { row: p[0] * 8.0, column: p[1] * 8.0 };
        let places: Vec<_> = at.as_chunks::<2>().0.iter().map(place).collect();
        let x = sample(seed ^ 2, count * width);
        let run = |pool: &Pool| {
            let mut y = vec![f32::NAN; x.len()];
            add_bicubic(pool, (&cells, side), &places, &x, &mut y).expect("fits");
            bits(&y)
        };
        let expected = run(&scalar());
        for pool in pools() {
            prop_assert_eq!(&run(&pool), &expected, "{:?}", pool);
        }
    }
}

#[test]
fn tables_refuse_what_does_not_fit() {
    let pool = Pool::inline();
    let places = [TablePlace { row: 0.0, column: 0.0 }];
    let square = add_bicubic(&pool, (&[0.0; 7], 2), &places, &[0.0], &mut [0.0]);
    assert!(matches!(square, Err(KernelError::Shape { operand: "table", .. })));
    let x = add_bicubic(&pool, (&[0.0; 8], 2), &places, &[0.0; 3], &mut [0.0; 2]);
    assert!(matches!(x, Err(KernelError::Shape { operand: "x", .. })));
    add_bicubic(&pool, (&[], 0), &places, &[], &mut []).expect("no table");
}
