//! Choosing from candidates is choosing from the whole row, bit for bit: over random rows full of ties, parameters,
//! histories and cuts of the vocabulary.

use proptest::prelude::*;
use protocol::generate::SamplingParams;
use protocol::step::LogitsWanted;
use sharding::layers::{Candidate, LogitsRow, by_rank};

use super::{Sampler, Scratch};

const VOCAB: u32 = 96;
const STEPS: usize = 12;

/// Few values, so that there are many ties, zeros of both signs among them; now and then one that is not finite.
fn logit() -> impl Strategy<Value = f32> {
    prop_oneof![
        400 => (-6i8..6).prop_map(|x| f32::from(x) / 4.0),
        40 => Just(-0.0f32),
        60 => -3.0f32..3.0,
        1 => prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
    ]
}

fn rows() -> impl Strategy<Value = Vec<Vec<f32>>> {
    prop::collection::vec(prop::collection::vec(logit(), VOCAB as usize), STEPS)
}

fn ids(most: usize) -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(0..VOCAB, 0..most)
}

prop_compose! {
    fn params()(
        temperature in prop::sample::select(vec![0.0f32, 0.0, 0.7, 1.0]),
        top_k in 0u32..12,
        top_p in prop::sample::select(vec![1.0f32, 0.9, 0.3]),
        min_p in prop::sample::select(vec![0.0f32, 0.1]),
        repetition_penalty in prop::sample::select(vec![1.0f32, 1.0, 1.3]),
        (presence_penalty, frequency_penalty) in prop::sample::select(vec![(0.0f32, 0.0f32), (0.0, 0.2), (0.5, 0.25)]),
        logit_bias in prop::collection::vec((0..VOCAB + 8, prop::sample::select(vec![-100.0f32, -0.5, -0.0])), 0..4),
        seed in any::<u64>(),
        min_tokens in 0u32..8,
        stop_token_ids in ids(3),
    ) -> SamplingParams {
        SamplingParams {
            temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, logit_bias,
            seed, min_tokens, stop_token_ids, ..SamplingParams::greedy(64)
        }
    }
}

/// The `k` best of each part of the vocabulary, as the ranks send them.
fn best_of_parts(row: &[f32], bounds: &[u32], k: usize) -> LogitsRow {
    let part = |bounds: &[u32]| {
        let mut part: Vec<Candidate> = (bounds[0]..bounds[1]).map(|id| (row[id as usize], id)).collect();
        part.sort_by(by_rank);
        part.truncate(k);
        part.sort_by_key(|c| c.1);
        part
    };
    LogitsRow::Best(bounds.windows(2).flat_map(part).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn candidates_choose_what_the_whole_row_chooses(
        rows in rows(),
        params in params(),
        prompt in ids(20),
        resume in ids(6),
        choice in 0u16..4,
        cuts in prop::collection::vec(0..VOCAB, 0..7),
    ) {
        let mut bounds: Vec<u32> = cuts.into_iter().chain([0, VOCAB]).collect();
        bounds.sort_unstable();
        let mut scratch = Scratch::default();
        let mut of_rows = Sampler::new(params.clone(), choice, &prompt, &resume);
        let mut of_candidates = Sampler::new(params.clone(), choice, &prompt, &resume);
        for row in rows {
            let LogitsWanted::Best { k } = of_candidates.wanted() else {
                prop_assert!(params.temperature > 0.0 && params.top_k == 0, "{:?}", params);
                return Ok(());
            };
            let candidates = best_of_parts(&row, &bounds, usize::from(k));
            let whole = of_rows.choose(&LogitsRow::Whole(row), &mut scratch);
            let best = of_candidates.choose(&candidates, &mut scratch);
            // A NaN is not equal to itself.
            prop_assert_eq!(format!("{:?}", whole), format!("{:?}", best));
            if whole.is_err() {
                return Ok(());
            }
        }
    }
}
