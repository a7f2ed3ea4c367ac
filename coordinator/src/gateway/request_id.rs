//! The id of a request: the client's own where it sent one, and ours for everything inside the cluster.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use protocol::RequestId;

use super::errors::ApiError;

/// Where clients send theirs and read ours.
pub(super) const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is echoed, bytes.
const ECHOED_MAX: usize = 256;

/// That the client gave its request an id itself, by which it may ask for the rest of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named(pub(super) bool);

/// Gives every request its id, returns it on every response, and turns a panic into an answer.
pub(super) async fn layer(mut request: Request, next: Next) -> Response {
    let sent = request.headers().get(&HEADER).filter(|v| !v.is_empty() && v.len() <= ECHOED_MAX).cloned();
    let id = match &sent {
        Some(value) => id_of(value.as_bytes()),
        None => random(),
    };
    request.extensions_mut().insert(id);
    request.extensions_mut().insert(Named(sent.is_some()));
    let mut response = match std::panic::AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            tracing::error!(request_id = %id, "a request handler panicked");
            ApiError::Internal { what: "request handler" }.into_response()
        }
    };
    let told = sent.unwrap_or_else(|| HeaderValue::try_from(id.to_string()).expect("hexadecimal digits"));
    response.headers_mut().insert(HEADER, told);
    response
}

/// 32 hexadecimal digits are the id; anything else is hashed to one, so that the same text is always the same id.
pub(super) fn id_of(sent: &[u8]) -> RequestId {
    let parsed = std::str::from_utf8(sent).ok().and_then(|text| RequestId::parse(text).ok());
    parsed.unwrap_or_else(|| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, sent);
        RequestId::from_bytes(digest.as_ref()[..16].try_into().expect("SHA-256 has 32 bytes"))
    })
}

fn random() -> RequestId {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random numbers do not fail once the process runs");
    RequestId::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_ids_are_kept_and_others_hashed() {
        let hex = "00112233445566778899aabbccddeeff";
        assert_eq!(id_of(hex.as_bytes()).to_string(), hex);
        assert_eq!(id_of(b"my id"), id_of(b"my id"));
        assert_ne!(id_of(b"my id"), id_of(b"my ID"));
        assert_ne!(random(), random());
    }
}
