//! The first promise, one file a sentence: a request's tokens and logprobs have the same bits whatever happens around
//! it. Real models, f32, the whole step loop over an in-process group.
//!
//! Each file holds one way of running against the same requests run alone, one after the other, on one rank, whole
//! prompts, nothing cached. `--nocapture` shows what was compared, as rows of a table.

mod after_cancellations;
mod alone_and_in_a_batch;
mod beside_canaries;
mod choices_and_alone;
mod chunked_by_16;
mod planned_ahead;
mod preempted;
mod prefix_hit;
mod tensor_parallel;

use protocol::generate::{Choice, FinishReason, GenerateRequest, SamplingParams, TokenOutput};

use super::levels::Levels;
use super::real_models::{ALL, NANO, RealModel};
use super::rig::{Rig, Stream};
use super::shown::{self, Shown};
use crate::engine::{EngineLimits, NewPicture};

/// Tokens of an answer.
const ANSWER: u32 = 16;
/// Requests of one comparison.
const REQUESTS: usize = 32;

/// What a client got.
type Answer = (Vec<TokenOutput>, FinishReason);

/// A request whose cache salt is its own: it finds nothing cached, unless asked twice.
#[derive(Debug, Clone)]
struct Case {
    prompt: Vec<u32>,
    /// What stands in the prompt, and where it begins.
    shown: Vec<(Shown, u32)>,
    choice: u16,
    sampling: SamplingParams,
    cache_salt: String,
}

impl Case {
    fn pictures(&self) -> Vec<NewPicture<Levels>> {
        self.shown.iter().map(|(shown, at)| shown.at(*at)).collect()
    }
}

/// Prompts of 1 to about 80 tokens, each sampled in its own way: greedy and drawn, with and without penalties, filters,
/// logprobs and stop ids. Of a model that sees, two in five have one or two pictures besides.
fn cases(model: RealModel) -> Vec<Case> {
    let id = |i: usize, at: usize| {
        // Any two prompts differ from their first token on, so nothing is shared by chance.
        let mixed =
            (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (at as u64).wrapping_mul(0xD1B5_4A32_D192_ED03);
        u32::try_from((mixed >> 20) % u64::from(model.vocab - 100)).expect("below the vocabulary")
    };
    let sees = model.spec().vision.is_some();
    let case = |i: usize| {
        let text: Vec<u32> = (0..1 + (i * 37) % 80).map(|at| id(i, at)).collect();
        let pictures = if sees { [0, 0, 1, 0, 2][i % 5] } else { 0 };
        let (prompt, shown) = illustrated(model, text, pictures, i as u64);
        Case { prompt, shown, choice: 0, sampling: sampling(i), cache_salt: format!("of case {i}") }
    };
    (0..REQUESTS).map(case).collect()
}

/// `text` with pictures of one to six tokens after its first thirds.
fn illustrated(model: RealModel, text: Vec<u32>, pictures: usize, seed: u64) -> (Vec<u32>, Vec<(Shown, u32)>) {
    if pictures == 0 {
        return (text, Vec::new());
    }
    let shown: Vec<Shown> = (0..pictures as u64)
        .map(|n| Shown::made_up(model, (1 + (seed as u32 + n as u32) % 2, 1 + seed as u32 % 3), 10 * seed + n))
        .collect();
    let third = text.len() / 3;
    let mut texts = vec![text[..third].to_vec(), text[third..2 * third].to_vec(), text[2 * third..].to_vec()];
    let rest = texts.split_off(pictures);
    texts.push(rest.concat());
    let (prompt, places) = shown::prompt(model, &texts, &shown);
    (prompt, shown.into_iter().zip(places).collect())
}

fn sampling(i: usize) -> SamplingParams {
    let greedy = SamplingParams::greedy(ANSWER);
    let drawn = SamplingParams { temperature: 1.0, seed: i as u64, ..greedy.clone() };
    match i % 4 {
        0 => SamplingParams { logprobs: Some(3), ..greedy },
        1 => SamplingParams { frequency_penalty: 0.2, stop_token_ids: vec![4076, 4083, 4085, 4095], ..greedy },
        2 => SamplingParams {
            logprobs: Some(5),
            repetition_penalty: 1.1,
            presence_penalty: 0.3,
            frequency_penalty: 0.2,
            ..drawn
        },
        _ => SamplingParams { temperature: 0.8, top_k: 20, top_p: 0.9, min_p: 0.01, ..drawn },
    }
}

/// Room for everything.
fn wide() -> EngineLimits {
    EngineLimits::new(512, 32, 64, 1024, 16_384).expect("workable")
}

fn submit(rig: &mut Rig, case: &Case) -> Stream {
    let request = GenerateRequest {
        choices: vec![Choice { index: case.choice, resume: Vec::new() }],
        cache_salt: case.cache_salt.clone(),
        ..rig.request(&case.prompt, case.sampling.clone())
    };
    rig.send_with(request, case.pictures())
}

fn answer(mut stream: Stream, choice: u16) -> Answer {
    stream.finish_all(1).remove(&choice).expect("the choice that was asked for")
}

/// One after the other.
fn one_by_one(rig: &mut Rig, cases: &[Case]) -> Vec<Answer> {
    cases.iter().map(|case| answer(submit(rig, case), case.choice)).collect()
}

/// All at once.
fn together(rig: &mut Rig, cases: &[Case]) -> Vec<Answer> {
    let streams: Vec<_> = cases.iter().map(|case| submit(rig, case)).collect();
    streams.into_iter().zip(cases).map(|(stream, case)| answer(stream, case.choice)).collect()
}

/// What everything else is held to.
fn alone(model: RealModel, cases: &[Case]) -> Vec<Answer> {
    let mut rig = model.rig(1, wide());
    let answers = one_by_one(&mut rig, cases);
    let stats = rig.gauge.stats();
    assert_eq!((stats.prefix_cache_hits, stats.preemptions), (0, 0));
    rig.drain();
    answers
}

/// Holds `found` to `expected` bit for bit, and says how much was compared.
fn assert_same(sentence: &str, model: RealModel, expected: &[Answer], found: &[Answer]) {
    assert_eq!(expected.len(), found.len());
    let (mut tokens, mut logprobs, mut differences) = (0, 0, 0);
    for (expected, found) in expected.iter().zip(found) {
        tokens += expected.0.len();
        logprobs += expected.0.iter().flat_map(|t| &t.logprobs).map(|l| 1 + l.top.len()).sum::<usize>();
        differences += usize::from(expected.1 != found.1) + expected.0.len().abs_diff(found.0.len());
        differences += expected.0.iter().zip(&found.0).filter(|(a, b)| bits(a) != bits(b)).count();
    }
    eprintln!("| {sentence} | {} | {} | {tokens} | {logprobs} | {differences} |", model.name, expected.len());
    assert!(tokens > expected.len() && logprobs > 0, "nothing to speak of was compared");
    assert_eq!(differences, 0, "{sentence}: {} gives other tokens or logprobs", model.name);
}

/// All that a client reads of a token.
fn bits(token: &TokenOutput) -> Vec<u32> {
    let logprobs = token.logprobs.iter().flat_map(|l| {
        let top = l.top.iter().flat_map(|(id, x)| [*id, x.to_bits()]);
        [l.chosen.to_bits()].into_iter().chain(top)
    });
    [token.id].into_iter().chain(logprobs).collect()
}
