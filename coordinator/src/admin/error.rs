//! How an admin call fails: status, stable code and one line, decided here only.
//!
//! Invariant: only `outcome_unknown` leaves open whether something was written. A change that may have been applied is never
//! told as one that was not.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::admin::{ErrorBody, Reach};

use crate::raft::{ChangeError, ProposeError, ReadError, Written};
use crate::state::Refused;

/// When to try again where there is no leader or majority, s: an election takes about as long.
const RETRY_AFTER_S: u64 = 1;

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
    /// No such thing in the state.
    #[error("there is no {what} `{name}`")]
    Unknown {
        /// What was asked for.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The method is not one of the route's.
    #[error("the method is not allowed here")]
    MethodNotAllowed,
    /// The body is too large.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// The state cannot be confirmed.
    #[error("{source}; {}", told(.reach))]
    Read {
        /// Why.
        source: ReadError,
        /// What is seen of the others.
        reach: Box<Reach>,
    },
    /// Nothing was written: the state refuses it.
    #[error("{0}")]
    Refused(Box<Refused>),
    /// Nothing was written: nobody could agree to it.
    #[error("nothing was written: {source}; {}", told(.reach))]
    NotWritten {
        /// Why.
        source: Box<ProposeError>,
        /// What is seen of the others.
        reach: Box<Reach>,
    },
    /// Proposed, and nobody knows.
    #[error(
        "no majority confirmed the change within {waited_ms} ms: it may have been made, and it may still be. Read what is \
         there before trying again, or try again with the generation or revision that it was planned against"
    )]
    OutcomeUnknown {
        /// How long was waited, ms.
        waited_ms: u64,
    },
    /// Written, and answered with what belongs to another command: a leader of another version.
    #[error("the change was made, but the leader answered it with {0:?}: is it of another version?")]
    Mixed(Written),
    /// The members are not as asked for.
    #[error(transparent)]
    Members(Box<ChangeError>),
    /// It took too long, before anything was proposed.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// Signing failed.
    #[error("cannot sign the certificate: {0}")]
    Signing(String),
}

/// What is seen of the other coordinators, in words.
fn told(reach: &Reach) -> String {
    let list = |ids: &[protocol::CoordinatorId]| match ids {
        [] => "none".to_owned(),
        ids => ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    let Reach { coordinator, reached, unreached, led_last } = reach;
    let led_last = led_last.map_or_else(|| "nobody that it knew".to_owned(), |id| format!("coordinator {id}"));
    let (reached, unreached) = (list(reached), list(unreached));
    format!("coordinator {coordinator} reaches {reached}, not {unreached}; {led_last} led last")
}

impl CallFailed {
    /// Why the members are not as asked for: what every write can end with is told as it is of a write.
    pub(super) fn of_change(error: ChangeError, reach: Reach) -> Self {
        match error {
            ChangeError::NotAgreed(source) => Self::of_write(source, reach),
            other => Self::Members(Box::new(other)),
        }
    }

    /// Why a write came to nothing, or may not have.
    pub(super) fn of_write(source: ProposeError, reach: Reach) -> Self {
        match source {
            ProposeError::Refused(refused) => Self::Refused(Box::new(refused)),
            ProposeError::Unknown { waited_ms } => Self::OutcomeUnknown { waited_ms },
            ProposeError::NotLeader { .. }
            | ProposeError::NoLeader { .. }
            | ProposeError::NoQuorum { .. }
            | ProposeError::Stopped { .. } => Self::NotWritten { source: Box::new(source), reach: Box::new(reach) },
        }
    }

    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Unauthorized | Self::WrongToken => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::NoJoins | Self::NameInUse { .. } => (StatusCode::CONFLICT, "precondition_failed"),
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::NotFound(_) | Self::Unknown { .. } => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "bad_request"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "bad_request"),
            Self::Members(error) => of_members(error),
            Self::Refused(refused) => match refused.as_ref() {
                Refused::Spec { .. } => (StatusCode::BAD_REQUEST, "bad_request"),
                Refused::UnknownNode { .. } | Refused::UnknownDeployment { .. } => (StatusCode::NOT_FOUND, "not_found"),
                _ => (StatusCode::CONFLICT, "precondition_failed"),
            },
            Self::Read { source: ReadError::NotLeader { .. }, .. } => (StatusCode::SERVICE_UNAVAILABLE, "no_leader"),
            Self::NotWritten { source, .. } => match source.as_ref() {
                ProposeError::NoLeader { .. } | ProposeError::NotLeader { .. } => {
                    (StatusCode::SERVICE_UNAVAILABLE, "no_leader")
                }
                _ => (StatusCode::SERVICE_UNAVAILABLE, "no_quorum"),
            },
            Self::Read { .. } | Self::Timeout(_) => (StatusCode::SERVICE_UNAVAILABLE, "no_quorum"),
            Self::OutcomeUnknown { .. } | Self::Mixed(_) => (StatusCode::GATEWAY_TIMEOUT, "outcome_unknown"),
            Self::Signing(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }

    fn found(&self) -> Option<u64> {
        let Self::Refused(refused) = self else { return None };
        match refused.as_ref() {
            Refused::Revision { found, .. } => Some(found.0),
            Refused::Generation { found, .. } => found.map(|g| g.0),
            _ => None,
        }
    }

    fn reach(&self) -> Option<Reach> {
        match self {
            Self::Read { reach, .. } | Self::NotWritten { reach, .. } => Some(reach.as_ref().clone()),
            _ => None,
        }
    }
}

fn of_members(error: &ChangeError) -> (StatusCode, &'static str) {
    match error {
        ChangeError::Busy => (StatusCode::CONFLICT, "change_in_progress"),
        ChangeError::NotCaughtUp { .. } => (StatusCode::CONFLICT, "not_caught_up"),
        ChangeError::NoMember { .. } => (StatusCode::NOT_FOUND, "not_found"),
        ChangeError::IdUsed { .. }
        | ChangeError::IsMember { .. }
        | ChangeError::AddrInUse { .. }
        | ChangeError::TooMany
        | ChangeError::Last { .. }
        | ChangeError::NoMajorityLeft { .. } => (StatusCode::CONFLICT, "precondition_failed"),
        ChangeError::NotAgreed(_) | ChangeError::Interrupted => (StatusCode::GATEWAY_TIMEOUT, "outcome_unknown"),
    }
}

impl IntoResponse for CallFailed {
    fn into_response(self) -> Response {
        let (status, code) = self.status_and_code();
        let message = self.to_string();
        let body = ErrorBody { code: code.to_owned(), message, found: self.found(), reach: self.reach() };
        let mut response = (status, Json(body)).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use protocol::{CoordinatorId, NodeId, Revision};

    use super::*;

    #[test]
    fn only_what_may_have_been_written_is_called_unknown() {
        let reach = || Reach {
            coordinator: CoordinatorId(1),
            reached: vec![CoordinatorId(2)],
            unreached: vec![CoordinatorId(3)],
            led_last: Some(CoordinatorId(3)),
        };
        let node = NodeId::new("node-1").expect("a label");
        let refused = Refused::Revision { node: node.clone(), expected: Revision(1), found: Revision(2) };
        let no_quorum = ProposeError::NoQuorum { leader: CoordinatorId(3), waited_ms: 5 };
        let table = [
            (ProposeError::Refused(refused), 409, "precondition_failed"),
            (ProposeError::Refused(Refused::UnknownNode { node }), 404, "not_found"),
            (ProposeError::NoLeader { waited_ms: 5 }, 503, "no_leader"),
            (no_quorum.clone(), 503, "no_quorum"),
            (ProposeError::Stopped { reason: "x".into() }, 503, "no_quorum"),
            (ProposeError::Unknown { waited_ms: 5 }, 504, "outcome_unknown"),
        ];
        for (source, status, code) in table {
            let is_unknown = matches!(source, ProposeError::Unknown { .. });
            let of_change = CallFailed::of_change(ChangeError::NotAgreed(source.clone()), reach());
            for failed in [CallFailed::of_write(source, reach()), of_change] {
                let (found, said) = failed.status_and_code();
                assert_eq!((found.as_u16(), said), (status, code), "{failed}");
                assert_eq!(code == "outcome_unknown", is_unknown);
                assert_eq!(failed.reach().is_some(), status == 503, "{failed}");
            }
        }
        let interrupted = CallFailed::of_change(ChangeError::Interrupted, reach());
        assert_eq!(interrupted.status_and_code(), (StatusCode::GATEWAY_TIMEOUT, "outcome_unknown"));
        let said = CallFailed::of_write(no_quorum, reach()).to_string();
        assert!(said.contains("coordinator 1 reaches 2, not 3; coordinator 3 led last"), "{said}");
    }
}
