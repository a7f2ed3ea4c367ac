//! Undisturbed = with a canary before every step.

use super::{ALL, alone, assert_same, cases, together, wide};

#[test]
fn undisturbed_is_beside_canaries() {
    for model in ALL {
        let cases = cases(model);
        let expected = alone(model, &cases);
        let mut rig = model.rig_with_canaries(2, wide());
        let found = together(&mut rig, &cases);
        assert_same("undisturbed = beside canaries", model, &expected, &found);
        assert!(rig.gauge.progress().proof(std::time::Instant::now()).is_some_and(|p| p.is_good()));
        let gauge = rig.gauge.clone();
        rig.drain();
        let stats = gauge.stats();
        let finished = stats.finished_stop + stats.finished_length;
        assert_eq!(finished, cases.len() as u64, "canaries are in nobody's figures: {stats:?}");
    }
}
