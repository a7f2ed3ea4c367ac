//! The step loop over real weights: autoglm-nano's greedy goldens through the engine, many requests at once, at TP 2.

use protocol::generate::SamplingParams;
use serde::Deserialize;

use super::real_models::{NANO, workspace};
use super::rig::Rig;
use crate::engine::EngineLimits;

#[derive(Deserialize)]
struct Goldens {
    conversations: Vec<Conversation>,
}

#[derive(Deserialize)]
struct Conversation {
    id: String,
    image: Option<String>,
    prompt_ids: Vec<u32>,
    max_tokens: u32,
    outputs: Outputs,
}

#[derive(Deserialize)]
struct Outputs {
    #[serde(rename = "freq_0.0")]
    plain: Output,
    #[serde(rename = "freq_0.2")]
    penalised: Output,
}

#[derive(Deserialize)]
struct Output {
    ids: Vec<u32>,
}

/// Text-only conversations, each with its parameters and its ids, the stop id included.
fn cases() -> Vec<(String, Vec<u32>, SamplingParams, Vec<u32>)> {
    let path = workspace("tests/fixtures/autoglm-nano-goldens/goldens_plain.json");
    let goldens: Goldens = serde_json::from_slice(&std::fs::read(path).expect("the goldens")).expect("goldens");
    let stop_token_ids = vec![4076, 4083, 4085, 4095];
    let text = goldens.conversations.into_iter().filter(|c| c.image.is_none());
    text.flat_map(|c| {
        let sampling =
            SamplingParams { stop_token_ids: stop_token_ids.clone(), ..SamplingParams::greedy(c.max_tokens) };
        let penalised = SamplingParams { frequency_penalty: 0.2, ..sampling.clone() };
        [
            (format!("{} plain", c.id), c.prompt_ids.clone(), sampling, c.outputs.plain.ids),
            (format!("{} penalised", c.id), c.prompt_ids, penalised, c.outputs.penalised.ids),
        ]
    })
    .collect()
}

/// Submits everything, then reads everything.
fn run_all(rig: &mut Rig, cases: &[(String, Vec<u32>, SamplingParams, Vec<u32>)], resumed: impl Fn(usize) -> usize) {
    let submit = |(_, prompt, sampling, ids): &(String, Vec<u32>, SamplingParams, Vec<u32>)| {
        let cut = resumed(ids.len());
        (cut, rig.submit(prompt, &ids[..cut], sampling.clone()))
    };
    let streams: Vec<_> = cases.iter().map(submit).collect();
    for ((name, _, _, ids), (cut, stream)) in cases.iter().zip(streams) {
        assert_eq!(stream.finish().0, ids[cut..], "{name}, resumed after {cut}");
    }
    assert_eq!(rig.settle(), 0);
}

#[test]
fn goldens_hold_for_many_requests_at_once() {
    let cases = cases();
    assert!(cases.len() >= 30);
    let mut rig = NANO.rig(2, EngineLimits::new(64, 8, 64, 1024, 4096).expect("workable"));
    run_all(&mut rig, &cases, |_| 0);
    rig.drain();
}

#[test]
fn goldens_hold_when_blocks_run_out_and_prompts_are_chunked() {
    let cases = cases();
    let mut rig = NANO.rig(2, EngineLimits::new(16, 8, 64, 160, 320).expect("workable").with_waiting_tokens(10_000));
    run_all(&mut rig, &cases, |_| 0);
    assert!(rig.gauge.stats().preemptions > 0, "the cache was large enough after all");
    rig.drain();
}

#[test]
fn a_stream_resumed_anywhere_goes_on_with_the_same_tokens() {
    let cases = cases();
    let mut rig = NANO.rig(2, EngineLimits::new(64, 8, 64, 1024, 4096).expect("workable"));
    for share in [1, 2, 3] {
        run_all(&mut rig, &cases, |len| len * share / 4);
    }
    rig.drain();
}
