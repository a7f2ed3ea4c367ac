//! Alone = in a batch of 32.

use super::{ALL, REQUESTS, alone, assert_same, cases, together, wide};

#[test]
fn alone_is_in_a_batch_of_32() {
    for model in ALL {
        let cases = cases(model);
        let expected = alone(model, &cases);
        let mut rig = model.rig(1, wide());
        let found = together(&mut rig, &cases);
        let longest = expected.iter().map(|a| a.0.len()).max().expect("there are some");
        let load = rig.gauge.load();
        assert!(load.steps < 4 * longest as u64, "{REQUESTS} requests took {} steps: no batch", load.steps);
        assert_same("alone = in a batch of 32", model, &expected, &found);
        rig.drain();
    }
}
