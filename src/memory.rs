//! The memory plan before anything is loaded: which rank holds how many bytes on which node, or the number that does
//! not fit.
//!
//! Not here: the plan itself (`sharding::planner`), and the cluster's own planning from live reports. Invariant: no
//! weight is read for it, only headers.

use std::fmt::Write as _;

use anyhow::Context as _;
use protocol::{ModelRecord, NodeId, Plan};
use sharding::{MemoryTable, ModelSpec, NodeCapacity, PlanRequest};

use crate::config::DeploymentConfig;

/// The plans of a deployment's replicas, placed one after the other.
#[derive(Debug, serde::Serialize)]
pub(crate) struct MemoryPlan {
    /// One a replica.
    pub(crate) replicas: Vec<Plan>,
}

/// `count` nodes `node-1…` with `memory_bytes` each.
///
/// # Errors
/// A count that gives no legal name; none does.
pub(crate) fn alike(count: u16, memory_bytes: u64) -> anyhow::Result<Vec<NodeCapacity>> {
    let node = |i| anyhow::Ok(NodeCapacity { node: NodeId::new(format!("node-{i}"))?, memory_free: memory_bytes });
    (1..=count).map(node).collect()
}

impl MemoryPlan {
    /// Plans every replica of `deployment` on `nodes`; each takes what the ones before it left.
    ///
    /// # Errors
    /// The node that is short, with bytes needed and free; or a model that its configuration does not describe.
    pub(crate) fn new(
        deployment: &DeploymentConfig,
        model: &ModelRecord,
        mut nodes: Vec<NodeCapacity>,
    ) -> anyhow::Result<Self> {
        let spec = ModelSpec::from_config_json(&model.config_json)?;
        let mut replicas = Vec::new();
        for replica in 1..=deployment.replicas {
            let request = PlanRequest {
                world_size: deployment.tp,
                dtype: deployment.dtype,
                stored_f32: model.stored_f32,
                kv_tokens: deployment.kv_tokens(),
                context_tokens: deployment.context_tokens(),
                step_tokens: deployment.step_tokens,
                max_seqs: deployment.max_seqs,
                nodes: &nodes,
            };
            let plan = sharding::plan(&spec, &request)
                .with_context(|| format!("replica {replica} of {} cannot be placed", deployment.replicas))?;
            for node in &mut nodes {
                let taken: u64 = plan.ranks.iter().filter(|r| r.node == node.node).map(|r| r.budget.total()).sum();
                node.memory_free = node.memory_free.saturating_sub(taken);
            }
            replicas.push(plan);
        }
        Ok(Self { replicas })
    }

    /// A table a replica.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (i, plan) in self.replicas.iter().enumerate() {
            if self.replicas.len() > 1 {
                writeln!(text, "replica {}", i + 1).expect("a String takes any text");
            }
            writeln!(text, "{}", MemoryTable(plan)).expect("a String takes any text");
        }
        text
    }
}
