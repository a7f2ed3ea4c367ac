//! The step loop over real weights: autoglm-nano's greedy goldens through the engine, about text and about pictures, many
//! requests at once.

use protocol::generate::{Choice, GenerateRequest, SamplingParams};
use serde::Deserialize;

use super::real_models::{NANO, workspace};
use super::rig::Rig;
use super::shown::Shown;
use crate::engine::EngineLimits;

/// Where the two best logits come closer than this anywhere, the reference's choice is not held.
const GAP_MIN: f64 = 0.01;

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
    min_top2_gap: f64,
}

/// A conversation, its parameters, and its ids with the stop id.
struct Case {
    name: String,
    prompt: Vec<u32>,
    /// The one picture of the prompt, and where it stands.
    shown: Option<(Shown, u32)>,
    sampling: SamplingParams,
    ids: Vec<u32>,
}

fn text() -> Vec<Case> {
    cases().into_iter().filter(|case| case.shown.is_none()).collect()
}

fn pictures() -> Vec<Case> {
    cases().into_iter().filter(|case| case.shown.is_some()).collect()
}

fn cases() -> Vec<Case> {
    let path = workspace("tests/fixtures/autoglm-nano-goldens/goldens_plain.json");
    let goldens: Goldens = serde_json::from_slice(&std::fs::read(path).expect("the goldens")).expect("goldens");
    let stop_token_ids = vec![4076, 4083, 4085, 4095];
    let image = NANO.spec().vision.expect("it sees").image_token_id;
    let of = |c: &Conversation| {
        let at =
            || u32::try_from(c.prompt_ids.iter().position(|id| *id == image).expect("it stands there")).expect("short");
        let shown = c.image.as_ref().map(|file| (Shown::file(NANO, file), at()));
        let sampling =
            SamplingParams { stop_token_ids: stop_token_ids.clone(), ..SamplingParams::greedy(c.max_tokens) };
        let penalised = SamplingParams { frequency_penalty: 0.2, ..sampling.clone() };
        let case = |what: &str, sampling, output: &Output| {
            let (prompt, ids) = (c.prompt_ids.clone(), output.ids.clone());
            let case = Case { name: format!("{} {what}", c.id), prompt, shown: shown.clone(), sampling, ids };
            (output.min_top2_gap >= GAP_MIN).then_some(case)
        };
        [case("plain", sampling, &c.outputs.plain), case("penalised", penalised, &c.outputs.penalised)]
    };
    goldens.conversations.iter().flat_map(of).flatten().collect()
}

/// Submits everything, then reads everything.
fn run_all(rig: &mut Rig, cases: &[Case], resumed: impl Fn(usize) -> usize) {
    let submit = |case: &Case| {
        let cut = resumed(case.ids.len());
        let choices = vec![Choice { index: 0, resume: case.ids[..cut].to_vec() }];
        let request = GenerateRequest { choices, ..rig.request(&case.prompt, case.sampling.clone()) };
        (cut, rig.send_with(request, case.shown.iter().map(|(shown, at)| shown.at(*at)).collect()))
    };
    let streams: Vec<_> = cases.iter().map(submit).collect();
    for (case, (cut, stream)) in cases.iter().zip(streams) {
        assert_eq!(stream.finish().0, case.ids[cut..], "{}, resumed after {cut}", case.name);
    }
    assert_eq!(rig.settle(), 0);
}

#[test]
fn goldens_hold_for_many_requests_at_once() {
    let cases = text();
    assert!(cases.len() >= 30);
    let mut rig = NANO.rig(2, EngineLimits::new(64, 8, 64, 1024, 4096).expect("workable"));
    run_all(&mut rig, &cases, |_| 0);
    rig.drain();
}

#[test]
fn goldens_hold_when_blocks_run_out_and_prompts_are_chunked() {
    let cases = text();
    let mut rig = NANO.rig(2, EngineLimits::new(16, 8, 64, 160, 320).expect("workable").with_waiting_tokens(10_000));
    run_all(&mut rig, &cases, |_| 0);
    assert!(rig.gauge.stats().preemptions > 0, "the cache was large enough after all");
    rig.drain();
}

#[test]
fn a_stream_resumed_anywhere_goes_on_with_the_same_tokens() {
    let cases = text();
    let mut rig = NANO.rig(2, EngineLimits::new(64, 8, 64, 1024, 4096).expect("workable"));
    for share in [1, 2, 3] {
        run_all(&mut rig, &cases, |len| len * share / 4);
    }
    rig.drain();
}

#[test]
fn answers_about_pictures_hold_at_tp_1_and_2_and_each_picture_is_encoded_once() {
    let cases = pictures();
    assert_eq!(cases.len(), 16);
    for world in [1, 2] {
        let mut rig = NANO.rig(world, EngineLimits::new(64, 8, 64, 1024, 4096).expect("workable"));
        run_all(&mut rig, &cases, |_| 0);
        // A retry, and streams that go on.
        run_all(&mut rig, &cases, |_| 0);
        run_all(&mut rig, &cases, |len| len / 2);
        let stats = rig.gauge.stats();
        assert_eq!((stats.picture_queries, stats.pictures_encoded), (48, 8), "TP {world}: {stats:?}");
        rig.drain();
    }
}

#[test]
fn answers_about_pictures_hold_when_blocks_run_out_and_prompts_are_chunked() {
    let cases = pictures();
    let mut rig = NANO.rig(2, EngineLimits::new(16, 8, 64, 288, 448).expect("workable").with_waiting_tokens(20_000));
    run_all(&mut rig, &cases, |_| 0);
    assert!(rig.gauge.stats().preemptions > 0, "the cache was large enough after all");
    rig.drain();
}
