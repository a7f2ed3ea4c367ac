//! Undisturbed = preempted, its blocks taken by others, and computed again.

use protocol::generate::SamplingParams;

use super::{ALL, Case, alone, assert_same, cases, together};
use crate::engine::EngineLimits;

#[test]
fn undisturbed_is_preempted_and_recomputed() {
    for model in ALL {
        let longer = |case: Case| {
            let sampling = SamplingParams { max_tokens: 48, ..case.sampling };
            Case { sampling, ..case }
        };
        let cases: Vec<Case> = cases(model).into_iter().map(longer).collect();
        let expected = alone(model, &cases);
        // Two of the longest or so have room, and sixteen contend for it.
        let limits = EngineLimits::new(48, 16, 64, 144, 240).expect("workable").with_waiting_tokens(100_000);
        let mut rig = model.rig(1, limits);
        let found = together(&mut rig, &cases);
        let stats = rig.gauge.stats();
        assert!(stats.preemptions > 2 && stats.prefix_cache_evictions > 0, "{stats:?}");
        eprintln!("{}: {} preemptions, {} evictions", model.name, stats.preemptions, stats.prefix_cache_evictions);
        assert_same("undisturbed = preempted and recomputed", model, &expected, &found);
        rig.drain();
    }
}
