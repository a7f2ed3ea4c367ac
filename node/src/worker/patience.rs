//! How long a rank waits for its peers within one collective before it takes them for dead.
//!
//! Not here: measured step times. The bound is derived from the work between two collectives at a speed that any
//! machine reaches, so that a long prefill is never taken for death.

use std::time::Duration;

use protocol::Plan;
use sharding::ModelSpec;

/// Scheduling, page faults and the network, whatever the model.
const BASE: Duration = Duration::from_secs(4);
/// Slowest rank that is waited for, floating-point operations a second.
const FLOPS_MIN: u64 = 10_000_000_000;
/// Longest wait, whatever the model.
const MOST: Duration = Duration::from_secs(600);

/// The step timeout of a group: [`BASE`], and what the largest rank needs for one layer of the largest step over the
/// longest context.
pub(super) fn step_timeout(spec: &ModelSpec, plan: &Plan, step_tokens: u32) -> Duration {
    let layers = u64::from(spec.num_layers).max(1);
    // Two bytes an element is the least that a weight is held in, so this counts no fewer parameters than there are.
    let params = plan.ranks.iter().map(|r| r.budget.weights / 2).max().unwrap_or(0);
    let heads = plan.ranks.iter().map(|r| r.cut.heads.len()).max().unwrap_or(0);
    let attention = 4 * u64::from(plan.context_tokens) * u64::from(heads) * u64::from(spec.head_dim);
    let flops = u64::from(step_tokens).saturating_mul((2 * params / layers).saturating_add(attention));
    BASE.saturating_add(Duration::from_millis(flops / (FLOPS_MIN / 1000))).min(MOST)
}

#[cfg(test)]
mod tests {
    use protocol::{Dtype, NodeId, WorldSize};
    use sharding::{NodeCapacity, PlanRequest};

    use super::*;

    fn timeout(config: &str, step_tokens: u32) -> Duration {
        let path = format!("{}/../{config}", env!("CARGO_MANIFEST_DIR"));
        let spec = ModelSpec::from_config_json(&std::fs::read_to_string(path).expect("a config")).expect("a spec");
        let node = NodeCapacity { node: NodeId::new("node-1").expect("a label"), memory_free: 1 << 40 };
        let request = PlanRequest {
            world_size: WorldSize::new(2).expect("two"),
            dtype: Dtype::Bf16,
            stored_f32: false,
            kv_tokens: None,
            context_tokens: None,
            step_tokens,
            max_seqs: 8,
            nodes: &[node],
        };
        step_timeout(&spec, &sharding::plan(&spec, &request).expect("it fits"), step_tokens)
    }

    #[test]
    fn a_small_model_is_given_up_soon_and_a_large_step_of_a_large_one_is_waited_for() {
        let nano = timeout("models/autoglm-nano/config.json", 512);
        assert!(nano >= BASE && nano < BASE + Duration::from_secs(2), "{nano:?}");
        let large = timeout("tests/fixtures/real_configs/GLM-4-9B-0414.config.json", 2048);
        assert!(large > Duration::from_secs(30) && large <= MOST, "{large:?}");
    }
}
