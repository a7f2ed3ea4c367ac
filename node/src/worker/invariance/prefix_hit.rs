//! Computed = found in the prefix cache: the prompt of an earlier request, and the answer that it got.

use super::{ALL, Case, alone, answer, assert_same, cases, one_by_one, submit, wide};

#[test]
fn computed_is_a_prefix_hit() {
    for model in ALL {
        let first = cases(model);
        // The next turn: the conversation so far and more.
        let expected_first = alone(model, &first);
        let next: Vec<Case> = first
            .iter()
            .zip(&expected_first)
            .map(|(case, (tokens, _))| {
                let history = case.prompt.iter().copied().chain(tokens.iter().map(|t| t.id));
                Case { prompt: history.chain([5, 6, 7, 8, 9]).collect(), ..case.clone() }
            })
            .collect();
        let fresh = |case: &Case| Case { cache_salt: format!("{}, the next turn", case.cache_salt), ..case.clone() };
        let expected_next = alone(model, &next.iter().map(fresh).collect::<Vec<_>>());

        let mut rig = model.rig(1, wide());
        one_by_one(&mut rig, &first);
        let mut hit = |cases: &[Case], beyond: &dyn Fn(usize) -> usize| {
            let ask = |case: &Case| {
                let mut stream = submit(&mut rig, case);
                let found = stream.finish_all(1).remove(&case.choice).expect("choice 0");
                let whole_blocks = |tokens: usize| u32::try_from(tokens / 16 * 16).expect("few");
                let prompt = case.prompt.len();
                assert_eq!(stream.cached_tokens, Some(whole_blocks(beyond(prompt))), "of {prompt} prompt tokens");
                found
            };
            cases.iter().map(ask).collect::<Vec<_>>()
        };
        // The same again: all but the last token is there.
        let again = hit(&first, &|prompt| prompt - 1);
        // The next turn: all that was computed for the first; its last token never was.
        let turn = hit(&next, &|prompt| prompt - 5 - 1);
        assert_same("computed = prefix hit", model, &expected_first, &again);
        assert_same("computed = prefix hit of the turn before", model, &expected_next, &turn);
        rig.drain();
    }
}

#[test]
fn another_salt_finds_nothing() {
    let model = super::NANO;
    let mut rig = model.rig(1, wide());
    let cases = cases(model);
    let other = Case { cache_salt: "another".to_owned(), ..cases[1].clone() };
    let first = answer(submit(&mut rig, &cases[1]), 0);
    assert_eq!(answer(submit(&mut rig, &other), 0), first);
    assert_eq!(rig.gauge.stats().prefix_cache_hits, 0);
    rig.drain();
}
