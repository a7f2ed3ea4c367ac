//! Small values for tests of the control plane.

use std::net::SocketAddr;

use protocol::lease::Inventory;
use protocol::plan::RankAddr;
use protocol::{
    AtomRun, ByteBudget, DeploymentSpec, Dtype, Generation, ModelRecord, NodeId, Plan, Rank, RankCut, RankPlan, Span,
    WorldSize,
};

pub(crate) fn node(n: u16) -> NodeId {
    NodeId::new(format!("node-{n}")).expect("a label")
}

pub(crate) fn world(n: u16) -> WorldSize {
    WorldSize::new(n).expect("in range")
}

pub(crate) fn inventory(memory_bytes: u64) -> Inventory {
    Inventory { cores: 2, memory_bytes, version: "0.1.0".into() }
}

/// A small dense model, tp and replicas as said.
pub(crate) fn spec(tp: u16, replicas: u16) -> DeploymentSpec {
    DeploymentSpec {
        name: "nano".into(),
        generation: Generation(0),
        model: ModelRecord {
            name: "tiny".into(),
            digest: "00".repeat(32),
            dir: "/models/tiny".into(),
            config_json: CONFIG.into(),
            stored_f32: true,
            weight_bytes: 1 << 20,
        },
        served_names: vec!["tiny".into()],
        tp: world(tp),
        replicas,
        dtype: Dtype::F32,
        threads_per_worker: 1,
        kv_tokens: Some(256),
        context_tokens: Some(128),
        max_seqs: 4,
        step_tokens: 64,
        pictures: None,
    }
}

const CONFIG: &str = r#"{"architectures": ["Glm4ForCausalLM"], "vocab_size": 2048, "hidden_size": 128,
  "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16,
  "max_position_embeddings": 32768}"#;

/// A plan whose rank `i` is on `nodes[i]`; its cut is not meant to be loaded.
pub(crate) fn plan(nodes: &[NodeId]) -> Plan {
    let span = Span { start: 0, end: 1 };
    let run = AtomRun { start: 0, end: 1 };
    let cut =
        RankCut { head_atoms: run, heads: span, kv_heads: span, mlp_atoms: run, mlp_cols: span, vocab_rows: span };
    let budget = ByteBudget { weights: 1000, kv_cache: 0, activations: 0 };
    let rank = |(i, n): (usize, &NodeId)| RankPlan { rank: Rank(i as u16), node: n.clone(), cut: cut.clone(), budget };
    Plan {
        world_size: world(nodes.len() as u16),
        kv_tokens: 256,
        context_tokens: 128,
        ranks: nodes.iter().enumerate().map(rank).collect(),
    }
}

pub(crate) fn addr(rank: u16, node: NodeId) -> RankAddr {
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    RankAddr::new(Rank(rank), node, at(40_000 + rank), at(41_000 + rank))
}
