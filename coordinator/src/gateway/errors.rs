//! Everything that can go wrong with a client's request, and, in one `match`, what the client is told of it.
//!
//! Invariant: every failure of every route leaves here as OpenAI's error object with a stable `code`.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::pictures::PictureFault;

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum ApiError {
    /// The body is no JSON.
    #[error("the request body is not valid JSON: {reason} at line {line} column {column}")]
    MalformedJson {
        /// What the parser says.
        reason: String,
        /// Where, from 1.
        line: usize,
        /// Where, from 1; 0 at the very end of a line.
        column: usize,
    },
    /// The body is JSON, but no object.
    #[error("the request body must be a JSON object, found {found}")]
    NotAnObject {
        /// What it is.
        found: &'static str,
    },
    /// A parameter of the wrong type.
    #[error("`{param}` must be {expected}, found {found}")]
    WrongType {
        /// Its name, with the path to it.
        param: String,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A parameter of the right type with a value that is not allowed.
    #[error("`{param}` is {found}, expected {expected}")]
    InvalidValue {
        /// Its name, with the path to it.
        param: String,
        /// Its value, cut short.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// A parameter that must be there.
    #[error("`{param}` is required")]
    Missing {
        /// Its name, with the path to it.
        param: String,
    },
    /// A parameter that would change the answer and that this server does not know how to follow.
    #[error("`{param}` is not supported: {reason}")]
    Unsupported {
        /// Its name, with the path to it.
        param: String,
        /// What is supported instead.
        reason: &'static str,
    },
    /// A picture that is not taken.
    #[error("`{param}`: {fault}")]
    Picture {
        /// The path to it.
        param: String,
        /// Why.
        fault: PictureFault,
    },
    /// The prompt's text has other places for pictures than there are pictures.
    #[error(
        "the prompt has {found} picture placeholders for {pictures} pictures: a text must not contain the model's picture \
         token, and its chat template must show every picture"
    )]
    Placeholders {
        /// Where the text came from.
        param: &'static str,
        /// Placeholders in the rendered prompt.
        found: usize,
        /// Pictures of the request.
        pictures: usize,
    },
    /// No deployment has this name.
    #[error("the model `{model}` does not exist")]
    UnknownModel {
        /// The name asked for, cut short.
        model: String,
    },
    /// Prompt and answer do not fit the context.
    #[error(
        "this model's maximum context length is {limit} tokens; the prompt has {at_least}{prompt} tokens{}, please \
         shorten the prompt or lower max_tokens",
        max_tokens.map_or_else(String::new, |n| format!(" and {n} more were asked for (max_tokens)"))
    )]
    ContextLength {
        /// Longest context, tokens.
        limit: u32,
        /// Length of the prompt, tokens.
        prompt: usize,
        /// `at least ` where the prompt was too long even to be counted.
        at_least: &'static str,
        /// Answer asked for, tokens.
        max_tokens: Option<u32>,
    },
    /// The chat template does not take these messages.
    #[error("{reason}")]
    Template {
        /// Its words.
        reason: String,
    },
    /// The replica finds fault with what only it can check: a schema, an expression, a grammar.
    #[error("{reason}")]
    Refused {
        /// Its words.
        reason: String,
    },
    /// No such route.
    #[error("unknown request URL: {method} {path}")]
    UnknownRoute {
        /// The request's method.
        method: String,
        /// The request's path, cut short.
        path: String,
    },
    /// The route is there, not for this method.
    #[error("{method} is not allowed on {path}")]
    MethodNotAllowed {
        /// The request's method.
        method: String,
        /// The request's path.
        path: String,
    },
    /// No stream of this id is kept: there never was one, it ended a while ago, or all that knew of it is lost.
    #[error("no stream with the request id `{id}` can be gone on with; ask anew")]
    UnknownRequest {
        /// As the client wrote it, cut short.
        id: String,
    },
    /// The stream began with another version of the model, or with other pictures behind its URLs.
    #[error("the stream cannot go on: {reason}; ask anew")]
    Changed {
        /// What has changed.
        reason: &'static str,
    },
    /// The client goes on with the stream over another connection.
    #[error("the rest of this stream is told over a newer connection")]
    TakenOver,
    /// The body is above the bound.
    #[error("the request body is larger than the limit of {max} bytes")]
    BodyTooLarge {
        /// The limit.
        max: usize,
    },
    /// The body did not come in time.
    #[error("the request body did not arrive within {seconds} s")]
    BodyTimeout {
        /// The limit.
        seconds: u64,
    },
    /// The body broke off.
    #[error("the request body broke off: {reason}")]
    BodyBroken {
        /// How.
        reason: String,
    },
    /// As many requests here as are allowed.
    #[error("{max} requests are in flight already; retry later")]
    TooManyRequests {
        /// How many.
        max: usize,
        /// When one of them may be over.
        retry: Duration,
    },
    /// As much waits for a replica as is allowed.
    #[error("too much waits for a replica already: {found} {unit} with this request, at most {max}; retry later")]
    QueueFull {
        /// What is counted.
        unit: &'static str,
        /// How many with this request.
        found: u64,
        /// The bound.
        max: u64,
        /// When there may be room.
        retry: Duration,
    },
    /// The pictures of all requests here hold as much memory as is allowed.
    #[error("pictures would hold {found} bytes with those of this request, at most {max}; retry later")]
    PictureMemory {
        /// With this request.
        found: u64,
        /// The bound.
        max: u64,
        /// When one of them may be over.
        retry: Duration,
    },
    /// It would wait and be computed so long that its time would be over.
    #[error("the request would take about {} ms and has {} ms left; retry later", needed.as_millis(), left.as_millis())]
    DeadlineUnmeetable {
        /// How long it would take.
        needed: Duration,
        /// How long it may take.
        left: Duration,
        /// When there may be time enough.
        retry: Duration,
    },
    /// Its time was over while it waited for a replica. Nothing was computed for it.
    #[error("no replica had room for the request within {} ms; retry later", timeout.as_millis())]
    QueueTimeout {
        /// The limit.
        timeout: Duration,
        /// When another try makes sense.
        retry: Duration,
    },
    /// The deployment has no replica that serves, or none with room for such a context.
    #[error("no replica of `{model}` is ready; retry later")]
    NoReplica {
        /// The name asked for.
        model: String,
    },
    /// The deployment's files are still being read.
    #[error("the tokenizer of `{model}` is still loading; retry later")]
    ModelLoading {
        /// The name asked for.
        model: String,
    },
    /// The deployment's files cannot be used.
    #[error("the files of `{model}` cannot be used: {reason}")]
    ModelBroken {
        /// The name asked for.
        model: String,
        /// Which one and why.
        reason: String,
    },
    /// Rank 0 takes no more for now.
    #[error("the replica is full; retry later")]
    ReplicaFull {
        /// When it expects to have room, where it can say.
        retry: Option<Duration>,
    },
    /// Rank 0 could not be reached, or was lost before or in the middle of the answer.
    #[error("the replica was lost: {reason}")]
    ReplicaLost {
        /// How.
        reason: String,
    },
    /// Rank 0 says that the request cannot go on.
    #[error("the replica could not answer: {reason}")]
    ReplicaFailed {
        /// Why.
        reason: String,
    },
    /// The request's time is over.
    #[error("the request did not finish within {} ms", timeout.as_millis())]
    Deadline {
        /// The limit.
        timeout: Duration,
    },
    /// This gateway ends.
    #[error("the server is shutting down; retry elsewhere")]
    ShuttingDown,
    /// Our own fault.
    #[error("internal error in {what}")]
    Internal {
        /// Where.
        what: &'static str,
    },
}

/// Who a failure is put down to, in OpenAI's words.
const INVALID: &str = "invalid_request_error";
const LIMITED: &str = "rate_limit_error";
const SERVER: &str = "server_error";

/// What a client is told apart from the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    /// HTTP status.
    pub(super) status: StatusCode,
    /// `type` of the error object.
    pub(super) kind: &'static str,
    /// `code` of the error object; stable.
    pub(super) code: &'static str,
    /// After how long another try makes sense.
    pub(super) retry_after: Option<Duration>,
}

impl ApiError {
    /// Status, type, code and retry of every failure.
    #[must_use]
    pub(super) fn told(&self) -> Told {
        use StatusCode as S;
        let (status, kind, code, retry_after) = match self {
            Self::MalformedJson { .. } => (S::BAD_REQUEST, INVALID, "invalid_json", None),
            Self::NotAnObject { .. } | Self::WrongType { .. } => (S::BAD_REQUEST, INVALID, "invalid_type", None),
            Self::InvalidValue { .. } => (S::BAD_REQUEST, INVALID, "invalid_value", None),
            Self::Missing { .. } => (S::BAD_REQUEST, INVALID, "missing_required_parameter", None),
            Self::Unsupported { .. } => (S::BAD_REQUEST, INVALID, "unsupported_parameter", None),
            Self::Picture { fault, .. } => (S::BAD_REQUEST, INVALID, fault.code(), None),
            Self::Placeholders { .. } => (S::BAD_REQUEST, INVALID, "image_placeholder_mismatch", None),
            Self::UnknownModel { .. } => (S::NOT_FOUND, INVALID, "model_not_found", None),
            Self::ContextLength { .. } => (S::BAD_REQUEST, INVALID, "context_length_exceeded", None),
            Self::Template { .. } => (S::BAD_REQUEST, INVALID, "chat_template_error", None),
            Self::Refused { .. } => (S::BAD_REQUEST, INVALID, "invalid_request", None),
            Self::UnknownRoute { .. } => (S::NOT_FOUND, INVALID, "unknown_url", None),
            Self::MethodNotAllowed { .. } => (S::METHOD_NOT_ALLOWED, INVALID, "method_not_allowed", None),
            Self::UnknownRequest { .. } => (S::NOT_FOUND, INVALID, "request_not_found", None),
            Self::Changed { .. } => (S::CONFLICT, INVALID, "request_changed", None),
            Self::TakenOver => (S::CONFLICT, INVALID, "stream_taken_over", None),
            Self::BodyTooLarge { .. } => (S::PAYLOAD_TOO_LARGE, INVALID, "request_too_large", None),
            Self::BodyTimeout { .. } => (S::REQUEST_TIMEOUT, INVALID, "request_body_timeout", None),
            Self::BodyBroken { .. } => (S::BAD_REQUEST, INVALID, "request_body_broken", None),
            Self::TooManyRequests { retry, .. } => (S::TOO_MANY_REQUESTS, LIMITED, "too_many_requests", Some(*retry)),
            Self::QueueFull { retry, .. } => (S::TOO_MANY_REQUESTS, LIMITED, "queue_full", Some(*retry)),
            Self::PictureMemory { retry, .. } => (S::TOO_MANY_REQUESTS, LIMITED, "picture_memory_full", Some(*retry)),
            Self::DeadlineUnmeetable { retry, .. } => {
                (S::SERVICE_UNAVAILABLE, SERVER, "deadline_unmeetable", Some(*retry))
            }
            Self::QueueTimeout { retry, .. } => (S::SERVICE_UNAVAILABLE, SERVER, "queue_timeout", Some(*retry)),
            Self::NoReplica { .. } => (S::SERVICE_UNAVAILABLE, SERVER, "no_replica_ready", seconds(2)),
            Self::ModelLoading { .. } => (S::SERVICE_UNAVAILABLE, SERVER, "model_loading", seconds(1)),
            Self::ModelBroken { .. } => (S::SERVICE_UNAVAILABLE, SERVER, "model_unavailable", seconds(30)),
            Self::ReplicaFull { retry } => (S::SERVICE_UNAVAILABLE, SERVER, "replica_overloaded", retry.or(seconds(1))),
            Self::ReplicaLost { .. } => (S::BAD_GATEWAY, SERVER, "replica_lost", seconds(2)),
            Self::ReplicaFailed { .. } => (S::BAD_GATEWAY, SERVER, "replica_failed", None),
            Self::Deadline { .. } => (S::GATEWAY_TIMEOUT, SERVER, "deadline_exceeded", None),
            Self::ShuttingDown => (S::SERVICE_UNAVAILABLE, SERVER, "shutting_down", seconds(1)),
            Self::Internal { .. } => (S::INTERNAL_SERVER_ERROR, SERVER, "internal_error", None),
        };
        Told { status, kind, code, retry_after }
    }

    /// The parameter that it is about.
    #[must_use]
    pub(super) fn param(&self) -> Option<&str> {
        match self {
            Self::WrongType { param, .. }
            | Self::InvalidValue { param, .. }
            | Self::Missing { param }
            | Self::Unsupported { param, .. }
            | Self::Picture { param, .. } => Some(param),
            Self::UnknownModel { .. } => Some("model"),
            Self::ContextLength { max_tokens: Some(_), .. } => Some("max_tokens"),
            Self::ContextLength { .. } => Some("prompt"),
            Self::Placeholders { param, .. } => Some(param),
            Self::Template { .. } => Some("messages"),
            _ => None,
        }
    }

    /// OpenAI's error object.
    #[must_use]
    pub(super) fn object(&self) -> String {
        let told = self.told();
        let error = Detail { message: self.to_string(), kind: told.kind, param: self.param(), code: told.code };
        serde_json::to_string(&Object { error }).expect("strings always become JSON")
    }
}

#[derive(Serialize)]
struct Object<'a> {
    error: Detail<'a>,
}

#[derive(Serialize)]
struct Detail<'a> {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: &'static str,
}

/// The `code` of a failure, on its response, for whoever counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FailureCode(pub(super) &'static str);

/// As the header, but in milliseconds: OpenAI's clients look for it first.
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let told = self.told();
        let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let mut response = (told.status, json, self.object()).into_response();
        response.extensions_mut().insert(FailureCode(told.code));
        if let Some(retry) = told.retry_after {
            let ms = u64::try_from(retry.as_millis()).unwrap_or(u64::MAX).max(1);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
            response.headers_mut().insert(RETRY_AFTER_MS, HeaderValue::from(ms));
        }
        response
    }
}

fn seconds(n: u64) -> Option<Duration> {
    Some(Duration::from_secs(n))
}

/// Foreign text for a message: at most 80 characters.
pub(super) fn quote(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
