//! How much work a step is, from its plan alone.
//!
//! Not here: time (`allowance`). Invariant: more tokens, later positions, more rows or a picture never make it less.

use protocol::Plan;
use protocol::step::StepPlan;
use sharding::planner::PICTURE_PATCHES_MAX;
use sharding::{ModelSpec, VisionSpec};

use super::tower_pace::block_flops;

/// A decoding step reads every weight for however few tokens: it counts as so many more.
const TOKENS_AT_LEAST: u64 = 8;

/// What a step asks of the rank that has most to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct StepWork {
    /// Floating-point operations of the text model, with what reading its weights counts as.
    pub(super) flops: u64,
    /// Bytes that a rank sends and receives.
    pub(super) wire_bytes: u64,
    /// Floating-point operations of the tower, at most; 0 where the step does nothing for pictures.
    pub(super) tower_flops: u64,
}

/// The cost of each part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StepCost {
    token_flops: u64,
    /// Of one token that attends to one other, in all layers.
    pair_flops: u64,
    token_bytes: u64,
    row_bytes: u64,
    picture_flops: u64,
}

impl StepCost {
    /// Of a group with this plan.
    pub(super) fn of(spec: &ModelSpec, plan: &Plan) -> Self {
        // Two bytes an element is the least that a weight is held in, so this counts no fewer parameters than there are.
        let params = plan.ranks.iter().map(|r| r.budget.weights / 2).max().unwrap_or(0);
        let heads = plan.ranks.iter().map(|r| r.cut.heads.len()).max().unwrap_or(0);
        let layers = u64::from(spec.num_layers);
        let peers = u64::from(plan.world_size.get()) - 1;
        let f32s = |values: u64| 4 * values * peers;
        Self {
            token_flops: 2 * params,
            pair_flops: 4 * u64::from(heads) * u64::from(spec.head_dim) * layers,
            // Two all-reduces a layer; a rank sends up to two subtrees of each, and receives as many of each peer.
            token_bytes: f32s(u64::from(spec.hidden_size)) * 2 * layers * 4,
            row_bytes: f32s(u64::from(spec.vocab_size)),
            picture_flops: spec.vision.as_ref().map_or(0, largest_picture_flops),
        }
    }

    /// Of one step.
    pub(super) fn work(&self, plan: &StepPlan) -> StepWork {
        let (mut tokens, mut pairs, mut rows) = (0u64, 0u64, 0u64);
        for seq in &plan.seqs {
            let (start, new) = (u64::from(seq.start), seq.tokens.len() as u64);
            tokens += new;
            pairs += new * start + new * (new + 1) / 2;
            rows += seq.logits.rows(seq.tokens.len()) as u64;
        }
        let flops = self.token_flops.saturating_mul(tokens + TOKENS_AT_LEAST);
        StepWork {
            flops: flops.saturating_add(self.pair_flops.saturating_mul(pairs)),
            wire_bytes: self.token_bytes.saturating_mul(tokens).saturating_add(self.row_bytes.saturating_mul(rows)),
            tower_flops: if plan.pictures.is_empty() { 0 } else { self.picture_flops },
        }
    }
}

/// Floating-point operations of all that one step may do for the largest picture: take it in, run one block of it, give it
/// out. (Rank 0 plans more than one block only where they take a fraction of a second.)
fn largest_picture_flops(vision: &VisionSpec) -> u64 {
    let patches = u64::from(PICTURE_PATCHES_MAX);
    let (hidden, out) = (u64::from(vision.hidden_size), u64::from(vision.out_hidden_size));
    let merged = u64::from(vision.merged_patches());
    let taken_in = u64::from(vision.patch_elements()) * hidden;
    let given_out = (merged * hidden * out + out * out + 3 * out * u64::from(vision.merger_size)) / merged.max(1);
    2 * patches * (taken_in + given_out) + block_flops(vision, patches)
}

#[cfg(test)]
impl StepCost {
    /// By which no step is ever late.
    pub(super) fn patient() -> Self {
        Self { token_bytes: 1 << 30, ..Self::uniform(1) }
    }

    /// Of a model of which each part costs as much.
    pub(super) fn uniform(cost: u64) -> Self {
        Self { token_flops: cost, pair_flops: cost, token_bytes: cost, row_bytes: cost, picture_flops: cost }
    }

    /// Of a checkpoint's configuration, cut in two.
    pub(super) fn of_config(config: &str) -> Self {
        use protocol::{Dtype, NodeId, WorldSize};
        use sharding::{NodeCapacity, PlanRequest};
        let path = format!("{}/../{config}", env!("CARGO_MANIFEST_DIR"));
        let spec = ModelSpec::from_config_json(&std::fs::read_to_string(path).expect("a config")).expect("a spec");
        let node = NodeCapacity { node: NodeId::new("node-1").expect("a label"), memory_free: 1 << 40 };
        let request = PlanRequest {
            world_size: WorldSize::new(2).expect("two"),
            dtype: Dtype::Bf16,
            stored_f32: false,
            kv_tokens: None,
            context_tokens: None,
            step_tokens: 2048,
            max_seqs: 8,
            nodes: &[node],
        };
        Self::of(&spec, &sharding::plan(&spec, &request).expect("it fits"))
    }
}

#[cfg(test)]
mod tests {
    use protocol::SeqId;
    use protocol::picture::PictureWork;
    use protocol::step::{LogitsWanted, StepSeq};

    use super::*;

    fn step(seqs: &[(u32, usize)]) -> StepPlan {
        let seq = |(start, tokens): &(u32, usize)| StepSeq {
            seq: SeqId(1),
            start: *start,
            tokens: vec![0; *tokens],
            blocks: Vec::new(),
            pictures: Vec::new(),
            logits: LogitsWanted::Last,
        };
        StepPlan { seqs: seqs.iter().map(seq).collect(), ..StepPlan::last(1) }
    }

    #[test]
    fn work_grows_with_tokens_with_position_with_rows_and_with_pictures() {
        let cost = StepCost::of_config("tests/fixtures/real_configs/GLM-4.1V-9B-Thinking.config.json");
        let of = |seqs: &[(u32, usize)]| cost.work(&step(seqs));
        let decode = of(&[(0, 1)]);
        assert!(of(&[(0, 2)]).flops > decode.flops);
        assert!(of(&[(20_000, 1)]).flops > decode.flops);
        assert!(of(&[(0, 1), (0, 1)]).wire_bytes > decode.wire_bytes);
        let halves = of(&[(0, 256)]).flops + of(&[(256, 256)]).flops;
        let whole = of(&[(0, 512)]).flops + cost.token_flops * TOKENS_AT_LEAST;
        assert_eq!(whole, halves, "a prompt's attention is the same work in chunks");
        let mut looking = step(&[(0, 1)]);
        looking.pictures = PictureWork { blocks: 1, ..PictureWork::default() };
        assert!(cost.work(&looking).tower_flops > 1_000_000_000_000);
        assert_eq!(decode.tower_flops, 0);
    }

    #[test]
    fn a_rank_alone_sends_nothing() {
        let mut cost = StepCost::of_config("models/autoglm-nano/config.json");
        assert!(cost.work(&step(&[(0, 1)])).wire_bytes > 0);
        (cost.token_bytes, cost.row_bytes) = (0, 0);
        assert_eq!(cost.work(&step(&[(0, 1)])).wire_bytes, 0);
    }
}
