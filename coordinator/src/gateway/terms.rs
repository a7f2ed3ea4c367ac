//! On what terms a request is served: how urgent it is, how long it may take, with whom it shares cached prompts.
//!
//! Two ways to say how urgent: the header `x-priority: high|normal|low`, which proxies can set by who calls, and vLLM's
//! field `priority`, an integer of which lower ones go first: below 0 is high, 0 normal, above 0 low. Where both are
//! there, the header counts.

use std::time::Duration;

use axum::http::HeaderMap;
use protocol::generate::{CACHE_SALT_BYTES_MAX, Priority};

use super::errors::{ApiError, quote};
use super::fields::RawRequest;

/// Header of the priority.
const PRIORITY: &str = "x-priority";
/// Header of the deadline, ms from the request's arrival.
const TIMEOUT: &str = "x-request-timeout-ms";

/// The terms of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Terms {
    /// Who goes first.
    pub(super) priority: Priority,
    /// From arrival to the last token.
    pub(super) timeout: Duration,
    /// Prompts share cached KV blocks only under equal salts.
    pub(super) cache_salt: String,
}

impl Terms {
    /// `timeout_ms_max` holds where a request does not say less.
    ///
    /// # Errors
    /// [`ApiError::WrongType`], [`ApiError::InvalidValue`], naming header or field.
    pub(super) fn read(headers: &HeaderMap, raw: &RawRequest, timeout_ms_max: u32) -> Result<Self, ApiError> {
        let field = raw.integer("priority", i64::MIN..=i64::MAX)?.map_or(Priority::Normal, |n| match n {
            ..0 => Priority::High,
            0 => Priority::Normal,
            1.. => Priority::Low,
        });
        let priority = priority(headers)?.unwrap_or(field);
        let timeout = Duration::from_millis(u64::from(timeout_ms(headers, timeout_ms_max)?.unwrap_or(timeout_ms_max)));
        Ok(Self { priority, timeout, cache_salt: cache_salt(raw)? })
    }
}

impl Terms {
    /// Those of a request that was read before.
    ///
    /// # Errors
    /// [`ApiError::InvalidValue`] about its salt.
    pub(super) fn again(raw: &RawRequest, priority: Priority, timeout: Duration) -> Result<Self, ApiError> {
        Ok(Self { priority, timeout, cache_salt: cache_salt(raw)? })
    }
}

fn priority(headers: &HeaderMap) -> Result<Option<Priority>, ApiError> {
    let Some(word) = text(headers, PRIORITY) else { return Ok(None) };
    match word.to_ascii_lowercase().as_str() {
        "high" => Ok(Some(Priority::High)),
        "normal" => Ok(Some(Priority::Normal)),
        "low" => Ok(Some(Priority::Low)),
        _ => Err(invalid(PRIORITY, quote(&word), "high, normal or low".to_owned())),
    }
}

fn timeout_ms(headers: &HeaderMap, max: u32) -> Result<Option<u32>, ApiError> {
    let Some(word) = text(headers, TIMEOUT) else { return Ok(None) };
    let digits = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    match word.parse::<u32>() {
        Ok(ms) if digits && (1..=max).contains(&ms) => Ok(Some(ms)),
        _ => Err(invalid(TIMEOUT, quote(&word), format!("a whole number of milliseconds, 1 to {max}"))),
    }
}

fn cache_salt(raw: &RawRequest) -> Result<String, ApiError> {
    const PARAM: &str = "cache_salt";
    let salt = raw.string(PARAM)?.unwrap_or_default();
    if salt.len() > CACHE_SALT_BYTES_MAX {
        let expected = format!("at most {CACHE_SALT_BYTES_MAX} bytes");
        return Err(invalid(PARAM, format!("{} bytes", salt.len()), expected));
    }
    Ok(salt.to_owned())
}

/// A header as text; bytes that are none do not make it absent.
fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned())
}

fn invalid(param: &str, found: String, expected: String) -> ApiError {
    ApiError::InvalidValue { param: param.to_owned(), found, expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Headers<'a> = &'a [(&'static str, &'static [u8])];

    fn read(headers: Headers<'_>, body: &str) -> Result<Terms, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, axum::http::HeaderValue::from_bytes(value).unwrap());
        }
        Terms::read(&map, &RawRequest::parse(body.as_bytes()).unwrap(), 5_000).map_err(|e| e.to_string())
    }

    #[test]
    fn the_header_counts_before_the_field() {
        let priority = |headers, body| read(headers, body).unwrap().priority;
        assert_eq!(priority(&[], "{}"), Priority::Normal);
        assert_eq!(priority(&[], r#"{"priority": -3}"#), Priority::High);
        assert_eq!(priority(&[], r#"{"priority": 0}"#), Priority::Normal);
        assert_eq!(priority(&[], r#"{"priority": 7}"#), Priority::Low);
        assert_eq!(priority(&[("x-priority", b"High")], r#"{"priority": 7}"#), Priority::High);
    }

    #[test]
    fn absent_terms_are_the_defaults() {
        let terms = Terms { priority: Priority::Normal, timeout: Duration::from_secs(5), cache_salt: String::new() };
        assert_eq!(read(&[], "{}"), Ok(terms));
        let terms = read(&[("x-request-timeout-ms", b"250")], r#"{"cache_salt": "s"}"#).unwrap();
        assert_eq!((terms.timeout.as_millis(), terms.cache_salt.as_str()), (250, "s"));
    }

    #[test]
    fn wrong_terms_are_named_with_their_range() {
        let cases: [(Headers<'_>, &str, &str); 8] = [
            (&[("x-priority", b"urgent")], "{}", "`x-priority` is urgent, expected high, normal or low"),
            (&[("x-priority", b"\xff")], "{}", "`x-priority` is \u{fffd}, expected high, normal or low"),
            (&[("x-request-timeout-ms", b"0")], "{}", "is 0, expected a whole number of milliseconds, 1 to 5000"),
            (&[("x-request-timeout-ms", b"5001")], "{}", "`x-request-timeout-ms` is 5001"),
            (&[("x-request-timeout-ms", b"+9")], "{}", "is +9"),
            (&[("x-request-timeout-ms", b"")], "{}", "1 to 5000"),
            (&[], r#"{"priority": "high"}"#, "`priority` must be an integer, found a string"),
            (&[], r#"{"cache_salt": 1}"#, "`cache_salt` must be a string"),
        ];
        for (headers, body, message) in cases {
            let error = read(headers, body).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
        let long = format!(r#"{{"cache_salt": "{}"}}"#, "s".repeat(257));
        assert_eq!(read(&[], &long).unwrap_err(), "`cache_salt` is 257 bytes, expected at most 256 bytes");
    }
}
