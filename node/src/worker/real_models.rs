//! Real models for tests: the project's own and tiny random ones, cut for any world size, in a [`Rig`].

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kernels::Pool;
use protocol::{Dtype, NodeId, WorldSize};
use sharding::checkpoint::read_pixel_spec;
use sharding::layers::Glm4Text;
use sharding::{ModelSpec, NodeCapacity, PixelSpec, PlanRequest};

use super::canary::Canary;
use super::leader::PLAN_AHEAD_MIN;
use super::rig::Rig;
use super::seeing::Seeing;
use super::step_cost::StepCost;
use crate::engine::EngineLimits;

/// A file or directory of the workspace.
pub(super) fn workspace(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RealModel {
    pub(super) name: &'static str,
    dir: &'static str,
    pub(super) vocab: u32,
}

/// The model that comes with the project.
pub(super) const NANO: RealModel = RealModel { name: "autoglm-nano", dir: "models/autoglm-nano", vocab: 4096 };

const fn tiny(name: &'static str, dir: &'static str) -> RealModel {
    RealModel { name, dir, vocab: 2048 }
}

/// Every model of the tests.
pub(super) const ALL: [RealModel; 4] = [
    NANO,
    tiny("tiny-glm4", "tests/fixtures/checkpoints/tiny-glm4"),
    tiny("tiny-glm4-bias-f32-sharded", "tests/fixtures/checkpoints/tiny-glm4-bias-f32-sharded"),
    tiny("tiny-glm4v", "tests/fixtures/checkpoints/tiny-glm4v"),
];

impl RealModel {
    /// A replica of `world` ranks.
    pub(super) fn rig(self, world: u16, limits: EngineLimits) -> Rig {
        self.rig_with(world, limits, PLAN_AHEAD_MIN, limits.context_tokens())
    }

    /// As [`Self::rig`], planning ahead after steps of `plan_ahead_min`, and keeping embeddings of as many tokens.
    pub(super) fn rig_with(
        self,
        world: u16,
        limits: EngineLimits,
        plan_ahead_min: Duration,
        picture_tokens_max: u32,
    ) -> Rig {
        let spec = self.spec();
        let vision = spec.vision.as_ref().map(|vision| (vision, picture_tokens_max));
        Rig::start_seeing(self.load(world, limits), limits, plan_ahead_min, vision)
    }

    /// As [`Self::rig`], planning each step while the one before it computes.
    pub(super) fn rig_planning_ahead(self, world: u16, limits: EngineLimits) -> Rig {
        self.rig_with(world, limits, Duration::ZERO, limits.context_tokens())
    }

    /// As [`Self::rig`], with a canary before every step.
    pub(super) fn rig_with_canaries(self, world: u16, limits: EngineLimits) -> Rig {
        let spec = self.spec();
        let vision = spec.vision.as_ref().map(|vision| (vision, limits.context_tokens()));
        let watch = (StepCost::patient(), Some(Canary::restless(limits.kv_blocks())));
        Rig::start_with(self.load(world, limits), limits, PLAN_AHEAD_MIN, vision, watch)
    }

    pub(super) fn spec(self) -> ModelSpec {
        let record = sharding::model_record(&workspace(self.dir)).expect("a checkpoint");
        ModelSpec::from_config_json(&record.config_json).expect("a spec")
    }

    /// How pictures are cut for it, where it sees.
    pub(super) fn pixels(self) -> Option<PixelSpec> {
        let vision = self.spec().vision?;
        Some(read_pixel_spec(&workspace(self.dir), &vision).expect("a processor"))
    }

    fn load(self, world: u16, limits: EngineLimits) -> Vec<Seeing> {
        let dir = workspace(self.dir);
        let record = sharding::model_record(&dir).expect("a checkpoint");
        let spec = ModelSpec::from_config_json(&record.config_json).expect("a spec");
        assert_eq!(spec.vocab_size, self.vocab);
        let node = NodeCapacity { node: NodeId::new("node-1").expect("a label"), memory_free: 8 << 30 };
        let request = PlanRequest {
            world_size: WorldSize::new(world).expect("a world size"),
            dtype: Dtype::F32,
            stored_f32: record.stored_f32,
            kv_tokens: Some(limits.kv_blocks() * 16),
            context_tokens: Some(limits.context_tokens()),
            step_tokens: limits.step_tokens(),
            max_seqs: limits.max_seqs(),
            nodes: &[node],
        };
        let plan = sharding::plan(&spec, &request).expect("it fits");
        let load = |rank| {
            let pool = Pool::new(NonZeroUsize::MIN).expect("inline");
            let text = Glm4Text::load(&dir, &spec, &plan, rank, Dtype::F32, pool, &mut |_, _| {}).expect("it loads");
            Seeing::new(text, self.pixels())
        };
        plan.world_size.ranks().map(load).collect()
    }
}
