//! How long a rank waits for its peers within one collective before it takes them for dead.
//!
//! Not here: measured step times. The bound is derived from the work between two collectives at a speed that any
//! machine reaches, so that a long prefill is never taken for death.

use std::time::Duration;

use protocol::Plan;
use protocol::step::StepPlan;
use sharding::planner::PICTURE_PATCHES_MAX;
use sharding::{ModelSpec, VisionSpec};

use super::tower_pace::block_flops;

/// Scheduling, page faults and the network, whatever the model.
const BASE: Duration = Duration::from_secs(4);
/// Slowest rank that is waited for, floating-point operations a second.
const FLOPS_MIN: u64 = 10_000_000_000;
/// Longest wait, whatever the model.
const MOST: Duration = Duration::from_secs(600);

/// How long a rank waits within one collective, by what the step has its peers do before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience {
    text: Duration,
    /// For a step that also has work for a tower.
    looking: Duration,
}

impl Patience {
    /// The patience of a group: [`BASE`], and what the largest rank needs for one layer of the largest step over the longest
    /// context; where pictures are encoded, also what a tower needs to take in the largest picture, run one block of it and
    /// give it out. (Rank 0 plans more than one block only where they take a fraction of a second.)
    pub(super) fn of(spec: &ModelSpec, plan: &Plan, step_tokens: u32) -> Self {
        let layers = u64::from(spec.num_layers).max(1);
        // Two bytes an element is the least that a weight is held in, so this counts no fewer parameters than there are.
        let params = plan.ranks.iter().map(|r| r.budget.weights / 2).max().unwrap_or(0);
        let heads = plan.ranks.iter().map(|r| r.cut.heads.len()).max().unwrap_or(0);
        let attention = 4 * u64::from(plan.context_tokens) * u64::from(heads) * u64::from(spec.head_dim);
        let text = u64::from(step_tokens).saturating_mul((2 * params / layers).saturating_add(attention));
        let tower = spec.vision.as_ref().map_or(0, largest_picture_flops);
        let wait = |flops: u64| BASE.saturating_add(Duration::from_millis(flops / (FLOPS_MIN / 1000))).min(MOST);
        Self { text: wait(text), looking: wait(text.saturating_add(tower)) }
    }

    /// The same for every step.
    #[cfg(test)]
    pub(super) fn always(wait: Duration) -> Self {
        Self { text: wait, looking: wait }
    }

    /// For one step.
    pub(super) fn for_step(&self, plan: &StepPlan) -> Duration {
        if plan.pictures.is_empty() { self.text } else { self.looking }
    }
}

/// Floating-point operations of all that one step may do for the largest picture.
fn largest_picture_flops(vision: &VisionSpec) -> u64 {
    let patches = u64::from(PICTURE_PATCHES_MAX);
    let (hidden, out) = (u64::from(vision.hidden_size), u64::from(vision.out_hidden_size));
    let merged = u64::from(vision.merged_patches());
    let taken_in = u64::from(vision.patch_elements()) * hidden;
    let given_out = (merged * hidden * out + out * out + 3 * out * u64::from(vision.merger_size)) / merged.max(1);
    2 * patches * (taken_in + given_out) + block_flops(vision, patches)
}

#[cfg(test)]
mod tests {
    use protocol::{Dtype, NodeId, WorldSize};
    use sharding::{NodeCapacity, PlanRequest};

    use super::*;

    fn patience(config: &str, step_tokens: u32) -> Patience {
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
        Patience::of(&spec, &sharding::plan(&spec, &request).expect("it fits"), step_tokens)
    }

    #[test]
    fn a_small_model_is_given_up_soon_and_a_large_step_of_a_large_one_is_waited_for() {
        let nano = patience("models/autoglm-nano/config.json", 512);
        assert!(nano.text >= BASE && nano.text < BASE + Duration::from_secs(2), "{nano:?}");
        let large = patience("tests/fixtures/real_configs/GLM-4-9B-0414.config.json", 2048);
        assert!(large.text > Duration::from_secs(30) && large.text <= MOST, "{large:?}");
        assert_eq!(large.looking, large.text);
    }

    #[test]
    fn a_rank_with_a_picture_is_waited_for_in_that_step_alone() {
        let seeing = patience("tests/fixtures/real_configs/GLM-4.1V-9B-Thinking.config.json", 512);
        assert!(seeing.looking > seeing.text + Duration::from_secs(100) && seeing.looking < MOST, "{seeing:?}");
        let mut plan = StepPlan::last(1);
        assert_eq!(seeing.for_step(&plan), seeing.text);
        plan.pictures.blocks = 1;
        assert_eq!(seeing.for_step(&plan), seeing.looking);
    }
}
