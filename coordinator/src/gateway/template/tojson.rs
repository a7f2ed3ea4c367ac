//! `tojson` of chat templates: Python's `json.dumps(x, ensure_ascii=False, …)`, character for character.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// Deepest nesting.
const DEPTH_MAX: usize = 128;

/// The filter: `ensure_ascii`, `indent`, `separators`, `sort_keys` as transformers' own.
pub(super) fn tojson(state: &State<'_, '_>, value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent = match options.get::<Option<Value>>("indent")? {
        None => None,
        Some(v) if v.is_none() => None,
        Some(v) if v.as_str().is_some() => v.as_str().map(str::to_owned),
        Some(v) => Some(" ".repeat(usize::try_from(v)?.min(64))),
    };
    let (comma, colon) = match options.get::<Option<Value>>("separators")? {
        Some(v) if !v.is_none() => {
            let parts: Vec<String> = v.try_iter()?.map(|s| s.to_string()).collect();
            <[String; 2]>::try_from(parts)
                .map(Into::into)
                .map_err(|_| Error::new(ErrorKind::InvalidOperation, "tojson: separators must be a pair of strings"))?
        }
        _ => ((if indent.is_some() { "," } else { ", " }).to_owned(), ": ".to_owned()),
    };
    let ensure_ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let mut writer = Writer { out: String::new(), indent, comma, colon, ensure_ascii, sort_keys };
    writer.value(value, 0)?;
    state.consume_fuel(writer.out.len() as u64 / 4)?;
    Ok(Value::from(writer.out))
}

struct Writer {
    out: String,
    indent: Option<String>,
    comma: String,
    colon: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: nested deeper than {DEPTH_MAX}")));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.list(value, depth)?,
            ValueKind::Map => self.map(value, depth)?,
            other => {
                let detail = format!("tojson: {other} is not JSON serializable");
                return Err(Error::new(ErrorKind::InvalidOperation, detail));
            }
        }
        Ok(())
    }

    fn list(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('[');
        let mut empty = true;
        for item in value.try_iter()? {
            self.separate(&mut empty, depth);
            self.value(&item, depth + 1)?;
        }
        self.close(empty, depth, ']');
        Ok(())
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        self.out.push('{');
        let mut empty = true;
        for key in keys {
            self.separate(&mut empty, depth);
            match key.kind() {
                ValueKind::None => self.string("null"),
                ValueKind::Bool => self.string(if key.is_true() { "true" } else { "false" }),
                _ => self.string(&key.to_string()),
            }
            self.out.push_str(&self.colon);
            self.value(&value.get_item(&key)?, depth + 1)?;
        }
        self.close(empty, depth, '}');
        Ok(())
    }

    fn separate(&mut self, empty: &mut bool, depth: usize) {
        if !std::mem::replace(empty, false) {
            self.out.push_str(&self.comma);
        }
        self.newline(depth + 1);
    }

    fn close(&mut self, empty: bool, depth: usize, bracket: char) {
        if !empty {
            self.newline(depth);
        }
        self.out.push(bracket);
    }

    fn newline(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            (0..depth).for_each(|_| self.out.push_str(indent));
        }
    }

    fn number(&mut self, value: &Value) {
        if value.is_integer() {
            self.out.push_str(&value.to_string());
        } else {
            self.out.push_str(&python_float(f64::try_from(value.clone()).unwrap_or(f64::NAN)));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && !(' '..='~').contains(&c)) => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        write!(self.out, "\\u{unit:04x}").expect("a string takes everything");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// Python's `repr` of a float. Both languages print the shortest digits and turn to exponents at the same sizes; the
/// exponent's form differs.
fn python_float(x: f64) -> String {
    if x.is_nan() {
        return "NaN".to_owned();
    }
    if x.is_infinite() {
        return (if x > 0.0 { "Infinity" } else { "-Infinity" }).to_owned();
    }
    let debug = format!("{x:?}");
    match debug.split_once('e') {
        None => debug,
        Some((digits, exponent)) => {
            let digits = digits.strip_suffix(".0").unwrap_or(digits);
            match exponent.strip_prefix('-') {
                Some(e) => format!("{digits}e-{e:0>2}"),
                None => format!("{digits}e+{exponent:0>2}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dumps(json: &str, call: &str) -> String {
        let mut env = minijinja::Environment::new();
        env.add_filter("tojson", tojson);
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        let source = format!("{{{{ x | {call} }}}}");
        env.render_str(&source, minijinja::context! { x => minijinja::Value::from(minijinja::value::Serde(value)) })
            .unwrap()
    }

    /// Expectations are what CPython 3.11 prints.
    #[test]
    fn as_python_dumps() {
        let json = r#"{"b":[1,2.0,1e16,1e-5,0.0001,true,null],"a":{"é":"\"<&'\u0001\u007f😀"},"e":[],"o":{}}"#;
        assert_eq!(
            dumps(json, "tojson"),
            "{\"b\": [1, 2.0, 1e+16, 1e-05, 0.0001, true, null], \"a\": {\"é\": \"\\\"<&'\\u0001\u{7f}😀\"}, \"e\": [], \"o\": {}}"
        );
        assert_eq!(
            dumps(json, "tojson(ensure_ascii=True, sort_keys=True, separators=(',', ':'))"),
            "{\"a\":{\"\\u00e9\":\"\\\"<&'\\u0001\\u007f\\ud83d\\ude00\"},\"b\":[1,2.0,1e+16,1e-05,0.0001,true,null],\"e\":[],\"o\":{}}"
        );
        assert_eq!(dumps(r#"{"a":[1],"b":{}}"#, "tojson(indent=2)"), "{\n  \"a\": [\n    1\n  ],\n  \"b\": {}\n}");
    }

    #[test]
    fn floats_as_python_prints_them() {
        for (x, text) in [(1.5e300, "1.5e+300"), (1e22, "1e+22"), (-2.5e-7, "-2.5e-07"), (123456789.0, "123456789.0")] {
            assert_eq!(python_float(x), text);
        }
    }
}
