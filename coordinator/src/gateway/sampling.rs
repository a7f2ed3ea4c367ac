//! The fields that decide how tokens are chosen.

use protocol::generate::{CONTEXT_TOKENS_MAX, LOGIT_BIAS_MAX, SamplingParams, TOP_LOGPROBS_MAX};

use super::bundle::Bundle;
use super::errors::{ApiError, quote};
use super::fields::{RawRequest, number_in, wrong};
use super::response_format;
use super::validate::Endpoint;

/// What a request asks for; what depends on the prompt's length is not in yet.
#[derive(Debug)]
pub(super) struct Asked {
    /// All but `max_tokens`, `min_tokens` and `stop_token_ids`.
    pub(super) params: SamplingParams,
    /// Longest answer.
    pub(super) max_tokens: Option<u32>,
}

/// Reads them; what is absent is the model's own default.
pub(super) fn sampling(raw: &RawRequest, endpoint: Endpoint, bundle: &Bundle) -> Result<Asked, ApiError> {
    let defaults = &bundle.defaults;
    let number =
        |param, lo, hi, absent: f32| Ok::<_, ApiError>(raw.number(param, lo..=hi)?.map_or(absent, |x| x as f32));
    let params = SamplingParams {
        temperature: number("temperature", 0.0, 2.0, defaults.temperature)?,
        top_p: top_p(raw)?.unwrap_or(defaults.top_p),
        top_k: top_k(raw)?.unwrap_or(defaults.top_k),
        min_p: number("min_p", 0.0, 1.0, defaults.min_p)?,
        repetition_penalty: number("repetition_penalty", 0.01, 100.0, defaults.repetition_penalty)?,
        presence_penalty: number("presence_penalty", -2.0, 2.0, 0.0)?,
        frequency_penalty: number("frequency_penalty", -2.0, 2.0, 0.0)?,
        logit_bias: logit_bias(raw, bundle.vocab_size)?,
        seed: seed(raw)?,
        logprobs: logprobs(raw, endpoint)?,
        grammar: response_format::grammar(raw)?,
        ..SamplingParams::greedy(0)
    };
    Ok(Asked { params, max_tokens: max_tokens(raw, endpoint)? })
}

/// None at all makes sense only where the prompt is told.
fn max_tokens(raw: &RawRequest, endpoint: Endpoint) -> Result<Option<u32>, ApiError> {
    let echo = endpoint == Endpoint::Completions && raw.boolean("echo")?.unwrap_or(false);
    let (least, most) = (i64::from(!echo), CONTEXT_TOKENS_MAX as i64);
    let newer = raw.integer("max_completion_tokens", least..=most)?;
    let older = raw.integer("max_tokens", least..=most)?;
    Ok(newer.or(older).map(|n| u32::try_from(n).expect("checked to be in range")))
}

fn top_p(raw: &RawRequest) -> Result<Option<f32>, ApiError> {
    let Some(value) = raw.get("top_p") else { return Ok(None) };
    match value.as_f64() {
        Some(x) if x > 0.0 && x <= 1.0 => Ok(Some((x as f32).max(f32::MIN_POSITIVE))),
        Some(_) => {
            let expected = "above 0 and at most 1".to_owned();
            Err(ApiError::InvalidValue { param: "top_p".to_owned(), found: quote(&value.to_string()), expected })
        }
        None => Err(wrong("top_p", "a number", value)),
    }
}

/// -1 and 0 both keep every token.
fn top_k(raw: &RawRequest) -> Result<Option<u32>, ApiError> {
    Ok(raw.integer("top_k", -1..=i64::from(u32::MAX))?.map(|k| u32::try_from(k).unwrap_or(0)))
}

fn logit_bias(raw: &RawRequest, vocab_size: u32) -> Result<Vec<(u32, f32)>, ApiError> {
    let invalid =
        |found: String, expected: String| ApiError::InvalidValue { param: "logit_bias".to_owned(), found, expected };
    let map = match raw.get("logit_bias") {
        None => return Ok(Vec::new()),
        Some(value) => {
            value.as_object().ok_or_else(|| wrong("logit_bias", "an object of token ids and numbers", value))?
        }
    };
    if map.len() > LOGIT_BIAS_MAX {
        return Err(invalid(format!("{} entries", map.len()), format!("at most {LOGIT_BIAS_MAX}")));
    }
    let entry = |(id, bias): (&String, &serde_json::Value)| {
        let bias = number_in(&format!("logit_bias.{}", quote(id)), bias, -100.0..=100.0)?;
        match id.parse::<u32>() {
            Ok(id) if id < vocab_size => Ok((id, bias as f32)),
            _ => Err(invalid(format!("for token {}", quote(id)), format!("token ids below {vocab_size}"))),
        }
    };
    map.iter().map(entry).collect()
}

/// Negative seeds are seeds too; none at all means that the request is to differ from the last one.
fn seed(raw: &RawRequest) -> Result<u64, ApiError> {
    match raw.integer("seed", i64::MIN..=i64::MAX)? {
        Some(seed) => Ok(seed.cast_unsigned()),
        None => {
            let mut bytes = [0; 8];
            aws_lc_rs::rand::fill(&mut bytes).map_err(|_| ApiError::Internal { what: "random numbers" })?;
            Ok(u64::from_le_bytes(bytes))
        }
    }
}

fn logprobs(raw: &RawRequest, endpoint: Endpoint) -> Result<Option<u8>, ApiError> {
    let most = i64::from(TOP_LOGPROBS_MAX);
    let count = |n: i64| u8::try_from(n).expect("checked to be in range");
    match endpoint {
        Endpoint::Completions => Ok(raw.integer("logprobs", 0..=most)?.map(count)),
        Endpoint::Chat => {
            let wanted = raw.boolean("logprobs")?.unwrap_or(false);
            let top = raw.integer("top_logprobs", 0..=most)?;
            if top.is_some_and(|n| n > 0) && !wanted {
                let expected = "0 unless `logprobs` is true".to_owned();
                let found = top.unwrap_or_default().to_string();
                return Err(ApiError::InvalidValue { param: "top_logprobs".to_owned(), found, expected });
            }
            Ok(wanted.then(|| count(top.unwrap_or(0))))
        }
    }
}
