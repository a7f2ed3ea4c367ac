//! What a KV cache costs while nothing is in it: addresses, not memory. A test alone in its process, whose memory it
//! reads.
#![cfg(target_os = "linux")]

use kernels::{AttnSeq, BLOCK_TOKENS, KvLayer};

const MIB: usize = 1 << 20;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 128;
/// Of [`KV_HEADS`] and [`HEAD_DIM`], 256 MiB.
const BLOCKS: usize = 2048;
/// More than huge pages and the kernel's counting by thread make of a few pages.
const SLACK: usize = 16 * MIB;

/// Resident memory of this process, bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("a process has memory");
    let kib = line.trim().strip_suffix("kB").expect("counted in kB").trim();
    kib.parse::<usize>().expect("a number") * 1024
}

#[test]
fn an_idle_cache_is_not_resident_and_fills_block_by_block() {
    assert_eq!(KvLayer::bytes_for(BLOCKS, KV_HEADS, HEAD_DIM), 256 * MIB);
    let rows = vec![1.0; BLOCK_TOKENS * KV_HEADS * HEAD_DIM];
    let before = resident();
    let grown = || resident().saturating_sub(before);

    let mut kv = KvLayer::new(BLOCKS, KV_HEADS, HEAD_DIM);
    assert!(grown() < SLACK, "{} bytes for an empty cache", grown());

    let mut write = |blocks: std::ops::Range<usize>| {
        for block in blocks {
            let block = u32::try_from(block).expect("small");
            let seq = AttnSeq { rows: 0..BLOCK_TOKENS, start: 0, blocks: &[block] };
            kv.write(&[seq], &rows, &rows).expect("fits");
        }
    };
    write(0..BLOCKS / 4);
    assert!(grown().abs_diff(64 * MIB) < SLACK, "{} bytes for a quarter", grown());
    write(BLOCKS / 4..BLOCKS);
    assert!(grown().abs_diff(256 * MIB) < SLACK, "{} bytes for a full cache", grown());
}
