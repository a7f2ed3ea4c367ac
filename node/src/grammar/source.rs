//! A request's grammar as llguidance takes it, after the checks that llguidance leaves to others.
//!
//! Invariant: what would make llguidance recurse deeper than the stack of whoever compiles ([`super::STACK_BYTES`])
//! allows, or work longer than its own limits know of, is refused here. The bounds were measured: each alone keeps an
//! unoptimised build below 2 s and 128 MiB of stack.

use llguidance::api::TopLevelGrammar;
use protocol::generate::Grammar;
use serde_json::{Map, Value, json};

use super::GrammarError;

/// Most rules and terminals of a Lark grammar: references between them are followed by recursion.
const LARK_DEFINITIONS_MAX: usize = 2_000;
/// Most objects of a schema: schemas are followed into each other, through references too, by recursion.
const SCHEMA_OBJECTS_MAX: usize = 10_000;
/// Most members of one object of a schema: the properties of an object are compared with each other.
const SCHEMA_MEMBERS_MAX: usize = 1_000;
/// Most `patternProperties` of an object: each is intersected with every other.
const SCHEMA_PATTERNS_MAX: usize = 64;
/// White space that JSON may have between its tokens: a blank, or a line break with an indent. Bounded, or a model that
/// likes blanks would never come to an end.
const JSON_WHITESPACE: &str = r"( |\n {0,20})";

/// # Errors
/// [`GrammarError::Invalid`].
pub(super) fn top_level(grammar: &Grammar) -> Result<TopLevelGrammar, GrammarError> {
    match grammar {
        Grammar::JsonObject => json_schema(json!({"type": "object"})),
        Grammar::JsonSchema(text) => json_schema(serde_json::from_str(text).map_err(GrammarError::invalid)?),
        Grammar::Regex(text) => Ok(TopLevelGrammar::from_regex(text)),
        Grammar::Lark(text) => lark(text),
    }
}

/// The options that a schema itself carries (`x-guidance`) win over ours.
fn json_schema(schema: Value) -> Result<TopLevelGrammar, GrammarError> {
    let mut schema = match schema {
        Value::Object(map) => map,
        Value::Bool(true) => Map::new(),
        other => return Err(GrammarError::invalid(format!("a JSON schema is an object or true, found {other}"))),
    };
    check_size(&schema)?;
    let options = schema.entry("x-guidance").or_insert_with(|| json!({}));
    if let Value::Object(options) = options {
        options.entry("whitespace_pattern").or_insert_with(|| JSON_WHITESPACE.into());
    }
    Ok(TopLevelGrammar::from_json_schema(Value::Object(schema)))
}

fn check_size(schema: &Map<String, Value>) -> Result<(), GrammarError> {
    let bound = |what: &str, found: usize, max: usize| match found <= max {
        true => Ok(()),
        false => Err(GrammarError::invalid(format!("{found} {what}, at most {max}"))),
    };
    let mut objects = vec![schema];
    let mut others: Vec<&Value> = Vec::new();
    let mut count = 0;
    // Bounded by the text's length: each value is visited once.
    while let Some(object) = objects.pop() {
        count += 1;
        bound("members in one object of the schema", object.len(), SCHEMA_MEMBERS_MAX)?;
        if let Some(Value::Object(patterns)) = object.get("patternProperties") {
            bound("patternProperties in one object of the schema", patterns.len(), SCHEMA_PATTERNS_MAX)?;
        }
        others.extend(object.values());
        while let Some(value) = others.pop() {
            match value {
                Value::Object(object) => objects.push(object),
                Value::Array(items) => others.extend(items),
                _ => {}
            }
        }
    }
    bound("objects in the schema", count, SCHEMA_OBJECTS_MAX)
}

fn lark(text: &str) -> Result<TopLevelGrammar, GrammarError> {
    // A schema inside would escape its own bounds.
    if text.contains("%json") {
        return Err(GrammarError::invalid("%json is not supported inside of a grammar; send the schema as a schema"));
    }
    // Every definition has a colon; those in strings count too, which only makes the bound tighter.
    let definitions = text.matches(':').count();
    if definitions > LARK_DEFINITIONS_MAX {
        return Err(GrammarError::invalid(format!("{definitions} definitions, at most {LARK_DEFINITIONS_MAX}")));
    }
    Ok(TopLevelGrammar::from_lark(text.to_owned()))
}
