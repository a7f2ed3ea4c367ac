//! TP 1 = 2 = 4.

use super::{ALL, alone, assert_same, cases, together, wide};

#[test]
fn tp_1_is_2_is_4() {
    for model in ALL {
        let cases = cases(model);
        let expected = alone(model, &cases);
        for world in [1, 2, 4] {
            let mut rig = model.rig(world, wide());
            let found = together(&mut rig, &cases);
            assert_same(&format!("TP 1 = TP {world}"), model, &expected, &found);
            rig.drain();
        }
    }
}
