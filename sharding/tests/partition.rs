//! Slices of all ranks cover each tensor once, whatever the model and the cut; what is shared is shared by rule.

mod support;

use proptest::prelude::*;
use protocol::{AtomRun, Dtype, RankCut, Span, WorldSize};
use sharding::partition::{Cut, Rule, TensorSlice, tensors};
use sharding::planner::{Shares, cuts, weight_bytes};
use sharding::{ModelSpec, slices};
use support::{TINY, checkpoint, nano, real_specs, spec_of};

fn specs() -> Vec<(String, ModelSpec)> {
    let tiny = TINY.map(|model| (model.to_owned(), spec_of(checkpoint(model).join("config.json"))));
    let nano = ("autoglm-nano".to_owned(), spec_of(nano().join("config.json")));
    tiny.into_iter().chain([nano]).chain(real_specs()).collect()
}

/// What ranks hold of each tensor along the axis that is cut, as a list of spans in rank order, empty ones left out.
fn spans(slice: &TensorSlice) -> Vec<Span> {
    match &slice.cut {
        Cut::Whole => vec![],
        Cut::Rows(spans) => spans.clone(),
        Cut::Cols(span) => vec![*span],
    }
}

fn check(name: &str, spec: &ModelSpec, cuts: &[RankCut]) {
    let ranks: Vec<Vec<TensorSlice>> = cuts.iter().map(|cut| slices(spec, cut)).collect();
    for (i, tensor) in tensors(spec).into_iter().enumerate() {
        let parts: Vec<&TensorSlice> = ranks.iter().map(|slices| &slices[i]).collect();
        assert!(parts.iter().all(|p| p.name == tensor.name && p.shape == tensor.shape && p.rule == tensor.rule));
        let axis = usize::from(matches!(tensor.rule, Rule::HeadInputs | Rule::MlpInputs));
        match tensor.rule {
            Rule::Replicated | Rule::Table => assert!(parts.iter().all(|p| p.cut == Cut::Whole)),
            Rule::KvHeads => kv_heads_cover(name, spec, cuts, &parts),
            Rule::GateUp => gate_and_up_cover(name, spec, &parts),
            _ => {
                let all: Vec<Span> = parts.iter().flat_map(|p| spans(p)).collect();
                covers_once(name, &tensor.name, &all, 0..tensor.shape[axis]);
            }
        }
        if !matches!(tensor.rule, Rule::Replicated | Rule::Table | Rule::KvHeads) {
            let whole: u64 = tensor.shape.iter().map(|d| u64::from(*d)).product();
            assert_eq!(parts.iter().map(|p| p.elements()).sum::<u64>(), whole, "{name} {}", tensor.name);
        }
    }
}

fn covers_once(model: &str, tensor: &str, spans: &[Span], whole: std::ops::Range<u32>) {
    let end = spans.iter().fold(whole.start, |at, span| {
        assert!(span.start == at && span.end >= at, "{model} {tensor}: {spans:?}");
        span.end
    });
    assert_eq!(end, whole.end, "{model} {tensor}: {spans:?}");
}

/// Every KV head is somewhere, on exactly the ranks whose query heads read it.
fn kv_heads_cover(model: &str, spec: &ModelSpec, cuts: &[RankCut], parts: &[&TensorSlice]) {
    let mut held = vec![0; spec.num_kv_heads as usize];
    for (cut, part) in cuts.iter().zip(parts) {
        let read: Vec<u32> = (0..spec.num_kv_heads)
            .filter(|kv| cut.heads.range().any(|h| h / spec.heads_per_kv_head() as usize == *kv as usize))
            .collect();
        let spans = spans(part);
        let heads = spans[0].start / spec.head_dim..spans[0].end / spec.head_dim;
        assert_eq!(heads.clone().collect::<Vec<_>>(), read, "{model}: {cut:?}");
        heads.for_each(|kv| held[kv as usize] += 1);
    }
    assert!(held.iter().all(|n| *n > 0), "{model}: {held:?}");
}

fn gate_and_up_cover(model: &str, spec: &ModelSpec, parts: &[&TensorSlice]) {
    let ffn = spec.intermediate_size;
    let half = |which: usize| parts.iter().map(|p| spans(p)[which]).collect::<Vec<_>>();
    covers_once(model, "gate", &half(0), 0..ffn);
    covers_once(model, "up", &half(1), ffn..2 * ffn);
    for (gate, up) in half(0).into_iter().zip(half(1)) {
        assert_eq!((gate.start + ffn, gate.end + ffn), (up.start, up.end), "{model}");
    }
}

#[test]
fn even_cuts_of_every_world_size_to_8_and_beyond() {
    for (name, spec) in specs() {
        for world in (1..=8).chain([11, WorldSize::MAX]) {
            let cuts = cuts(&spec, &Shares::even(WorldSize::new(world).expect("in range")));
            assert_eq!(cuts.len(), usize::from(world));
            check(&name, &spec, &cuts);
        }
    }
}

/// What every rank holds of a bf16 vision tower, by hand.
fn tower_bytes(spec: &ModelSpec) -> u64 {
    let Some(vision) = &spec.vision else { return 0 };
    let [hidden, out, merger, depth] =
        [vision.hidden_size, vision.out_hidden_size, vision.merger_size, vision.depth].map(u64::from);
    let patch = u64::from(3 * vision.temporal_patch_size * vision.patch_size * vision.patch_size);
    let table = u64::from(vision.table_side * vision.table_side) * hidden;
    let blocks = depth * (4 * hidden * hidden + 3 * hidden * out);
    let merging = u64::from(vision.merge_size * vision.merge_size) * hidden * out + out * out + 3 * merger * out;
    // Bias of the patches and two norms; two norms a block; bias of the down-sampling, weight and bias of its norm.
    let vectors = 3 * hidden + 2 * depth * hidden + 3 * out;
    2 * (hidden * patch + blocks + merging) + 4 * (vectors + table)
}

#[test]
fn the_weights_of_all_ranks_are_the_model_and_its_copies() {
    for (name, spec) in specs().into_iter().filter(|(_, s)| s.head_dim.is_multiple_of(16)) {
        let whole = &cuts(&spec, &Shares::even(WorldSize::ONE))[0];
        let alone = weight_bytes(&spec, whole, Dtype::F32, false);
        for world in [2, 4, 8] {
            let cuts = cuts(&spec, &Shares::even(WorldSize::new(world).expect("in range")));
            let all: u64 = cuts.iter().map(|c| weight_bytes(&spec, c, Dtype::F32, false)).sum();
            let norms = u64::from(spec.hidden_size * (4 * spec.num_layers + 1)) * 4 * u64::from(world - 1);
            let kv_heads: u32 = cuts.iter().map(|c| c.kv_heads.len()).sum();
            let copies = u64::from(kv_heads - spec.num_kv_heads) * u64::from(spec.head_dim);
            let row = u64::from(spec.hidden_size) * 2 + if spec.qkv_bias { 4 } else { 0 };
            let kv = 2 * u64::from(spec.num_layers) * copies * row;
            let towers = tower_bytes(&spec) * u64::from(world - 1);
            assert_eq!(all, alone + norms + kv + towers, "{name} TP {world}");
        }
    }
}

#[test]
fn a_world_of_three_cuts_8_heads_and_13696_columns() {
    let (_, spec) = real_specs().into_iter().find(|(name, _)| name.contains("9B-0414")).expect("GLM-4-9B");
    let cuts = cuts(&spec, &Shares::even(WorldSize::new(3).expect("in range")));
    let runs: Vec<AtomRun> = cuts.iter().map(|c| c.head_atoms).collect();
    assert_eq!(runs, [AtomRun { start: 0, end: 3 }, AtomRun { start: 3, end: 5 }, AtomRun { start: 5, end: 8 }]);
    assert_eq!(cuts[1].heads, Span { start: 12, end: 20 });
    assert_eq!(cuts[1].kv_heads, Span { start: 0, end: 2 });
    // Atoms of 428 blocks: 160 is ⌊3·428/8⌋ and 267 is ⌊5·428/8⌋.
    assert_eq!(cuts[1].mlp_cols, Span { start: 160 * 32, end: 267 * 32 });
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn any_shares_of_any_model(
        shares in prop::collection::vec(0u32..5, 1..=12),
        (kv_heads, group, head_dim) in (1u32..5, 1u32..9, prop::sample::select(vec![4u32, 16, 24, 32, 128])),
        (ffn, vocab, hidden) in (1u32..1500, 1u32..3000, 1u32..300),
        (glm4v, tied) in (any::<bool>(), any::<bool>()),
    ) {
        let Some(shares) = Shares::new(shares) else { return Ok(()) };
        let mut text = serde_json::json!({
            "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": 2,
            "num_attention_heads": kv_heads * group, "num_key_value_heads": kv_heads, "head_dim": head_dim,
            "tie_word_embeddings": tied,
        });
        let config = if glm4v {
            text["rope_parameters"] = serde_json::json!({"mrope_section": [head_dim / 4, 0, 0]});
            serde_json::json!({"architectures": ["Glm4vForConditionalGeneration"], "text_config": text})
        } else {
            text["architectures"] = serde_json::json!(["Glm4ForCausalLM"]);
            text
        };
        let spec = ModelSpec::from_config_json(&config.to_string()).expect("legal");
        check("any", &spec, &cuts(&spec, &shares));
    }
}
