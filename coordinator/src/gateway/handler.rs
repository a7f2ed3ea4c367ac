//! What the two generating routes do alike: take in, prepare, generate, tell.
//!
//! Not here: going on with a stream (`pick_up`).

use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::{Extension, Request, State};
use axum::response::Response;
use protocol::RequestId;
use protocol::journal::AnswerFormat;

use super::answers::Answers;
use super::draft::Draft;
use super::errors::ApiError;
use super::fields::RawRequest;
use super::keeping::{Keeping, version_now};
use super::reply::{self, Reply};
use super::request_id::Named;
use super::sse::{self, Naming};
use super::state::{App, unix_now};
use super::terms::Terms;
use super::validate::ValidRequest;
use crate::runtime;

/// What one of the two routes has of its own.
pub(super) trait Route: 'static {
    /// What it is called in the journal.
    const FORMAT: AnswerFormat;
    /// How it tells answers.
    type Reply: Reply;

    /// Checks and encodes all but pictures. Blocking.
    ///
    /// # Errors
    /// [`ApiError`] about the request.
    fn prepare(app: &App, raw: RawRequest, terms: Terms) -> Result<Draft, ApiError>;

    /// Tells the answers to a request, which began at `created`, s since 1970.
    fn reply(id: RequestId, request: Arc<ValidRequest>, created: u64) -> Self::Reply;
}

/// The handler of a route.
pub(super) async fn handle<R: Route>(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    Extension(Named(named)): Extension<Named>,
    request: Request,
) -> Result<Response, ApiError> {
    let arrived = runtime::now();
    let (head, body) = request.into_parts();
    let (permit, body) = app.take_in(body).await?;
    let kept_body = if named { body.clone() } else { Bytes::new() };
    let prepare = move |app: &App| {
        let raw = RawRequest::parse(&body)?;
        let terms = Terms::read(&head.headers, &raw, app.limits.request_timeout_ms)?;
        let draft = R::prepare(app, raw, terms)?;
        let prompts = (named && draft.streams()).then(|| draft.prompts.iter().map(|p| p.ids.clone()).collect());
        Ok((prompts, Prepared::of(draft)?))
    };
    let (permit, (prompts, prepared)) = app.off_runtime(permit, prepare).await?;
    let (permit, valid) = prepared.whole(&app, permit, arrived).await?;
    let request = Arc::new(valid);
    let deadline = arrived + request.terms.timeout;
    let waiting = app.admit(&request, deadline)?;
    let created = unix_now();
    let naming = match prompts {
        None => Naming::Nameless,
        Some(prompts) => {
            let keeping = Keeping { id, version: version_now(), format: R::FORMAT, body: kept_body, prompts, created };
            app.keep(keeping.entry(&request), deadline)
        }
    };
    let answers = Answers::start(&app, id, request.clone(), (permit, waiting), None, deadline).await?;
    let reply = R::reply(id, request.clone(), created);
    if request.style.stream { Ok(sse::respond(answers, reply, naming)) } else { reply::whole(answers, reply).await }
}

/// How far a request is once its text has been read.
pub(super) enum Prepared {
    /// It can be generated.
    Whole(ValidRequest),
    /// Its pictures are still to be looked at.
    Draft(Draft),
}

impl Prepared {
    /// # Errors
    /// Those of [`Draft::without_pictures`].
    pub(super) fn of(draft: Draft) -> Result<Self, ApiError> {
        if draft.sources.is_empty() { draft.without_pictures().map(Self::Whole) } else { Ok(Self::Draft(draft)) }
    }

    /// The request with its pictures.
    ///
    /// # Errors
    /// Those of [`App::show`].
    pub(super) async fn whole(
        self,
        app: &Arc<App>,
        permit: super::admission::Permit,
        arrived: Instant,
    ) -> Result<(super::admission::Permit, ValidRequest), ApiError> {
        match self {
            Self::Whole(valid) => Ok((permit, valid)),
            Self::Draft(draft) => {
                let deadline = arrived + draft.timeout();
                app.show(permit, draft, deadline).await
            }
        }
    }
}
