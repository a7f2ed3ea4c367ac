//! A choice of one of several = the same choice alone.

use protocol::generate::{Choice, GenerateRequest};

use super::{ALL, Case, REQUESTS, alone, assert_same, cases, wide};
use crate::engine::EngineLimits;

/// Choices of one request, by index.
const INDEXES: [u16; 4] = [0, 1, 2, 5];

#[test]
fn a_choice_among_several_is_the_choice_alone() {
    for model in ALL {
        let requests: Vec<Case> = cases(model).into_iter().take(REQUESTS / INDEXES.len()).collect();
        let of = |case: &Case| {
            INDEXES.map(|choice| Case { choice, cache_salt: format!("{choice} {}", case.cache_salt), ..case.clone() })
        };
        let singles: Vec<Case> = requests.iter().flat_map(of).collect();
        let expected = alone(model, &singles);
        // With room for all, and so little that most choices wait for others to end.
        let narrow = EngineLimits::new(16, 3, 64, 112, 240).expect("workable").with_waiting_tokens(100_000);
        for (limits, what) in [(wide(), "choice alone = one of 4"), (narrow, "choice alone = one of 4, 3 at a time")] {
            let mut rig = model.rig(2, limits);
            let send = |case: &Case| {
                let request = GenerateRequest {
                    choices: INDEXES.map(|index| Choice { index, resume: Vec::new() }).to_vec(),
                    cache_salt: case.cache_salt.clone(),
                    ..rig.request(&case.prompt, case.sampling.clone())
                };
                rig.send_with(request, case.pictures())
            };
            let streams: Vec<_> = requests.iter().map(send).collect();
            let found: Vec<_> =
                streams.into_iter().flat_map(|mut s| s.finish_all(INDEXES.len()).into_values()).collect();
            assert_same(what, model, &expected, &found);
            assert_eq!(rig.settle(), 0);
            rig.drain();
        }
        let drawn = expected.chunks(INDEXES.len()).nth(2).expect("a drawn request");
        assert!(drawn.iter().skip(1).all(|answer| answer.0 != drawn[0].0), "choices do not differ");
    }
}
