//! Whole prompts = prompts in chunks of at most 16 tokens.

use super::{ALL, alone, assert_same, cases, one_by_one, together};
use crate::engine::EngineLimits;

#[test]
fn whole_is_chunked_by_16() {
    for model in ALL {
        let cases = cases(model);
        assert!(cases.iter().filter(|c| c.prompt.len() > 32).count() > 10, "prompts are too short to be cut");
        let expected = alone(model, &cases);
        let limits = EngineLimits::new(16, 16, 64, 1024, 16_384).expect("workable");
        let mut rig = model.rig(1, limits);
        let found = one_by_one(&mut rig, &cases);
        assert_same("whole = chunked by 16", model, &expected, &found);
        rig.drain();
        // Chunks that share their steps with others' tokens have any length.
        let mut rig = model.rig(1, limits);
        let found = together(&mut rig, &cases);
        assert_same("whole = chunked by at most 16 beside others", model, &expected, &found);
        rig.drain();
    }
}
