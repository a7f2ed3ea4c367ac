//! The bits themselves. A version that gives other bits here gives other tokens for the same seed, and cannot share a
//! replica with this one: change a digest only with that in mind.

use kernels::{AttnSeq, KvLayer, PackedLinear, Pool, SumTree, attention, rms_norm, silu_mul};

use crate::sample;

/// FNV-1a over the bits.
fn digest(x: &[f32]) -> u64 {
    x.iter()
        .flat_map(|x| x.to_bits().to_le_bytes())
        .fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3))
}

#[test]
fn the_kernels_give_the_bits_they_always_gave() {
    let pool = Pool::inline();
    let layer = PackedLinear::from_f32(40, 96, &sample(1, 40 * 96)).expect("fits");
    let trees = [SumTree::node(SumTree::Leaf { cols: 0..32 }, SumTree::Leaf { cols: 32..96 })];
    let mut linear = vec![0.0; 7 * 40];
    layer.forward_trees(&pool, &sample(2, 7 * 96), &trees, &mut linear).expect("fits");

    let mut kv = KvLayer::new(3, 1, 24);
    let seqs = [AttnSeq { rows: 0..35, start: 0, blocks: &[2, 0, 1] }];
    kv.write(&seqs, &sample(3, 35 * 24), &sample(4, 35 * 24)).expect("fits");
    let mut attended = vec![0.0; 35 * 2 * 24];
    attention(&pool, &kv, &seqs, &sample(5, 35 * 2 * 24), &[0, 0], 0.25, &mut attended).expect("fits");

    let mut normed = vec![0.0; 3 * 50];
    rms_norm(&pool, &sample(6, 3 * 50), &sample(7, 50), 1e-5, &mut normed).expect("fits");
    let mut gated = vec![0.0; 3 * 25];
    silu_mul(&pool, &sample(8, 3 * 50), 25, &mut gated).expect("fits");

    let digests = [linear, attended, normed, gated].map(|x| format!("{:016x}", digest(&x)));
    assert_eq!(digests, ["a0f0d15ee08d3682", "77cb7dfc666a40aa", "9786b054a4edfddb", "5939a833ae257785"]);
}
