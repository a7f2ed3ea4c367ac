//! Why there is no answer, or no more of it.

use serde_json::Value;

/// Most of an error body that is quoted, characters.
const QUOTE_CHARS: usize = 300;

/// Why there is no answer, or no more of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// Nobody answers at the address.
    #[error("no answer from {url}: {reason}")]
    Unreachable {
        /// The address.
        url: String,
        /// The last cause.
        reason: String,
    },
    /// The server refused, with its message.
    #[error("{message} ({code})")]
    Api {
        /// HTTP status; `None` when the error came in a stream that had begun.
        status: Option<u16>,
        /// OpenAI's `code`, else its `type`, else the HTTP status.
        code: String,
        /// One line.
        message: String,
        /// `Retry-After`, s.
        retry_after_s: Option<u32>,
    },
    /// The connection broke in mid-answer.
    #[error("the stream from {url} broke: {reason}")]
    Broken {
        /// The address.
        url: String,
        /// The last cause.
        reason: String,
    },
    /// What came is not an answer of such an endpoint.
    #[error("{url} sent what is not a completion: {reason}")]
    NotACompletion {
        /// The address.
        url: String,
        /// What was found.
        reason: String,
    },
}

impl CallError {
    /// Whether the server asks to come again later.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Api { status: Some(429 | 503), .. })
    }

    /// From the body of a refusal.
    pub(super) fn of_body(status: u16, retry_after_s: Option<u32>, body: &[u8]) -> Self {
        let otherwise = status.to_string();
        match serde_json::from_slice::<Value>(body).ok().as_ref().and_then(|v| v.get("error")) {
            Some(error) => Self::of_object(Some(status), retry_after_s, error, &otherwise),
            None => {
                let message = quote(&String::from_utf8_lossy(body));
                Self::Api { status: Some(status), code: otherwise, message, retry_after_s }
            }
        }
    }

    /// From OpenAI's error object.
    pub(super) fn of_object(status: Option<u16>, retry_after_s: Option<u32>, error: &Value, otherwise: &str) -> Self {
        let text = |name: &str| error.get(name).and_then(Value::as_str);
        let code = text("code").or_else(|| text("type")).unwrap_or(otherwise).to_owned();
        let message = text("message").map_or_else(|| quote(&error.to_string()), str::to_owned);
        Self::Api { status, code, message, retry_after_s }
    }
}

/// The start of a foreign text.
pub(super) fn quote(text: &str) -> String {
    text.chars().take(QUOTE_CHARS).collect()
}
