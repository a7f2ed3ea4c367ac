//! Undisturbed = beside neighbours that are cancelled at any time.

use protocol::generate::SamplingParams;

use super::super::submission::Reply;
use super::{ALL, Case, alone, answer, assert_same, cases, submit, wide};

#[test]
fn undisturbed_is_after_cancellation_of_neighbours() {
    for model in ALL {
        let cases = cases(model);
        let expected = alone(model, &cases);
        let mut rig = model.rig(2, wide());
        let mut found = Vec::new();
        let mut neighbours = Vec::new();
        // Between the requests come neighbours with the same prompts and blocks; each leaves after another number of
        // tokens, some before their first.
        let streams: Vec<_> = cases
            .iter()
            .enumerate()
            .map(|(i, case)| {
                let sampling = SamplingParams { max_tokens: 500, stop_token_ids: vec![], ..case.sampling.clone() };
                let neighbour = submit(&mut rig, &Case { sampling, ..case.clone() });
                if i % 3 > 0 {
                    neighbours.push((i, neighbour));
                }
                submit(&mut rig, case)
            })
            .collect();
        for (i, mut neighbour) in neighbours {
            for _ in 0..i % 7 {
                assert!(matches!(neighbour.next(), Reply::Token { .. }));
            }
        }
        for stream in streams {
            found.push(answer(stream, 0));
        }
        assert_eq!(rig.settle(), 0);
        let stats = rig.gauge.stats();
        assert_eq!(stats.finished_abort, cases.len() as u64, "{stats:?}");
        assert_same("undisturbed = after cancellation of neighbours", model, &expected, &found);
        rig.drain();
    }
}
