//! The fields that decide where an output ends and what of it is shown.

use protocol::generate::{CONTEXT_TOKENS_MAX, STOP_IDS_MAX};
use serde_json::Value;

use super::bundle::Bundle;
use super::errors::{ApiError, quote};
use super::fields::{RawRequest, integer_in, wrong};
use super::output::OutputRules;

/// Most stop strings.
const STOPS_MAX: usize = 16;
/// Longest stop string, bytes.
const STOP_BYTES_MAX: usize = 1024;

/// Reads them; the model's own stop ids are added unless the request ignores those.
pub(super) fn read(raw: &RawRequest, bundle: &Bundle) -> Result<OutputRules, ApiError> {
    let own_stop_ids = stop_ids(raw, bundle.vocab_size)?;
    let ignore_eos = raw.boolean("ignore_eos")?.unwrap_or(false);
    let mut stop_ids = if ignore_eos { Vec::new() } else { bundle.defaults.eos_ids.clone() };
    stop_ids.extend(&own_stop_ids);
    stop_ids.sort_unstable();
    stop_ids.dedup();
    if stop_ids.len() > STOP_IDS_MAX {
        let found = format!("{} ids, the model's own among them", stop_ids.len());
        let expected = format!("at most {STOP_IDS_MAX}");
        return Err(ApiError::InvalidValue { param: "stop_token_ids".to_owned(), found, expected });
    }
    let min_tokens = raw.integer("min_tokens", 0..=CONTEXT_TOKENS_MAX as i64)?.unwrap_or(0);
    Ok(OutputRules {
        stop: stops(raw)?,
        stop_ids,
        own_stop_ids,
        include_stop: raw.boolean("include_stop_str_in_output")?.unwrap_or(false),
        skip_special: raw.boolean("skip_special_tokens")?.unwrap_or(true),
        min_tokens: u32::try_from(min_tokens).expect("checked to be in range"),
    })
}

fn stops(raw: &RawRequest) -> Result<Vec<String>, ApiError> {
    let one = |param: &str, value: &Value| {
        let text = value.as_str().ok_or_else(|| wrong(param, "a string", value))?;
        if text.is_empty() || text.len() > STOP_BYTES_MAX {
            let expected = format!("a text of 1 to {STOP_BYTES_MAX} bytes");
            let found = if text.is_empty() { "empty".to_owned() } else { format!("{} bytes", text.len()) };
            return Err(ApiError::InvalidValue { param: param.to_owned(), found, expected });
        }
        Ok(text.to_owned())
    };
    match raw.get("stop") {
        None => Ok(Vec::new()),
        Some(text @ Value::String(_)) => Ok(vec![one("stop", text)?]),
        Some(Value::Array(texts)) if texts.len() <= STOPS_MAX => {
            texts.iter().enumerate().map(|(i, v)| one(&format!("stop[{i}]"), v)).collect()
        }
        Some(Value::Array(texts)) => Err(ApiError::InvalidValue {
            param: "stop".to_owned(),
            found: format!("{} texts", texts.len()),
            expected: format!("at most {STOPS_MAX}"),
        }),
        Some(other) => Err(wrong("stop", "a string or an array of strings", other)),
    }
}

fn stop_ids(raw: &RawRequest, vocab_size: u32) -> Result<Vec<u32>, ApiError> {
    let ids = raw.list("stop_token_ids")?;
    if ids.len() > STOP_IDS_MAX {
        let found = quote(&format!("{} ids", ids.len()));
        let expected = format!("at most {STOP_IDS_MAX}");
        return Err(ApiError::InvalidValue { param: "stop_token_ids".to_owned(), found, expected });
    }
    token_ids("stop_token_ids", ids, vocab_size)
}

/// Token ids of the vocabulary.
pub(super) fn token_ids(param: &str, ids: &[Value], vocab_size: u32) -> Result<Vec<u32>, ApiError> {
    let last = i64::from(vocab_size) - 1;
    let id = |(i, value): (usize, &Value)| {
        // The path is only written where it is needed: a prompt has many ids.
        let quick = value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n < vocab_size);
        match quick {
            Some(id) => Ok(id),
            None => integer_in(&format!("{param}[{i}]"), value, 0..=last).map(|n| u32::try_from(n).expect("in range")),
        }
    };
    ids.iter().enumerate().map(id).collect()
}
