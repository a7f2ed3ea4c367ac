//! What a rank reads and holds: its own slices and nothing else, and what the plan said.

mod support;

use protocol::{Dtype, Rank};
use sharding::partition::{Rule, VISION_PREFIX, tensors};
use sharding::{Checkpoint, ModelSpec};
use support::run::Setup;
use support::{TINY, checkpoint, nano};

/// Bytes of the tensors that the model needs, and of those that every rank reads whole: norms and the vision tower.
fn model_bytes(checkpoint: &Checkpoint, spec: &ModelSpec) -> (u64, u64) {
    let mut all = 0;
    let mut replicated = 0;
    for tensor in tensors(spec) {
        let info = checkpoint.tensor(&tensor.name).expect("it is there");
        let bytes = info.shape.iter().product::<u64>() * info.dtype.bytes().expect("a float");
        all += bytes;
        if matches!(tensor.rule, Rule::Replicated | Rule::Table) {
            replicated += bytes;
        }
    }
    (all, replicated)
}

#[test]
fn the_ranks_together_read_the_model_once() {
    for dir in TINY.map(checkpoint).into_iter().chain([nano()]) {
        let spec = Setup::new(&dir, 1).spec;
        let (all, replicated) = model_bytes(&Checkpoint::open(&dir).expect("opens"), &spec);
        for world in [1, 2, 4] {
            let setup = Setup::new(&dir, world);
            let read: Vec<u64> = setup.world().ranks().map(|r| setup.load(r).bytes_read()).collect();
            eprintln!("| {} | {world} | {read:?} | {all} |", dir.file_name().expect("a name").display());
            let shares = u64::from(world);
            // Both models have two KV heads: at 4 ranks two of them read the same one.
            let kv_copies = shares.saturating_sub(2) / 2;
            let kv_heads = setup.plan().ranks[0].cut.kv_heads.len();
            let kv_width = u64::from(kv_heads * spec.head_dim);
            let width = if setup.stored_f32 { 4 } else { 2 };
            let bias = u64::from(spec.qkv_bias);
            let kv_head = 2 * u64::from(spec.num_layers) * kv_width * (u64::from(spec.hidden_size) + bias) * width;
            let expected = all + (shares - 1) * replicated + kv_copies * 2 * kv_head;
            assert_eq!(read.iter().sum::<u64>(), expected, "{} TP {world}", dir.display());
            let cut = all - replicated;
            assert!(
                read.iter().all(|r| (r - replicated) * shares <= cut + cut / 5),
                "{} TP {world}: {read:?}",
                dir.display()
            );
        }
    }
}

#[test]
fn every_rank_reads_the_tower_that_the_configuration_has() {
    for dir in [checkpoint(TINY[2]), nano()] {
        let setup = Setup::new(&dir, 2);
        let opened = Checkpoint::open(&dir).expect("opens");
        let (all, _) = model_bytes(&opened, &setup.spec);
        let mut blind = setup.clone();
        blind.spec.vision = None;
        let (text, _) = model_bytes(&opened, &blind.spec);
        let tower = |name: &str| name.starts_with(VISION_PREFIX);
        let needed = tensors(&setup.spec).iter().filter(|t| tower(&t.name)).count();
        assert_eq!(needed, opened.names().filter(|name| tower(name)).count(), "{}", dir.display());
        for rank in setup.world().ranks() {
            let (seeing, blind) = (setup.load(rank), blind.load(rank));
            assert_eq!(seeing.bytes_read() - blind.bytes_read(), all - text, "{}", dir.display());
            assert!(seeing.vision().is_some() && blind.vision().is_none());
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
                    // And one for canaries.
                    let (blocks, kv_heads) = (setup.kv_tokens as usize / 16 + 1, rank.cut.kv_heads.range().len());
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
