//! How many blocks of a tower fit into one step, so that sequences of text do not wait long for a picture.
//!
//! Not here: which picture. A pure fold over (patches, blocks, duration); no result depends on it, only when it is there.

use std::time::Duration;

use sharding::VisionSpec;

use super::model::TowerWork;

/// How long a step may spend on pictures beside sequences that run.
const BESIDE_TEXT: Duration = Duration::from_millis(50);
/// How long, where nobody else waits for it: long enough that a step's own costs do not count, and a newcomer's text
/// still does not wait noticeably.
const ALONE: Duration = Duration::from_millis(250);
/// What an earlier measurement still counts for after the next one.
const KEPT: f64 = 0.7;

/// Floating-point operations of one block over a picture of `patches` patches.
pub(super) fn block_flops(spec: &VisionSpec, patches: u64) -> u64 {
    let (hidden, out) = (u64::from(spec.hidden_size), u64::from(spec.out_hidden_size));
    let weights = 4 * hidden * hidden + 3 * out * hidden;
    2 * patches * weights + 4 * patches * patches * hidden
}

/// What towers have shown so far.
#[derive(Debug, Clone)]
pub(super) struct TowerPace {
    spec: VisionSpec,
    /// `None` before the first measurement.
    flops_per_second: Option<f64>,
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate; a float's cast to an integer stops at the bounds"
)]
impl TowerPace {
    /// Of a tower that has shown nothing yet.
    pub(super) fn new(spec: VisionSpec) -> Self {
        Self { spec, flops_per_second: None }
    }

    /// Blocks of a picture of `patches` patches for the next step; at least one, so that every picture comes to its end.
    pub(super) fn blocks(&self, patches: u32, beside_text: bool) -> u16 {
        let Some(pace) = self.flops_per_second else { return 1 };
        let room = if beside_text { BESIDE_TEXT } else { ALONE };
        let block = block_flops(&self.spec, u64::from(patches)) as f64 / pace;
        ((room.as_secs_f64() / block) as u16).max(1)
    }

    /// Counts what a tower did in a step.
    pub(super) fn record(&mut self, work: TowerWork) {
        let done = u64::from(work.blocks).saturating_mul(block_flops(&self.spec, u64::from(work.patches)));
        let seconds = work.took.as_secs_f64();
        if seconds > 0.0 && done > 0 {
            let measured = done as f64 / seconds;
            let pace = self.flops_per_second.get_or_insert(measured);
            *pace = *pace * KEPT + measured * (1.0 - KEPT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> VisionSpec {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/real_configs/GLM-4.1V-9B-Thinking.config.json");
        let config = std::fs::read_to_string(path).expect("a config");
        sharding::ModelSpec::from_config_json(&config).expect("a spec").vision.expect("it sees")
    }

    #[test]
    fn as_many_blocks_as_fit_and_one_at_least() {
        let mut pace = TowerPace::new(spec());
        assert_eq!(pace.blocks(64, false), 1, "nothing is known yet");
        pace.record(TowerWork { patches: 1000, blocks: 2, took: Duration::from_millis(40) });
        assert_eq!((pace.blocks(1000, true), pace.blocks(1000, false)), (2, 12));
        assert!(pace.blocks(250, true) > 8, "small pictures take less");
        assert_eq!(pace.blocks(12_768, true), 1);
        // A machine that slows down is believed soon.
        for _ in 0..20 {
            pace.record(TowerWork { patches: 1000, blocks: 1, took: Duration::from_millis(200) });
        }
        assert_eq!((pace.blocks(1000, true), pace.blocks(1000, false)), (1, 1));
    }
}
