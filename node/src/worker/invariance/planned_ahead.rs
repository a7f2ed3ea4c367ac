//! Planned after the step before = planned while it computes.

use super::{ALL, alone, assert_same, cases, together, wide};

#[test]
fn planned_after_is_planned_ahead() {
    for model in ALL {
        let cases = cases(model);
        let expected = alone(model, &cases);
        let mut rig = model.rig_planning_ahead(2, wide());
        let found = together(&mut rig, &cases);
        assert_same("planned after = planned ahead", model, &expected, &found);
        rig.drain();
    }
}
