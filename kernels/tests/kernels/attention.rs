//! Attention: a row's result comes from its own query, position and cached rows.

use kernels::{AttnSeq, BLOCK_TOKENS, KernelError, KvLayer, Pool, attention};
use proptest::prelude::*;

use crate::{assert_close, bits, pools, sample, scalar};

/// One sequence's queries, keys and values for every position.
struct Sequence {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Sequence {
    fn new(seed: u64, tokens: usize, heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        let spread = |values: Vec<f32>| values.into_iter().map(|x| 3.0 * x).collect();
        Self {
            heads,
            kv_heads,
            head_dim,
            q: spread(sample(seed, tokens * heads * head_dim)),
            k: spread(sample(seed ^ 1, tokens * kv_heads * head_dim)),
            v: sample(seed ^ 2, tokens * kv_heads * head_dim),
        }
    }

    fn tokens(&self) -> usize {
        self.q.len() / (self.heads * self.head_dim)
    }

    fn kv_head_of(&self) -> Vec<usize> {
        (0..self.heads).map(|h| h * self.kv_heads / self.heads).collect()
    }

    fn scale(&self) -> f32 {
        (self.head_dim as f32).powf(-0.5)
    }

    /// Runs all positions in chunks of the given lengths (the last repeats) on a cache of its own.
    fn run(&self, pool: &Pool, blocks: &[u32], chunks: &[usize]) -> Vec<f32> {
        let mut kv = self.cache(blocks);
        let (row, kv_row) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut out = vec![f32::NAN; self.q.len()];
        let mut start = 0;
        let mut lengths = chunks.iter().copied();
        let mut length = 1;
        while start < self.tokens() {
            length = lengths.next().unwrap_or(length).max(1);
            let end = self.tokens().min(start + length);
            let seqs = [AttnSeq { rows: 0..end - start, start, blocks }];
            kv.write(&seqs, &self.k[start * kv_row..end * kv_row], &self.v[start * kv_row..end * kv_row])
                .expect("fits");
            let (q, out) = (&self.q[start * row..end * row], &mut out[start * row..end * row]);
            attention(pool, &kv, &seqs, q, &self.kv_head_of(), self.scale(), out).expect("fits");
            start = end;
        }
        out
    }

    fn cache(&self, blocks: &[u32]) -> KvLayer {
        KvLayer::new(blocks.iter().max().map_or(0, |b| *b as usize + 1), self.kv_heads, self.head_dim)
    }

    fn reference(&self) -> Vec<f64> {
        let (hd, kv_head_of) = (self.head_dim, self.kv_head_of());
        let mut out = Vec::new();
        for t in 0..self.tokens() {
            for (h, kv_head) in kv_head_of.iter().enumerate() {
                let q = &self.q[(t * self.heads + h) * hd..][..hd];
                let of = |rows: &'_ [f32], p: usize| rows[(p * self.kv_heads + kv_head) * hd..][..hd].to_vec();
                let dot = |k: Vec<f32>| q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(k)).sum::<f64>();
                let scores: Vec<f64> = (0..=t).map(|p| dot(of(&self.k, p)) * f64::from(self.scale())).collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
                let total: f64 = weights.iter().sum();
                for d in 0..hd {
                    let sum: f64 = weights.iter().enumerate().map(|(p, w)| w * f64::from(of(&self.v, p)[d])).sum();
                    out.push(sum / total);
                }
            }
        }
        out
    }
}

/// Blocks in an order that is not that of memory.
fn scattered(tokens: usize) -> Vec<u32> {
    (0..tokens.div_ceil(BLOCK_TOKENS) as u32).rev().map(|i| 2 * i + 1).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn chunks_instruction_sets_and_threads_give_the_same_bits(
        seed: u64, tokens in 1_usize..60, kv_heads in 1_usize..3, group in 1_usize..9, head_dim in 1_usize..40,
        chunks in prop::collection::vec(1_usize..20, 1..5),
    ) {
        let sequence = Sequence::new(seed, tokens, kv_heads * group, kv_heads, head_dim);
        let expected = bits(&sequence.run(&scalar(), &scattered(tokens), &[1]));
        for pool in pools() {
            prop_assert_eq!(&bits(&sequence.run(&pool, &scattered(tokens), &chunks)), &expected, "{:?}", pool);
        }
    }
}

#[test]
fn a_prompt_long_enough_to_share_gives_the_same_bits() {
    let sequence = Sequence::new(5, 150, 8, 2, 32);
    let expected = bits(&sequence.run(&scalar(), &scattered(150), &[1]));
    for pool in pools() {
        assert_eq!(bits(&sequence.run(&pool, &scattered(150), &[150])), expected, "{pool:?}");
    }
}

#[test]
fn attention_is_close_to_f64() {
    for (heads, kv_heads, head_dim) in [(8, 2, 32), (3, 3, 20), (16, 1, 128)] {
        let sequence = Sequence::new(6, 70, heads, kv_heads, head_dim);
        assert_close(&sequence.run(&Pool::inline(), &scattered(70), &[33]), &sequence.reference(), 2e-6);
    }
}

#[test]
fn sequences_of_one_batch_do_not_see_each_other() {
    let (a, b) = (Sequence::new(1, 21, 4, 2, 16), Sequence::new(2, 5, 4, 2, 16));
    let seqs = [
        AttnSeq { rows: 0..21, start: 0, blocks: &[3, 0] },
        AttnSeq { rows: 21..21, start: 0, blocks: &[] },
        AttnSeq { rows: 21..26, start: 0, blocks: &[1] },
    ];
    let mut kv = KvLayer::new(4, 2, 16);
    kv.write(&seqs, &[&a.k[..], &b.k].concat(), &[&a.v[..], &b.v].concat()).expect("fits");
    let mut out = vec![f32::NAN; 26 * 4 * 16];
    let q = [&a.q[..], &b.q].concat();
    attention(&Pool::inline(), &kv, &seqs, &q, &a.kv_head_of(), a.scale(), &mut out).expect("fits");
    let alone = [a.run(&scalar(), &[0, 1], &[1]), b.run(&scalar(), &[0], &[1])].concat();
    assert_eq!(bits(&out), bits(&alone));
}

#[test]
fn what_a_block_held_before_does_not_leak() {
    let sequence = Sequence::new(4, 19, 4, 2, 24);
    let expected = bits(&sequence.run(&Pool::inline(), &[1, 0], &[19]));
    let mut kv = sequence.cache(&[1, 0]);
    let (full, poison) = ([AttnSeq { rows: 0..32, start: 0, blocks: &[1, 0] }], vec![f32::NAN; 32 * 2 * 24]);
    kv.write(&full, &poison, &poison).expect("fits");
    let seqs = [AttnSeq { rows: 0..19, start: 0, blocks: &[1, 0] }];
    kv.write(&seqs, &sequence.k, &sequence.v).expect("fits");
    for pool in pools() {
        let mut out = vec![0.0; sequence.q.len()];
        attention(&pool, &kv, &seqs, &sequence.q, &sequence.kv_head_of(), sequence.scale(), &mut out).expect("fits");
        assert_eq!(bits(&out), expected, "{pool:?}");
    }
}

#[test]
fn a_rank_whose_first_head_is_inside_a_group_gets_the_heads_of_the_whole() {
    // 6 query heads over 2 KV heads; the rank has heads 2..5, so both KV heads.
    let whole = Sequence::new(9, 40, 6, 2, 16);
    let all = whole.run(&Pool::inline(), &scattered(40), &[40]);
    let of_rank = |rows: &[f32]| rows.chunks_exact(6 * 16).flat_map(|r| r[2 * 16..5 * 16].to_vec()).collect::<Vec<_>>();
    let blocks = scattered(40);
    let seqs = [AttnSeq { rows: 0..40, start: 0, blocks: &blocks }];
    let mut kv = whole.cache(&blocks);
    kv.write(&seqs, &whole.k, &whole.v).expect("fits");
    let mut out = vec![0.0; 40 * 3 * 16];
    attention(&Pool::inline(), &kv, &seqs, &of_rank(&whole.q), &[0, 1, 1], whole.scale(), &mut out).expect("fits");
    assert_eq!(bits(&out), bits(&of_rank(&all)));
}

#[test]
fn a_copied_block_reads_like_its_source_and_takes_its_own_writes() {
    let sequence = Sequence::new(11, 25, 4, 2, 24);
    let expected = bits(&sequence.run(&Pool::inline(), &[0, 1], &[25]));
    let (row, kv_row) = (4 * 24, 2 * 24);
    let mut kv = sequence.cache(&[0, 1, 2]);
    let prompt = [AttnSeq { rows: 0..20, start: 0, blocks: &[0, 1] }];
    kv.write(&prompt, &sequence.k[..20 * kv_row], &sequence.v[..20 * kv_row]).expect("fits");
    kv.copy_block(1, 2).expect("both are there");
    // The source goes another way meanwhile.
    let other = vec![7.0; 5 * kv_row];
    kv.write(&[AttnSeq { rows: 0..5, start: 20, blocks: &[0, 1] }], &other, &other).expect("fits");
    let rest = [AttnSeq { rows: 0..5, start: 20, blocks: &[0, 2] }];
    kv.write(&rest, &sequence.k[20 * kv_row..], &sequence.v[20 * kv_row..]).expect("fits");
    for pool in pools() {
        let mut out = vec![0.0; 5 * row];
        attention(&pool, &kv, &rest, &sequence.q[20 * row..], &sequence.kv_head_of(), sequence.scale(), &mut out)
            .expect("fits");
        assert_eq!(bits(&out), expected[20 * row..], "{pool:?}");
    }
    assert_eq!(kv.copy_block(0, 3), Err(KernelError::CopyBlock { block: 3, blocks: 3 }));
    assert_eq!(kv.copy_block(9, 0), Err(KernelError::CopyBlock { block: 9, blocks: 3 }));
}

#[test]
fn a_rank_without_heads_has_nothing_to_do() {
    let mut kv = KvLayer::new(2, 0, 32);
    let seqs = [AttnSeq { rows: 0..20, start: 0, blocks: &[1, 0] }];
    kv.write(&seqs, &[], &[]).expect("nothing to write");
    attention(&Pool::inline(), &kv, &seqs, &[], &[], 1.0, &mut []).expect("nothing to compute");
    kv.copy_block(0, 1).expect("nothing to copy");
    assert_eq!(KvLayer::bytes_for(2, 0, 32), 0);
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_is_written() {
    let sequence = Sequence::new(3, 5, 2, 1, 8);
    let mut kv = KvLayer::new(2, 1, 8);
    let (k, v) = (&sequence.k, &sequence.v);
    let seq = |rows, start, blocks| [AttnSeq { rows, start, blocks }];

    let rows = kv.write(&seq(1..6, 0, &[0]), k, v);
    assert_eq!(rows, Err(KernelError::Rows { op: "kv_write", seq: 0, rows: 1..6, expected: 0 }));
    let blocks = kv.write(&seq(0..5, 12, &[0]), k, v);
    assert_eq!(blocks, Err(KernelError::Blocks { op: "kv_write", seq: 0, needed: 2, given: 1 }));
    let index = kv.write(&seq(0..5, 0, &[2]), k, v);
    assert_eq!(index, Err(KernelError::BlockIndex { op: "kv_write", seq: 0, block: 2, blocks: 2 }));
    let far = kv.write(&seq(0..5, usize::MAX - 2, &[0]), k, v);
    assert!(matches!(far, Err(KernelError::Blocks { .. })));
    let shape = kv.write(&seq(0..4, 0, &[0]), k, v);
    let expected = KernelError::Shape { op: "kv_write", operand: "k", expected: vec![4, 1, 8], found: vec![40] };
    assert_eq!(shape, Err(expected));

    let mut out = vec![0.0; 80];
    let seqs = seq(0..5, 0, &[0]);
    let head = attention(&Pool::inline(), &kv, &seqs, &sequence.q, &[0, 1], 1.0, &mut out);
    assert_eq!(head, Err(KernelError::KvHead { head: 1, kv_head: 1, kv_heads: 1 }));
    let q = attention(&Pool::inline(), &kv, &seqs, &sequence.q[1..], &[0, 0], 1.0, &mut out);
    assert!(matches!(q, Err(KernelError::Shape { operand: "q", .. })));
}
