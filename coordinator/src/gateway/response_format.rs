//! What an output must match, as OpenAI's and vLLM's clients say it: `response_format`, `structured_outputs`, and the
//! older `guided_*` fields.
//!
//! Not here: whether a schema, an expression or a grammar is a good one; the replica that compiles it says so.
//! Invariant: a request has at most one grammar, and what would change it but is not followed is refused by name.

use protocol::generate::{GRAMMAR_BYTES_MAX, Grammar};
use serde_json::{Map, Value};

use super::errors::{ApiError, quote};
use super::fields::{RawRequest, wrong};

/// The types of `response_format`.
const TYPES: &str = "text, json_object or json_schema";
/// Members of `structured_outputs` that change the grammar and are not followed.
const NOT_FOLLOWED: [&str; 4] =
    ["structural_tag", "whitespace_pattern", "disable_any_whitespace", "disable_additional_properties"];

/// The grammar that a request asks for.
///
/// # Errors
/// Each [`ApiError`] about a parameter.
pub(super) fn grammar(raw: &RawRequest) -> Result<Option<Grammar>, ApiError> {
    let mut found: Option<(&str, Grammar)> = None;
    let mut take = |param, grammar: Option<Grammar>| {
        let Some(grammar) = grammar else { return Ok(()) };
        match found.replace((param, grammar)) {
            None => Ok(()),
            Some((other, _)) => Err(invalid(param, "given", &format!("nothing besides `{other}`"))),
        }
    };
    take("response_format", raw.get("response_format").map(response_format).transpose()?.flatten())?;
    if let Some(value) = raw.get("structured_outputs") {
        let map = value.as_object().ok_or_else(|| wrong("structured_outputs", "an object", value))?;
        if let Some(param) = NOT_FOLLOWED.iter().find(|key| present(map, key).is_some_and(|v| *v != Value::Bool(false)))
        {
            let param = format!("structured_outputs.{param}");
            return Err(ApiError::Unsupported { param, reason: "only json, json_object, regex, choice and grammar" });
        }
        take("structured_outputs.json", present(map, "json").map(|v| json("structured_outputs.json", v)).transpose()?)?;
        take("structured_outputs.regex", text(map, "structured_outputs.regex", "regex")?.map(Grammar::Regex))?;
        let choice = present(map, "choice").map(|v| choice("structured_outputs.choice", v)).transpose()?;
        take("structured_outputs.choice", choice)?;
        take("structured_outputs.grammar", text(map, "structured_outputs.grammar", "grammar")?.map(Grammar::Lark))?;
        let object = match present(map, "json_object") {
            None | Some(Value::Bool(false)) => None,
            Some(Value::Bool(true)) => Some(Grammar::JsonObject),
            Some(other) => return Err(wrong("structured_outputs.json_object", "a boolean", other)),
        };
        take("structured_outputs.json_object", object)?;
    }
    take("guided_json", raw.get("guided_json").map(|v| json("guided_json", v)).transpose()?)?;
    take("guided_regex", raw.string("guided_regex")?.map(|t| Grammar::Regex(t.to_owned())))?;
    take("guided_choice", raw.get("guided_choice").map(|v| choice("guided_choice", v)).transpose()?)?;
    take("guided_grammar", raw.string("guided_grammar")?.map(|t| Grammar::Lark(t.to_owned())))?;
    found.map(|(param, grammar)| bounded(param, grammar)).transpose()
}

fn response_format(value: &Value) -> Result<Option<Grammar>, ApiError> {
    let map = value.as_object().ok_or_else(|| wrong("response_format", "an object", value))?;
    let kind = present(map, "type").ok_or_else(|| missing("response_format.type"))?;
    match kind.as_str() {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Grammar::JsonObject)),
        Some("json_schema") => json_schema(map).map(Some),
        Some(other) => Err(invalid("response_format.type", &quote(other), TYPES)),
        None => Err(wrong("response_format.type", "a string", kind)),
    }
}

/// `name` and `description` name nothing here. Without `strict` a schema is followed as strictly as with it.
fn json_schema(format: &Map<String, Value>) -> Result<Grammar, ApiError> {
    const AT: &str = "response_format.json_schema";
    let value = present(format, "json_schema").ok_or_else(|| missing(AT))?;
    let map = value.as_object().ok_or_else(|| wrong(AT, "an object", value))?;
    if let Some(name) = present(map, "name").filter(|v| !v.is_string()) {
        return Err(wrong("response_format.json_schema.name", "a string", name));
    }
    if let Some(strict) = present(map, "strict").filter(|v| !v.is_boolean()) {
        return Err(wrong("response_format.json_schema.strict", "a boolean", strict));
    }
    let schema = present(map, "schema").ok_or_else(|| missing("response_format.json_schema.schema"))?;
    json("response_format.json_schema.schema", schema)
}

/// A schema: an object, `true`, or, as vLLM takes it, the text of one.
fn json(param: &str, value: &Value) -> Result<Grammar, ApiError> {
    match value {
        Value::Object(_) | Value::Bool(true) => Ok(Grammar::JsonSchema(value.to_string())),
        Value::String(text) => match serde_json::from_str(text) {
            Ok(Value::Object(_) | Value::Bool(true)) => Ok(Grammar::JsonSchema(text.clone())),
            Ok(_) | Err(_) => Err(invalid(param, "a text that is none", "a JSON schema")),
        },
        other => Err(wrong(param, "a JSON schema", other)),
    }
}

/// One of these texts: a Lark grammar of JSON strings, which are Lark's own.
fn choice(param: &str, value: &Value) -> Result<Grammar, ApiError> {
    let list = value.as_array().ok_or_else(|| wrong(param, "an array of strings", value))?;
    if list.is_empty() {
        return Err(invalid(param, "empty", "at least one text"));
    }
    let mut texts = Vec::with_capacity(list.len());
    for (i, item) in list.iter().enumerate() {
        if !item.is_string() {
            return Err(wrong(&format!("{param}[{i}]"), "a string", item));
        }
        // Lark takes no DEL as it is.
        texts.push(item.to_string().replace('\u{7f}', "\\u007f"));
    }
    Ok(Grammar::Lark(format!("start: {}", texts.join(" | "))))
}

fn text(map: &Map<String, Value>, param: &str, key: &str) -> Result<Option<String>, ApiError> {
    present(map, key).map(|v| v.as_str().map(str::to_owned).ok_or_else(|| wrong(param, "a string", v))).transpose()
}

fn bounded(param: &str, grammar: Grammar) -> Result<Grammar, ApiError> {
    let len = match &grammar {
        Grammar::JsonObject => return Ok(grammar),
        Grammar::JsonSchema(text) | Grammar::Regex(text) | Grammar::Lark(text) => text.len(),
    };
    if (1..=GRAMMAR_BYTES_MAX).contains(&len) {
        return Ok(grammar);
    }
    Err(invalid(param, &format!("{len} bytes"), &format!("1 to {GRAMMAR_BYTES_MAX} bytes")))
}

fn present<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.get(key).filter(|v| !v.is_null())
}

fn missing(param: &str) -> ApiError {
    ApiError::Missing { param: param.to_owned() }
}

fn invalid(param: &str, found: &str, expected: &str) -> ApiError {
    ApiError::InvalidValue { param: param.to_owned(), found: found.to_owned(), expected: expected.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &Value) -> Result<Option<Grammar>, String> {
        let raw = RawRequest::parse(body.to_string().as_bytes()).expect("an object");
        grammar(&raw).map_err(|e| e.to_string())
    }

    #[test]
    fn every_way_to_ask_is_read() {
        let schema = json!({"type": "object", "properties": {"b": {"type": "string"}, "a": true}});
        let of_schema = Ok(Some(Grammar::JsonSchema(schema.to_string())));
        let lark = |text: &str| Ok(Some(Grammar::Lark(text.to_owned())));
        let regex = Ok(Some(Grammar::Regex("[a-z]+".to_owned())));
        let format = |schema: &Value| json!({"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema}});
        let cases = [
            (json!({}), Ok(None)),
            (json!({"response_format": null, "guided_json": null, "structured_outputs": null}), Ok(None)),
            (json!({"response_format": {"type": "text"}}), Ok(None)),
            (json!({"response_format": {"type": "json_object"}}), Ok(Some(Grammar::JsonObject))),
            (json!({"response_format": format(&schema)}), of_schema.clone()),
            (json!({"guided_json": schema}), of_schema.clone()),
            (json!({"guided_json": schema.to_string()}), of_schema.clone()),
            (json!({"structured_outputs": {"json": schema}}), of_schema),
            (json!({"structured_outputs": {"json_object": true}}), Ok(Some(Grammar::JsonObject))),
            (json!({"structured_outputs": {"json_object": false}, "guided_regex": "[a-z]+"}), regex.clone()),
            (json!({"structured_outputs": {"regex": "[a-z]+", "whitespace_pattern": null}}), regex),
            (json!({"structured_outputs": {"grammar": "start: \"a\""}}), lark("start: \"a\"")),
            (json!({"guided_grammar": "start: \"a\""}), lark("start: \"a\"")),
            (json!({"guided_choice": ["yes", "no\n\"\u{7f}"]}), lark(r#"start: "yes" | "no\n\"\u007f""#)),
            (
                json!({"structured_outputs": {"choice": ["yes"]}, "response_format": {"type": "text"}}),
                lark("start: \"yes\""),
            ),
        ];
        for (body, expected) in cases {
            assert_eq!(read(&body), expected, "{body}");
        }
    }

    #[test]
    fn what_cannot_be_followed_is_named() {
        let cases = [
            (json!({"response_format": "json"}), "`response_format` must be an object, found a string"),
            (json!({"response_format": {}}), "`response_format.type` is required"),
            (
                json!({"response_format": {"type": "structural_tag"}}),
                "`response_format.type` is structural_tag, expected text, json_object or json_schema",
            ),
            (json!({"response_format": {"type": "json_schema"}}), "`response_format.json_schema` is required"),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
                "`response_format.json_schema.schema` is required",
            ),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"schema": 1}}}),
                "`response_format.json_schema.schema` must be a JSON schema, found an integer",
            ),
            (
                json!({"response_format": {"type": "json_object"}, "guided_regex": "a"}),
                "`guided_regex` is given, expected nothing besides `response_format`",
            ),
            (json!({"guided_json": "{"}), "`guided_json` is a text that is none, expected a JSON schema"),
            (json!({"guided_choice": []}), "`guided_choice` is empty, expected at least one text"),
            (json!({"guided_choice": ["a", 1]}), "`guided_choice[1]` must be a string, found an integer"),
            (json!({"guided_regex": ""}), "`guided_regex` is 0 bytes, expected 1 to 262144 bytes"),
            (
                json!({"structured_outputs": {"json": {}, "disable_any_whitespace": true}}),
                "`structured_outputs.disable_any_whitespace` is not supported: only json, json_object, regex, choice and grammar",
            ),
        ];
        for (body, expected) in cases {
            assert_eq!(read(&body), Err(expected.to_owned()), "{body}");
        }
        let error = read(&json!({"guided_grammar": "a".repeat(GRAMMAR_BYTES_MAX + 1)}));
        assert_eq!(error, Err("`guided_grammar` is 262145 bytes, expected 1 to 262144 bytes".to_owned()));
    }
}
