//! The planner by tables: defaults, refusals and placement.

use protocol::{Dtype, NodeId, WorldSize};

use super::*;

const MIB: u64 = 1 << 20;

fn spec() -> ModelSpec {
    let text = r#"{"architectures": ["Glm4ForCausalLM"], "vocab_size": 2048, "hidden_size": 128, "intermediate_size": 352,
        "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16,
        "max_position_embeddings": 32768}"#;
    ModelSpec::from_config_json(text).expect("a legal configuration")
}

fn nodes(free: &[u64]) -> Vec<NodeCapacity> {
    let node = |(i, free): (usize, &u64)| NodeCapacity {
        node: NodeId::new(format!("node-{}", i + 1)).expect("a label"),
        memory_free: *free,
    };
    free.iter().enumerate().map(node).collect()
}

fn request(world_size: u16, nodes: &[NodeCapacity]) -> PlanRequest<'_> {
    PlanRequest {
        world_size: WorldSize::new(world_size).expect("in range"),
        dtype: Dtype::F32,
        stored_f32: false,
        kv_tokens: None,
        context_tokens: None,
        step_tokens: 512,
        max_seqs: 16,
        nodes,
    }
}

fn places(plan: &Plan) -> Vec<&str> {
    plan.ranks.iter().map(|r| r.node.as_str()).collect()
}

#[test]
fn ranks_spread_over_nodes_and_share_them_where_memory_asks_for_it() {
    let roomy = nodes(&[4096 * MIB, 8192 * MIB]);
    let plan2 = plan(&spec(), &request(2, &roomy)).expect("fits");
    assert_eq!(places(&plan2), ["node-2", "node-1"]);
    let plan4 = plan(&spec(), &request(4, &roomy)).expect("fits");
    assert_eq!(places(&plan4), ["node-2", "node-1", "node-2", "node-1"]);
    let lopsided = nodes(&[10 * MIB, 8192 * MIB]);
    let plan2 = plan(&spec(), &request(2, &lopsided)).expect("fits");
    assert_eq!(places(&plan2), ["node-2", "node-2"]);
}

#[test]
fn a_model_that_sees_has_the_phone_agents_context_where_nothing_is_said() {
    let nodes = nodes(&[1 << 40]);
    let sees = |max: u32| {
        let text = format!(
            r#"{{"architectures": ["Glm4vForConditionalGeneration"], "image_token_id": 7,
            "text_config": {{"vocab_size": 2048, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4,
                "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": {max},
                "rope_scaling": {{"mrope_section": [1, 1, 2]}}}},
            "vision_config": {{"depth": 2, "hidden_size": 64, "num_heads": 4, "intermediate_size": 352,
                "out_hidden_size": 128}}}}"#
        );
        ModelSpec::from_config_json(&text).expect("a legal configuration")
    };
    let context = |max, asked| {
        let request = PlanRequest { context_tokens: asked, ..request(1, &nodes) };
        plan(&sees(max), &request).expect("fits").context_tokens
    };
    assert_eq!(context(65_536, None), CONTEXT_TOKENS_SEEING_MAX);
    assert_eq!(context(8192, None), 8192);
    assert_eq!(context(65_536, Some(65_536)), 65_536);
}

#[test]
fn the_default_cache_holds_four_contexts_within_its_bound() {
    let nodes = nodes(&[1 << 40]);
    let plan1 = plan(&spec(), &request(1, &nodes)).expect("fits");
    assert_eq!((plan1.context_tokens, plan1.kv_tokens), (32_768, KV_TOKENS_DEFAULT_MAX));
    let small = PlanRequest { context_tokens: Some(1000), ..request(1, &nodes) };
    let plan1 = plan(&spec(), &small).expect("fits");
    assert_eq!((plan1.context_tokens, plan1.kv_tokens), (1000, 4000));
    let told = PlanRequest { kv_tokens: Some(1001), ..request(1, &nodes) };
    let plan1 = plan(&spec(), &told).expect("fits");
    assert_eq!((plan1.context_tokens, plan1.kv_tokens), (1001, 1008));
}

#[test]
fn the_default_cache_shrinks_to_the_memory_but_not_below_one_context() {
    let generous = nodes(&[1 << 40]);
    let whole = plan(&spec(), &request(1, &generous)).expect("fits").ranks[0].budget;
    let per_token = kv_bytes_per_token(&spec(), &cuts(&spec(), &Shares::even(WorldSize::ONE))[0]);
    assert_eq!(per_token, 2 * 4 * 2 * 16 * 4);
    let tight = nodes(&[whole.total() - 1000 * per_token]);
    let plan1 = plan(&spec(), &request(1, &tight)).expect("a smaller cache fits");
    // 1000 tokens are 62.5 blocks, so 63 of them go.
    assert_eq!(plan1.kv_tokens, KV_TOKENS_DEFAULT_MAX - 63 * BLOCK_TOKENS);
    assert!(plan1.ranks[0].budget.total() <= tight[0].memory_free);

    let least = whole.total() - whole.kv_cache + (32_768 + u64::from(BLOCK_TOKENS)) * per_token;
    assert_eq!(plan(&spec(), &request(1, &nodes(&[least]))).map(|p| p.kv_tokens), Ok(32_768));
    let short = nodes(&[least - 1]);
    let error = plan(&spec(), &request(1, &short)).expect_err("one byte short");
    let PlanError::DoesNotFit { rank, node, available, needed, .. } = &error else { panic!("{error}") };
    assert_eq!((rank.0, node.as_str(), *available), (0, "node-1", least - 1));
    assert_eq!(*needed, least);
    assert!(error.to_string().contains(&available.to_string()) && !error.to_string().contains('\n'), "{error}");
}

#[test]
fn a_cache_that_was_asked_for_is_not_shrunk() {
    let nodes = nodes(&[100 * MIB]);
    let request = PlanRequest { kv_tokens: Some(1_000_000), ..request(1, &nodes) };
    assert!(matches!(plan(&spec(), &request), Err(PlanError::DoesNotFit { .. })));
}

#[test]
fn requests_that_contradict_themselves_are_refused() {
    let nodes = nodes(&[1 << 40]);
    let base = request(2, &nodes);
    let cases = [
        (PlanRequest { nodes: &[], ..base }, PlanError::NoNodes { ranks: 2 }),
        (PlanRequest { step_tokens: 0, ..base }, PlanError::Zero { what: "step_tokens" }),
        (PlanRequest { max_seqs: 0, ..base }, PlanError::Zero { what: "max_seqs" }),
        (PlanRequest { kv_tokens: Some(0), ..base }, PlanError::Zero { what: "kv_tokens" }),
        (PlanRequest { context_tokens: Some(0), ..base }, PlanError::Zero { what: "context_tokens" }),
        (
            PlanRequest { context_tokens: Some(32_769), ..base },
            PlanError::ContextTooLong { context_tokens: 32_769, max: 32_768 },
        ),
        (
            PlanRequest { context_tokens: Some(64), kv_tokens: Some(63), ..base },
            PlanError::KvBelowContext { kv_tokens: 63, context_tokens: 64 },
        ),
    ];
    for (request, expected) in cases {
        assert_eq!(plan(&spec(), &request), Err(expected));
    }
}

#[test]
fn a_plan_of_another_model_or_with_a_hole_is_refused() {
    let nodes = nodes(&[1 << 40]);
    let good = plan(&spec(), &request(3, &nodes)).expect("fits");
    assert_eq!(check_plan(&spec(), &good), Ok(()));
    let mut other = spec();
    other.vocab_size += 64;
    assert!(matches!(check_plan(&other, &good), Err(CutError::Cover { what: "vocabulary rows", .. })));
    let mut hole = good.clone();
    hole.ranks[1].cut.head_atoms.start += 1;
    assert!(matches!(check_plan(&spec(), &hole), Err(CutError::Cover { what: "head atoms", .. })));
    let mut wide = good;
    wide.ranks[2].cut.kv_heads.end = u32::MAX;
    assert!(matches!(check_plan(&spec(), &wide), Err(CutError::Rank { .. })));
}

#[test]
fn the_table_has_a_row_a_rank_and_a_sum() {
    let nodes = nodes(&[1 << 40, 1 << 40]);
    let plan = plan(&spec(), &request(2, &nodes)).expect("fits");
    let text = MemoryTable(&plan).to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert!(lines[1].starts_with("0     node-1") && lines[2].starts_with("1     node-2"), "{text}");
    assert!(lines[4].contains("65536 tokens") && lines[4].contains("32768 tokens"), "{text}");
}
