//! How an admin call fails: status, stable code and one line, decided here only.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use protocol::admin::ErrorBody;

use crate::raft::ReadError;

/// Why an admin call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallFailed {
    /// No certificate, or of another role.
    #[error("a client certificate of role admin is needed")]
    Unauthorized,
    /// A token that is not this cluster's.
    #[error("the join token is not this cluster's")]
    WrongToken,
    /// Nobody may join.
    #[error("this cluster takes no joins: no join token is configured")]
    NoJoins,
    /// The name belongs to a node that is alive.
    #[error("node `{name}` is up: a running node's name is not given twice")]
    NameInUse {
        /// The name.
        name: String,
    },
    /// A body or query that cannot be read.
    #[error("{0}")]
    BadRequest(String),
    /// No such route.
    #[error("no such route: {0}")]
    NotFound(String),
    /// The method is not one of the route's.
    #[error("the method is not allowed here")]
    MethodNotAllowed,
    /// The body is too large.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// The state cannot be confirmed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
    /// Signing failed.
    #[error("cannot sign the certificate: {0}")]
    Signing(String),
}

impl CallFailed {
    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Unauthorized | Self::WrongToken => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::NoJoins | Self::NameInUse { .. } => (StatusCode::CONFLICT, "precondition_failed"),
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "bad_request"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "bad_request"),
            Self::Read(ReadError::NotLeader { .. }) => (StatusCode::SERVICE_UNAVAILABLE, "not_leader"),
            Self::Read(_) | Self::Timeout => (StatusCode::SERVICE_UNAVAILABLE, "no_quorum"),
            Self::Signing(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }
}

impl IntoResponse for CallFailed {
    fn into_response(self) -> Response {
        let (status, code) = self.status_and_code();
        (status, Json(ErrorBody { code: code.to_owned(), message: self.to_string() })).into_response()
    }
}
