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
        rig.settle();
        let stats = rig.gauge.stats();
        let answered: u64 = found.iter().map(|(tokens, _)| tokens.len() as u64).sum();
        assert_eq!(stats.generation_tokens, answered, "canaries are in nobody's figures");
        assert!(rig.gauge.progress().proof(std::time::Instant::now()).is_some_and(|p| p.is_good()));
        rig.drain();
    }
}
