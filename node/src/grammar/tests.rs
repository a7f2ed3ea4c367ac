//! Grammars over autoglm-nano's vocabulary, without a model: masks and what must be refused.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use protocol::generate::Grammar;
use sharding::Pieces;

use super::*;

const VOCAB: u32 = 4096;
const USER: u32 = 4083;
const STOPS: [u32; 2] = [4076, USER];
/// Longest that any one grammar may take here, in an unoptimised build on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/autoglm-nano")
}

fn nano() -> Grammars {
    Grammars::new(dir(), VOCAB)
}

fn regex(text: &str) -> Grammar {
    Grammar::Regex(text.to_owned())
}

fn lark(text: &str) -> Grammar {
    Grammar::Lark(text.to_owned())
}

fn schema(text: &str) -> Grammar {
    Grammar::JsonSchema(text.to_owned())
}

/// The ids that may come next, stop ids among them.
fn allowed(constraint: &mut Constraint) -> Vec<u32> {
    let mut row = vec![0.0f32; VOCAB as usize];
    constraint.mask(&mut row, &STOPS).expect("a mask");
    (0..).zip(row).filter(|(_, x)| *x == 0.0).map(|(id, _)| id).collect()
}

/// Random allowed ids from `seed`, until nothing or only the end can follow.
fn walk(mut constraint: Constraint, mut seed: u64, most: usize) -> (Vec<u32>, bool) {
    let mut ids = Vec::new();
    while ids.len() < most && !constraint.is_ended() {
        let allowed = allowed(&mut constraint);
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let id = allowed[usize::try_from(seed >> 33).expect("31 bits") % allowed.len()];
        if STOPS.contains(&id) {
            return (ids, true);
        }
        constraint.accept(id).expect("allowed");
        ids.push(id);
    }
    (ids, constraint.is_ended())
}

fn text(pieces: &Pieces, ids: &[u32]) -> String {
    String::from_utf8(ids.iter().flat_map(|id| pieces.get(*id).to_vec()).collect()).expect("UTF-8")
}

#[test]
fn random_walks_spell_what_the_grammar_says() {
    let (grammars, pieces) = (nano(), Pieces::read(&dir()).expect("a tokenizer"));
    let is_number = |t: &str| t.len() == 6 && t.starts_with("n-") && t[2..].bytes().all(|b| b.is_ascii_digit());
    let is_pair = |t: &str| {
        let value: serde_json::Value = serde_json::from_str(t).expect("JSON");
        let object = value.as_object().expect("an object");
        object.len() == 2
            && object["app"].as_str().is_some_and(|s| s.chars().count() <= 8)
            && object["taps"].as_array().is_some_and(|a| a.len() <= 3 && a.iter().all(serde_json::Value::is_i64))
    };
    let pair = r#"{"type":"object","properties":{"app":{"type":"string","maxLength":8},
        "taps":{"type":"array","items":{"type":"integer","minimum":-9,"maximum":99},"maxItems":3}},
        "required":["app","taps"],"additionalProperties":false}"#;
    type Check<'a> = &'a dyn Fn(&str) -> bool;
    let cases: [(Grammar, Check<'_>); 4] = [
        (regex("n-[0-9]{4}"), &is_number),
        (lark("start: \"go\" (\" \" DIR)+\nDIR: \"left\" | \"right\""), &|t| {
            t.strip_prefix("go ").is_some_and(|t| t.split(' ').all(|w| w == "left" || w == "right"))
        }),
        (lark("start: \"是\" | \"否\""), &|t| t == "是" || t == "否"),
        (schema(pair), &is_pair),
    ];
    for (grammar, check) in cases {
        for seed in 0..40 {
            let constraint = grammars.constraint(&grammar).expect("a good grammar");
            let (ids, ended) = walk(constraint, seed, 400);
            let text = text(&pieces, &ids);
            assert!(ended, "{grammar:?} seed {seed}: {text:?} does not end");
            assert!(check(&text), "{grammar:?} seed {seed}: {text:?}");
        }
    }
}

#[test]
fn special_tokens_are_no_text_and_come_only_by_name() {
    let grammars = nano();
    let mut spelled = grammars.constraint(&regex(r"<\|user\|>x")).expect("a good grammar");
    let first = allowed(&mut spelled);
    assert!(!first.contains(&USER) && !first.is_empty(), "{first:?}");
    let mut anything = grammars.constraint(&regex(r"(.|\n)*")).expect("a good grammar");
    let any = allowed(&mut anything);
    let special: Vec<u32> = (4076..4092).filter(|id| any.contains(id) && !STOPS.contains(id)).collect();
    assert!(any.len() > 3000 && special.is_empty(), "{special:?}");
    // Tags of the answer are text.
    assert!((4092..4096).all(|id| any.contains(&id)));
    let mut named = grammars.constraint(&lark("start: <[4088]> \"a\"")).expect("a good grammar");
    assert_eq!(allowed(&mut named), [4088]);
}

#[test]
fn stop_ids_are_allowed_only_where_the_output_can_end() {
    let grammars = nano();
    let pieces = Pieces::read(&dir()).expect("a tokenizer");
    let digit = (0..VOCAB).find(|id| pieces.get(*id) == b"7").expect("a digit");
    let mut constraint = grammars.constraint(&regex("[0-9]{2,3}")).expect("a good grammar");
    for (digits, can_end) in [(0, false), (1, false), (2, true)] {
        let allowed = allowed(&mut constraint);
        assert!(STOPS.iter().all(|id| allowed.contains(id) == can_end), "{digits}: {allowed:?}");
        assert!(!constraint.is_ended());
        constraint.accept(digit).expect("allowed");
    }
    assert!(constraint.is_ended());
    assert_eq!(allowed(&mut constraint), STOPS);
    assert!(
        grammars.constraint(&lark("start: \"\"")).expect("a good grammar").is_ended(),
        "nothing may follow nothing"
    );
}

#[test]
fn a_resumed_constraint_allows_what_the_whole_one_does() {
    let grammars = nano();
    let grammar = Grammar::JsonObject;
    let mut whole = grammars.constraint(&grammar).expect("a good grammar");
    let (ids, _) = walk(whole.copy(), 3, 60);
    for (done, id) in ids.iter().enumerate() {
        let mut resumed = grammars.constraint(&grammar).expect("a good grammar");
        resumed.resume(&ids[..done], &STOPS).expect("allowed");
        assert_eq!(allowed(&mut resumed), allowed(&mut whole), "after {done}");
        whole.accept(*id).expect("allowed");
    }
    let mut other = grammars.constraint(&regex("[0-9]+")).expect("a good grammar");
    assert_eq!(other.resume(&ids, &STOPS), Err(GrammarError::Resumed { id: ids[0], position: 0 }));
    let mut stopped = grammars.constraint(&grammar).expect("a good grammar");
    stopped.resume(&[STOPS[0], 5, 5], &STOPS).expect("what follows a stop is not looked at");
}

#[test]
fn a_grammar_that_nothing_can_match_is_said_to_be_one() {
    let circle = schema(r##"{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}"##);
    let error = nano().constraint(&circle).expect_err("no JSON at all");
    assert_eq!(error.to_string(), "the grammar cannot be used: no output can match it");
}

#[test]
fn a_model_whose_tokenizer_cannot_be_used_is_no_fault_of_the_grammar() {
    let empty = tempfile::tempdir().expect("a directory");
    let error = Grammars::new(empty.path().to_owned(), VOCAB).constraint(&Grammar::JsonObject);
    assert!(matches!(error, Err(GrammarError::Vocabulary { .. })), "{error:?}");
}

/// `open` and `close` nested in each of as many definitions as fit, each of which refers to the next.
fn nested_refs(open: &str, close: &str, depth: usize, bytes: usize) -> String {
    let one = |i: usize, next: usize| {
        format!(r##""{i}":{}{{"$ref":"#/$defs/{next}"}}{}"##, open.repeat(depth), close.repeat(depth))
    };
    let count = bytes / one(100, 100).len();
    let defs: Vec<String> = (0..count).map(|i| one(i, (i + 1) % count)).collect();
    format!(r##"{{"$ref":"#/$defs/0","$defs":{{{}}}}}"##, defs.join(","))
}

fn list(n: usize, separator: &str, one: impl Fn(usize) -> String) -> String {
    (0..n).map(one).collect::<Vec<_>>().join(separator)
}

/// What a hostile client could send, with whether it can be used at all.
fn hostile() -> Vec<(&'static str, Grammar, Option<bool>)> {
    let property = |i: usize| format!(r#""property{i}":{{"type":"string"}}"#);
    let pattern = |i: usize| format!(r#""^(a|b){{{i}}}c.*d{i}$":{{"type":"string"}}"#);
    let rule = |prefix: &str, n: usize| {
        let chain = list(n, "\n", |i| format!("{prefix}{i}: {prefix}{}", i + 1));
        lark(&format!("start: {prefix}0\n{chain}\n{prefix}{n}: \"x\""))
    };
    let double = |n: usize| {
        let defs = list(n, ",", |i| {
            format!(
                r##""d{i}":{{"anyOf":[{{"$ref":"#/$defs/d{0}"}},{{"allOf":[{{"$ref":"#/$defs/d{0}"}}]}}]}}"##,
                i + 1
            )
        });
        schema(&format!(r##"{{"$ref":"#/$defs/d0","$defs":{{{defs},"d{n}":{{"type":"string"}}}}}}"##))
    };
    let any_of = list(10, ",", |i| format!(r#"{{"properties":{{"p{i}":{{"type":"string"}}}}}}"#));
    vec![
        (
            "a schema that nests deep",
            schema(&format!("{}true{}", r#"{"not":"#.repeat(20_000), "}".repeat(20_000))),
            Some(false),
        ),
        ("items through references", schema(&nested_refs(r#"{"items":"#, "}", 100, 250_000)), Some(false)),
        ("anyOf through references", schema(&nested_refs(r#"{"anyOf":["#, "]}", 60, 110_000)), Some(false)),
        ("allOf through references", schema(&nested_refs(r#"{"allOf":["#, "]}", 60, 110_000)), Some(false)),
        ("references that double", double(60), None),
        (
            "references in a circle",
            schema(r##"{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}"##),
            Some(false),
        ),
        (
            "a product of alternatives",
            schema(&format!(r#"{{"allOf":[{}]}}"#, list(12, ",", |_| format!(r#"{{"anyOf":[{any_of}]}}"#)))),
            Some(false),
        ),
        (
            "many properties",
            schema(&format!(r#"{{"type":"object","properties":{{{}}}}}"#, list(8_000, ",", property))),
            Some(false),
        ),
        (
            "as many properties as may be",
            schema(&format!(r#"{{"type":"object","properties":{{{}}}}}"#, list(1_000, ",", property))),
            Some(true),
        ),
        ("many patterns", schema(&format!(r#"{{"patternProperties":{{{}}}}}"#, list(400, ",", pattern))), Some(false)),
        (
            "as many patterns as may be",
            schema(&format!(r#"{{"patternProperties":{{{}}}}}"#, list(64, ",", pattern))),
            None,
        ),
        (
            "a number of countless states",
            schema(r#"{"type":"integer","multipleOf":99999989,"minimum":0}"#),
            Some(false),
        ),
        (
            "an endless array",
            schema(r#"{"type":"array","minItems":1000000,"items":{"type":"string","minLength":100000}}"#),
            None,
        ),
        ("many values", schema(&format!(r#"{{"enum":[{}]}}"#, list(20_000, ",", |i| format!("\"v{i}\"")))), Some(true)),
        ("a chain of rules", rule("a", 1_900), Some(true)),
        ("a chain of terminals", rule("A", 1_900), Some(true)),
        ("too many rules", rule("a", 20_000), Some(false)),
        ("brackets", lark(&format!("start: {}\"a\"{}", "(".repeat(100_000), ")".repeat(100_000))), Some(false)),
        ("a long row", lark(&format!("start: {}", "\"a\" ".repeat(60_000))), Some(true)),
        ("repetition of repetition", lark("start: a{1000}\na: b{1000}\nb: c{1000}\nc: \"x\"{1000}"), Some(true)),
        ("ambiguity", lark("start: a a a a a a\na: \"x\"* | a a | \"x\" a"), Some(true)),
        ("a schema in a grammar", lark("start: %json {\"type\": \"object\"}"), Some(false)),
        ("deep groups", regex(&format!("{}a{}", "(".repeat(100_000), ")".repeat(100_000))), Some(false)),
        ("many alternatives", regex(&"a|".repeat(100_000)), Some(true)),
        ("counted counts", regex("((a{1000}){1000}){1000}"), None),
        ("states that double", regex("(a|b)*a(a|b){1000}"), None),
        (
            "intersections that double",
            lark("start: A\nA: /(a|b)*a(a|b){40}/ & /(a|b)*b(a|b){41}/ & /(a|b)*a(a|b){43}/"),
            None,
        ),
        ("no expression", regex("(?=a)b"), Some(false)),
    ]
}

#[test]
fn hostile_grammars_are_refused_or_bounded() {
    let grammars = Arc::new(nano());
    for (name, grammar, usable) in hostile() {
        let (done, result) = mpsc::channel();
        let grammars = grammars.clone();
        let work = move || {
            let made = grammars.constraint(&grammar).and_then(|mut constraint| {
                // Some steps of it too, whatever they come to.
                for _ in 0..8 {
                    let mut row = vec![0.0; VOCAB as usize];
                    constraint.mask(&mut row, &STOPS)?;
                    let Some(id) = row.iter().position(|x| *x == 0.0) else { break };
                    let id = u32::try_from(id).expect("an id");
                    if STOPS.contains(&id) || constraint.is_ended() {
                        break;
                    }
                    constraint.accept(id)?;
                }
                Ok(())
            });
            // The receiver has given up: the test has failed already.
            let _ = done.send(made);
        };
        std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work).expect("a thread");
        let made = result.recv_timeout(DEADLINE).unwrap_or_else(|e| panic!("{name}: {e}"));
        match usable {
            Some(true) => assert_eq!(made, Ok(()), "{name}"),
            Some(false) => assert!(matches!(made, Err(GrammarError::Invalid { .. })), "{name}: {made:?}"),
            None => {}
        }
        if let Err(e) = made {
            assert!(!e.to_string().contains('\n') && e.to_string().chars().count() < 500, "{name}: {e}");
        }
    }
}
