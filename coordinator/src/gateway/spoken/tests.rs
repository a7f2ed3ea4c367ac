//! A whole answer, edges, and any cut of any text.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn tools() -> ToolTypes {
    let properties = json!({"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}});
    ToolTypes::of(&[
        json!({"type": "function", "function": {"name": "weather", "parameters": {"properties": properties}}}),
        json!({"type": "function", "function": {"name": "ping"}}),
    ])
}

fn all() -> SpeechRules {
    SpeechRules { reasoning: true, starts_in_reasoning: false, tools: Some(tools()) }
}

/// The pieces of a text that came in these parts, with those joined that go on with the one before.
fn run(rules: &SpeechRules, parts: &[&str]) -> Vec<Piece> {
    let mut speech = Speech::new(rules.clone());
    let mut joined: Vec<Piece> = Vec::new();
    let mut take = |pieces: Vec<Piece>| {
        for piece in pieces {
            match (joined.last_mut(), piece) {
                (Some(Piece::Content(so_far)), Piece::Content(more)) => so_far.push_str(&more),
                (Some(Piece::Reasoning(so_far)), Piece::Reasoning(more)) => so_far.push_str(&more),
                (Some(Piece::Arguments { json, .. }), Piece::Arguments { json: more, .. }) => json.push_str(&more),
                (_, piece) => joined.push(piece),
            }
        }
    };
    for part in parts {
        let mut pieces = Vec::new();
        speech.push(part, &mut pieces);
        take(pieces);
    }
    let mut pieces = Vec::new();
    speech.finish(&mut pieces);
    take(pieces);
    joined
}

fn content(text: &str) -> Piece {
    Piece::Content(text.to_owned())
}

fn reasoning(text: &str) -> Piece {
    Piece::Reasoning(text.to_owned())
}

fn call(index: usize, name: &str) -> Piece {
    Piece::Call { index, name: name.to_owned() }
}

fn arguments(index: usize, json: &str) -> Piece {
    Piece::Arguments { index, json: json.to_owned() }
}

const WHOLE: &str = "\n<think>\nhm\n\nok\n</think>\n\nsure:\n<tool_call>weather\n<arg_key>city</arg_key>\n\
    <arg_value>a\"b\n好</arg_value>\n<arg_key>days</arg_key>\n<arg_value> 3 </arg_value>\n<arg_key>x</arg_key>\
    <arg_value>[1, {\"a\": 2}]</arg_value><arg_key>unit</arg_key><arg_value>3</arg_value>\n</tool_call>\n\
    <tool_call>ping</tool_call>\nbye\n";

#[test]
fn reasoning_content_and_calls_are_told_apart() {
    let told = [
        reasoning("hm\n\nok"),
        content("sure:"),
        call(0, "weather"),
        arguments(0, r#"{"city": "a\"b\n好", "days": 3, "x": [1,{"a":2}], "unit": "3"}"#),
        call(1, "ping"),
        arguments(1, "{}"),
        content("bye\n"),
    ];
    assert_eq!(run(&all(), &[WHOLE]), told);
}

#[test]
fn what_nobody_asked_for_stays_in_the_content() {
    assert_eq!(run(&SpeechRules::default(), &[WHOLE]), [content(WHOLE)]);
    let answer = "<think>a</think><answer>b</answer>";
    let of_tools = SpeechRules { reasoning: false, ..all() };
    assert_eq!(run(&of_tools, &[answer]), [content(answer)]);
    assert_eq!(run(&all(), &[answer]), [reasoning("a"), content("<answer>b</answer>")]);
    let begun = SpeechRules { starts_in_reasoning: true, ..all() };
    assert_eq!(run(&begun, &["a</think>b"]), [reasoning("a"), content("b")]);
}

#[test]
fn what_is_cut_off_is_told_as_far_as_it_came() {
    assert_eq!(run(&all(), &["<think>a</thi"]), [reasoning("a</thi")]);
    assert_eq!(run(&all(), &["a <tool_call>wea"]), [content("a <tool_call>wea")]);
    let cut = "<tool_call>weather<arg_key>city</arg_key><arg_value>Ber</arg";
    assert_eq!(run(&all(), &[cut]), [call(0, "weather"), arguments(0, "{\"city\": \"Ber</arg")]);
    assert_eq!(run(&all(), &["<tool_call></tool_call>"]), [content("<tool_call></tool_call>")], "no name, no call");
}

proptest! {
    #[test]
    fn how_the_text_was_cut_does_not_matter(
        words in prop::collection::vec(prop::sample::select(vec![
            "<think>", "</think>", "<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>",
            "\n", "city", "days", "weather", "3", "<", "</", "好\"", " ",
        ]), 0..30),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        (reasoning, starts_in_reasoning, calls) in (any::<bool>(), any::<bool>(), any::<bool>()),
    ) {
        let text = words.concat();
        let rules = SpeechRules { reasoning, starts_in_reasoning, tools: calls.then(tools) };
        let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let mut at: Vec<usize> = cuts.iter().map(|c| ends[c.index(ends.len())]).chain([0, text.len()]).collect();
        at.sort_unstable();
        let cut: Vec<&str> = at.windows(2).map(|w| &text[w[0]..w[1]]).collect();
        let single: Vec<&str> = ends.windows(2).map(|w| &text[w[0]..w[1]]).collect();
        let whole = run(&rules, &[&text]);
        prop_assert_eq!(&run(&rules, &cut), &whole);
        prop_assert_eq!(&run(&rules, &single), &whole);
        for piece in &whole {
            if let Piece::Call { name, .. } = piece {
                prop_assert!(!name.is_empty());
            }
        }
        if !reasoning && !calls {
            prop_assert_eq!(whole, if text.is_empty() { vec![] } else { vec![content(&text)] });
        }
    }
}
