//! Structured output through the step loop over real weights: whatever autoglm-nano would rather say, it says what the
//! grammar allows, and the same of it at every world size, in any company, resumed or not.

use std::collections::BTreeSet;

use protocol::generate::{Choice, FinishReason, GenerateRequest, Grammar, SamplingParams};
use serde_json::Value;
use sharding::Pieces;

use super::real_models::{NANO, workspace};
use super::rig::Rig;
use super::submission::Reply;
use crate::engine::EngineLimits;

/// The model's own stop ids.
const STOPS: [u32; 3] = [4076, 4083, 4085];
/// "Open the settings" and the like, as ids that mean nothing in particular: the grammar decides.
const PROMPTS: [&[u32]; 3] =
    [&[4078, 4080, 4083, 100, 200, 300, 4084], &[17, 18, 19], &[4084, 2000, 1000, 500, 250, 125]];

struct Case {
    name: &'static str,
    grammar: Grammar,
    check: fn(&str) -> bool,
}

fn cases() -> Vec<Case> {
    let action = r#"{"type":"object","properties":{"action":{"enum":["Tap","Launch","Back"]},
        "at":{"type":"array","items":{"type":"integer","minimum":0,"maximum":999},"minItems":2,"maxItems":2},
        "why":{"type":"string","maxLength":12}},"required":["action","at","why"],"additionalProperties":false}"#;
    let is_action = |text: &str| {
        let Ok(Value::Object(map)) = serde_json::from_str(text) else { return false };
        let at = map["at"].as_array().is_some_and(|at| at.len() == 2 && at.iter().all(|n| n.as_u64() < Some(1000)));
        let why = map["why"].as_str().is_some_and(|why| why.chars().count() <= 12);
        map.len() == 3 && at && why && ["Tap", "Launch", "Back"].contains(&map["action"].as_str().unwrap_or_default())
    };
    let is_code = |text: &str| {
        let Some((word, number)) = text.split_once('-') else { return false };
        (3..=8).contains(&word.len())
            && word.bytes().all(|b| (b'a'..=b'f').contains(&b))
            && (2..=4).contains(&number.len())
            && number.bytes().all(|b| b.is_ascii_digit())
    };
    vec![
        Case { name: "schema", grammar: Grammar::JsonSchema(action.to_owned()), check: is_action },
        Case { name: "regex", grammar: Grammar::Regex("[a-f]{3,8}-[0-9]{2,4}".to_owned()), check: is_code },
        Case {
            name: "lark",
            grammar: Grammar::Lark("start: \"<answer>\" (\"是\" | \"no\") \"</answer>\"".to_owned()),
            check: |text| text == "<answer>是</answer>" || text == "<answer>no</answer>",
        },
    ]
}

/// Greedy, with penalties, and sampled hot; with and without stop ids.
fn params(grammar: &Grammar) -> Vec<SamplingParams> {
    let base = SamplingParams { grammar: Some(grammar.clone()), ..SamplingParams::greedy(450) };
    let sampled = SamplingParams { temperature: 1.5, stop_token_ids: STOPS.to_vec(), ..base.clone() };
    vec![
        SamplingParams { stop_token_ids: STOPS.to_vec(), ..base.clone() },
        SamplingParams { frequency_penalty: 0.2, logit_bias: vec![(4083, 100.0)], ..base },
        SamplingParams { seed: 7, top_p: 0.9, logprobs: Some(2), ..sampled.clone() },
        SamplingParams { seed: 8, top_k: 50, repetition_penalty: 1.2, ..sampled.clone() },
        SamplingParams { seed: 9, min_p: 0.01, min_tokens: 3, ..sampled },
    ]
}

/// A request, and what its output must be.
type Asked = (String, GenerateRequest, fn(&str) -> bool);

/// Ids with the bits of their logprobs where asked for, and the end.
type Told = (Vec<(u32, Option<u32>)>, FinishReason);

fn requests(rig: &mut Rig) -> Vec<Asked> {
    let mut out = Vec::new();
    for Case { name, grammar, check } in cases() {
        for prompt in PROMPTS {
            for (i, sampling) in params(&grammar).into_iter().enumerate() {
                out.push((format!("{name} {} {i}", prompt[0]), rig.request(prompt, sampling), check));
            }
        }
    }
    out
}

fn limits() -> EngineLimits {
    EngineLimits::new(64, 8, 256, 512, 4096).expect("workable")
}

/// What every request is told: one by one, or all at once among others.
fn outputs(world: u16, together: bool) -> Vec<Told> {
    let mut rig = NANO.rig(world, limits());
    let requests = requests(&mut rig);
    let company: Vec<_> = (0..if together { 3 } else { 0 })
        .map(|i| rig.submit(&[40 + i; 30], &[], SamplingParams::greedy(200)))
        .collect();
    let mut streams = Vec::new();
    let mut out = Vec::new();
    let told = |mut stream: super::rig::Stream| {
        let (tokens, reason) = stream.finish_all(1).remove(&0).expect("choice 0");
        let bits = |t: protocol::generate::TokenOutput| (t.id, t.logprobs.map(|l| l.chosen.to_bits()));
        (tokens.into_iter().map(bits).collect(), reason)
    };
    for (_, request, _) in requests {
        let stream = rig.send(request);
        if together { streams.push(stream) } else { out.push(told(stream)) }
    }
    out.extend(streams.into_iter().map(told));
    company.into_iter().for_each(|stream| assert_eq!(stream.finish().0.len(), 200));
    assert_eq!(rig.settle(), 0);
    rig.drain();
    out
}

#[test]
fn outputs_match_and_are_the_same_at_any_world_size_and_in_any_company() {
    let pieces = Pieces::read(&workspace("models/autoglm-nano")).expect("a tokenizer");
    let alone = outputs(1, false);
    let mut rig = NANO.rig(1, limits());
    let requests = requests(&mut rig);
    rig.drain();
    let mut texts = BTreeSet::new();
    for ((name, request, check), (tokens, reason)) in requests.iter().zip(&alone) {
        let ids: Vec<u32> = tokens.iter().map(|t| t.0).collect();
        let ids = ids.split(|id| request.sampling.stop_token_ids.contains(id)).next().expect("a first part");
        let bytes: Vec<u8> = ids.iter().flat_map(|id| pieces.get(*id).to_vec()).collect();
        let text = String::from_utf8(bytes).expect("UTF-8");
        assert_eq!(*reason, FinishReason::Stop, "{name}: {text}");
        assert!(check(&text), "{name}: {text}");
        texts.insert(text);
    }
    assert!(texts.len() > alone.len() / 3, "sampling chose among few: {texts:?}");
    assert_eq!(outputs(1, true), alone, "in company");
    assert_eq!(outputs(2, true), alone, "TP 2");
    let tokens: usize = alone.iter().map(|(tokens, _)| tokens.len()).sum();
    eprintln!(
        "| grammars | {} sequences | {tokens} tokens | TP 1 = 2, alone = in company | 0 differences |",
        alone.len()
    );
}

#[test]
fn a_constrained_stream_resumed_anywhere_goes_on_with_the_same_tokens() {
    let mut rig = NANO.rig(2, limits());
    for (name, request, _) in requests(&mut rig).into_iter().step_by(4) {
        let (whole, reason) = rig.send(request.clone()).finish();
        for cut in [1, whole.len() / 2, whole.len() - 1, whole.len()] {
            let choices = vec![Choice { index: 0, resume: whole[..cut].to_vec() }];
            let rest = rig.send(GenerateRequest { choices, ..request.clone() }).finish();
            assert_eq!(rest, (whole[cut..].to_vec(), reason), "{name} resumed after {cut}");
        }
    }
    assert_eq!(rig.settle(), 0);
    rig.drain();
}

#[test]
fn choices_of_one_request_follow_the_grammar_each_for_itself() {
    let mut rig = NANO.rig(1, limits());
    let Case { grammar, check, .. } = cases().remove(1);
    let sampling = SamplingParams { seed: 3, temperature: 2.0, grammar: Some(grammar), ..SamplingParams::greedy(60) };
    let choices = (0..5).map(|index| Choice { index, resume: Vec::new() }).collect();
    let request = GenerateRequest { choices, ..rig.request(PROMPTS[0], sampling) };
    let pieces = Pieces::read(&workspace("models/autoglm-nano")).expect("a tokenizer");
    let texts: Vec<String> = rig
        .send(request)
        .finish_all(5)
        .into_values()
        .map(|(tokens, _)| tokens.iter().flat_map(|t| pieces.get(t.id).to_vec()).collect())
        .map(|bytes| String::from_utf8(bytes).expect("UTF-8"))
        .collect();
    assert!(texts.iter().all(|text| check(text)), "{texts:?}");
    assert!(texts.iter().collect::<BTreeSet<_>>().len() > 1, "{texts:?}");
    assert_eq!(rig.settle(), 0);
    rig.drain();
}

#[test]
fn a_grammar_that_grows_too_complex_fails_its_own_request_only() {
    let object = |k: usize| {
        let properties: Vec<String> = (0..900).map(|i| format!(r#""p{k}_{i}":{{"type":"string"}}"#)).collect();
        format!(r#"{{"type":"object","properties":{{{}}}}}"#, properties.join(","))
    };
    let schema = format!(r#"{{"anyOf":[{},{},{}]}}"#, object(0), object(1), object(2));
    let mut rig = NANO.rig(1, limits());
    let healthy = rig.submit(&[30], &[], SamplingParams::greedy(60));
    let sick = SamplingParams { grammar: Some(Grammar::JsonSchema(schema)), ..SamplingParams::greedy(60) };
    let mut sick = rig.submit(&[31], &[], sick);
    let end = loop {
        match sick.next() {
            Reply::Token { .. } => {}
            end => break end,
        }
    };
    let Reply::Failed { reason, retryable: false } = end else { panic!("{end:?}") };
    assert!(reason.starts_with("the grammar cannot be followed: ") && !reason.contains('\n'), "{reason}");
    assert_eq!(healthy.finish().0.len(), 60);
    assert_eq!(rig.settle(), 0);
    rig.drain();
}
