//! What a rank reads and holds: its own slices and nothing else, and what the plan said.

mod support;

use protocol::{Dtype, Rank};
use sharding::partition::tensors;
use sharding::{Checkpoint, ModelSpec};
use support::run::Setup;
use support::{TINY, checkpoint, nano};

/// Bytes of the tensors that the text model needs, and of those that every rank reads whole.
fn text_bytes(checkpoint: &Checkpoint, spec: &ModelSpec) -> (u64, u64) {
    let mut all = 0;
    let mut replicated = 0;
    for tensor in tensors(spec) {
        let info = checkpoint.tensor(&tensor.name).expect("it is there");
        let bytes = info.shape.iter().product::<u64>() * info.dtype.bytes().expect("a float");
        all += bytes;
        if tensor.rule == sharding::partition::Rule::Replicated {
            replicated += bytes;
        }
    }
    (all, replicated)
}

#[test]
fn the_ranks_together_read_the_model_once() {
    for dir in TINY.map(checkpoint).into_iter().chain([nano()]) {
        let spec = Setup::new(&dir, 1).spec;
        let (all, replicated) = text_bytes(&Checkpoint::open(&dir).expect("opens"), &spec);
        for world in [1, 2, 4] {
            let setup = Setup::new(&dir, world);
            let read: Vec<u64> = setup.world().ranks().map(|r| setup.load(r).bytes_read()).collect();
            eprintln!("| {} | {world} | {read:?} | {all} |", dir.file_name().expect("a name").display());
            let shares = u64::from(world);
            // Both models have two KV heads: at 4 ranks two of them read the same one.
            let kv_copies = shares.saturating_sub(2) / 2;
            let cut = &setup.plan().ranks[0].cut;
            let kv_width = u64::from(cut.kv_heads.len() * spec.head_dim);
            let width = if setup.stored_f32 { 4 } else { 2 };
            let bias = u64::from(spec.qkv_bias);
            let kv_head = 2 * u64::from(spec.num_layers) * kv_width * (u64::from(spec.hidden_size) + bias) * width;
            let expected = all + (shares - 1) * replicated + kv_copies * 2 * kv_head;
            assert_eq!(read.iter().sum::<u64>(), expected, "{} TP {world}", dir.display());
            assert!(read.iter().all(|r| r * shares <= all + all / 5), "{} TP {world}: {read:?}", dir.display());
        }
    }
}

#[test]
fn a_rank_holds_what_its_plan_says() {
    for dir in TINY.map(checkpoint).into_iter().chain([nano()]) {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            for world in [1, 3] {
                let setup = Setup { dtype, ..Setup::new(&dir, world) };
                for rank in setup.plan().ranks {
                    let held = setup.load(rank.rank).bytes_held();
                    assert_eq!(held, rank.budget.weights, "{} {dtype:?} TP {world}", dir.display());
                    let (blocks, kv_heads) = (setup.kv_tokens as usize / 16, rank.cut.kv_heads.range().len());
                    let layer = kernels::KvLayer::bytes_for(blocks, kv_heads, setup.spec.head_dim as usize);
                    assert_eq!(layer as u64 * u64::from(setup.spec.num_layers), rank.budget.kv_cache);
                }
            }
        }
    }
}

#[test]
fn progress_goes_up_to_all_of_the_ranks_bytes() {
    let setup = Setup::new(&nano(), 2);
    let mut heard: Vec<(u64, u64)> = Vec::new();
    let model = sharding::layers::Glm4Text::load(
        &setup.dir,
        &setup.spec,
        &setup.plan(),
        Rank(1),
        Dtype::F32,
        kernels::Pool::inline(),
        &mut |read, total| heard.push((read, total)),
    )
    .expect("loads");
    assert!(heard.is_sorted());
    assert_eq!(heard.last(), Some(&(model.bytes_read(), model.bytes_read())));
}
