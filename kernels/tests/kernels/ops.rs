//! The candle ops give the bits of the kernels they wrap, and refuse what does not fit.

use std::sync::Mutex;

use candle_core::{DType, Device, Tensor};
use half::bf16;
use kernels::{AttnSeq, KvLayer, PackedLinear, Pool, RotaryStyle, SumTree, ops};

use crate::{bits, sample};

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).expect("fits")
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().and_then(|t| t.to_vec1()).expect("f32")
}

#[test]
fn linear_is_the_kernel() {
    let (pool, weights, x, bias) = (Pool::inline(), sample(1, 5 * 6), sample(2, 3 * 6), sample(3, 5));
    let layer = PackedLinear::from_f32(5, 6, &weights).expect("fits");
    let mut y = vec![0.0; 15];
    layer.forward(&pool, &x, Some(&bias), &mut y).expect("fits");
    let found = ops::linear(&layer, &pool, &tensor(&x, &[3, 6]), Some(&tensor(&bias, &[5]))).expect("fits");
    assert_eq!(found.dims(), [3, 5]);
    assert_eq!(bits(&values(&found)), bits(&y));

    let trees = [SumTree::Leaf { cols: 0..2 }, SumTree::Leaf { cols: 2..6 }];
    let parts = ops::linear_trees(&layer, &pool, &tensor(&x, &[3, 6]), &trees).expect("fits");
    assert_eq!(parts.dims(), [2, 3, 5]);
    let mut y = vec![0.0; 30];
    layer.forward_trees(&pool, &x, &trees, &mut y).expect("fits");
    assert_eq!(bits(&values(&parts)), bits(&y));
}

#[test]
fn an_operand_may_be_a_part_of_a_tensor() {
    let (pool, x) = (Pool::inline(), sample(2, 4 * 6));
    let layer = PackedLinear::from_f32(5, 6, &sample(1, 30)).expect("fits");
    let rows = tensor(&x, &[4, 6]).narrow(0, 1, 2).expect("in range");
    let mut y = vec![0.0; 10];
    layer.forward(&pool, &x[6..18], None, &mut y).expect("fits");
    assert_eq!(bits(&values(&ops::linear(&layer, &pool, &rows, None).expect("fits"))), bits(&y));
}

#[test]
fn attention_writes_and_attends() {
    let pool = Pool::inline();
    let (q, k, v) = (sample(1, 20 * 2 * 8), sample(2, 20 * 8), sample(3, 20 * 8));
    let kv = Mutex::new(KvLayer::new(2, 1, 8));
    let whole = [AttnSeq { rows: 0..20, start: 0, blocks: &[1, 0] }];
    let run = |seqs: &[AttnSeq<'_>], rows: std::ops::Range<usize>| {
        let part =
            |x: &[f32], heads: usize| tensor(&x[rows.start * heads * 8..rows.end * heads * 8], &[rows.len(), heads, 8]);
        let qkv = (&part(&q, 2), &part(&k, 1), &part(&v, 1));
        values(&ops::attention(&kv, &pool, seqs, qkv, &[0, 0], 0.5).expect("fits"))
    };
    let all = run(&whole, 0..20);
    let last = run(&[AttnSeq { rows: 0..1, start: 19, blocks: &[1, 0] }], 19..20);
    assert_eq!(bits(&last), bits(&all[19 * 16..]));
}

#[test]
fn the_row_ops_are_the_kernels() {
    let pool = Pool::inline();
    let (x, weight) = (sample(1, 3 * 8), sample(2, 8));
    let mut y = vec![0.0; 24];
    kernels::rms_norm(&pool, &x, &weight, 1e-5, &mut y).expect("fits");
    let found = ops::rms_norm(&pool, &tensor(&x, &[3, 8]), &tensor(&weight, &[8]), 1e-5).expect("fits");
    assert_eq!(bits(&values(&found)), bits(&y));

    let mut y = vec![0.0; 12];
    kernels::silu_mul(&pool, &x, 4, &mut y).expect("fits");
    let found = ops::silu_mul(&pool, &tensor(&x, &[3, 8])).expect("fits");
    assert_eq!((found.dims(), bits(&values(&found))), (&[3, 4][..], bits(&y)));

    let (cos, sin) = (sample(4, 6), sample(5, 6));
    let mut y = x.clone();
    kernels::rotary(RotaryStyle::Interleaved, &mut y, (2, 4, 4), &cos, &sin).expect("fits");
    let (cos, sin) = (tensor(&cos, &[3, 2]), tensor(&sin, &[3, 2]));
    let found = ops::rotary(RotaryStyle::Interleaved, &tensor(&x, &[3, 2, 4]), &cos, &sin).expect("fits");
    assert_eq!((found.dims(), bits(&values(&found))), (&[3, 2, 4][..], bits(&y)));

    let sum = ops::add(&tensor(&x, &[3, 8]), &tensor(&x, &[3, 8])).expect("fits");
    assert_eq!(values(&sum), x.iter().map(|x| 2.0 * x).collect::<Vec<_>>());
}

#[test]
fn embeddings_of_both_types_are_gathered_in_f32() {
    let table = [1.0_f32, 2.0, 3.0, 4.0];
    let halves = table.map(bf16::from_f32);
    let bf16_table = Tensor::from_slice(&halves, (2, 2), &Device::Cpu).expect("fits");
    for table in [tensor(&table, &[2, 2]), bf16_table] {
        let rows = ops::embed_rows(&ops::Embedding { table, first: 10 }, &[11, 3, 10]).expect("fits");
        assert_eq!((rows.dtype(), rows.dims()), (DType::F32, &[3, 2][..]));
        assert_eq!(values(&rows), [3.0, 4.0, 0.0, 0.0, 1.0, 2.0]);
    }
}

#[test]
fn empty_tensors_are_legal() {
    let pool = Pool::inline();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).expect("a shape");
    let no_inputs = ops::linear_trees(&PackedLinear::empty(4, 0), &pool, &zeros(&[3, 0]), &[]).expect("fits");
    assert_eq!(no_inputs.dims(), [0, 3, 4]);
    let no_outputs = ops::linear(&PackedLinear::empty(0, 4), &pool, &zeros(&[3, 4]), None).expect("fits");
    assert_eq!(no_outputs.dims(), [3, 0]);
    assert_eq!(ops::silu_mul(&pool, &no_outputs).expect("fits").dims(), [3, 0]);
    let no_heads = zeros(&[3, 0, 8]);
    let kv = Mutex::new(KvLayer::new(1, 0, 8));
    let seqs = [AttnSeq { rows: 0..3, start: 0, blocks: &[0] }];
    let attended = ops::attention(&kv, &pool, &seqs, (&no_heads, &no_heads, &no_heads), &[], 1.0).expect("fits");
    assert_eq!(attended.dims(), [3, 0]);
    let turned = ops::rotary(RotaryStyle::HalfSplit, &no_heads, &zeros(&[3, 2]), &zeros(&[3, 2])).expect("fits");
    assert_eq!(turned.dims(), [3, 0, 8]);
}

#[test]
fn refusals_name_both_shapes() {
    let (pool, layer) = (Pool::inline(), PackedLinear::empty(4, 6));
    let wrong = ops::linear(&layer, &pool, &tensor(&[0.0; 10], &[2, 5]), None).expect_err("5 columns for 6");
    let text = wrong.to_string();
    assert!(text.contains("[2, 6]") && text.contains("[2, 5]"), "{text}");

    let turned = tensor(&sample(1, 12), &[6, 2]).t().expect("two dimensions");
    let text = ops::linear(&layer, &pool, &turned, None).expect_err("strided").to_string();
    assert!(text.contains("[2, 6]") && text.contains("[1, 2]"), "{text}");

    let text = ops::silu_mul(&pool, &tensor(&[0.0; 3], &[1, 3])).expect_err("odd").to_string();
    assert!(text.contains("[1, 3]"), "{text}");
    assert!(ops::add(&tensor(&[0.0; 3], &[1, 3]), &tensor(&[0.0; 3], &[3, 1])).is_err());
}

#[test]
fn a_cache_that_a_panic_left_half_written_is_refused() {
    let kv = Mutex::new(KvLayer::new(1, 1, 8));
    std::thread::scope(|scope| {
        let held = scope.spawn(|| {
            let _held = kv.lock().expect("nobody else");
            panic!("while it holds the cache");
        });
        held.join().expect_err("it panicked");
    });
    let row = tensor(&[0.0; 8], &[1, 1, 8]);
    let seqs = [AttnSeq { rows: 0..1, start: 0, blocks: &[0] }];
    let refused = ops::attention(&kv, &Pool::inline(), &seqs, (&row, &row, &row), &[0], 1.0);
    assert!(refused.expect_err("poisoned").to_string().contains("half written"));
}
