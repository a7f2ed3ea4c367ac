//! What the two generating routes do alike: take in, prepare, generate, tell.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use protocol::RequestId;

use super::answers::Answers;
use super::draft::Draft;
use super::errors::ApiError;
use super::fields::RawRequest;
use super::reply::{self, Reply};
use super::sse;
use super::state::App;
use super::terms::Terms;
use super::validate::ValidRequest;

/// What one of the two routes has of its own.
pub(super) trait Route: 'static {
    /// How it tells answers.
    type Reply: Reply;

    /// Checks and encodes all but pictures. Blocking.
    ///
    /// # Errors
    /// [`ApiError`] about the request.
    fn prepare(app: &App, raw: RawRequest, terms: Terms) -> Result<Draft, ApiError>;

    /// Tells the answers to a request.
    fn reply(id: RequestId, request: Arc<ValidRequest>) -> Self::Reply;
}

/// The handler of a route.
pub(super) async fn handle<R: Route>(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let (head, body) = request.into_parts();
    let (permit, body) = app.take_in(body).await?;
    let prepare = move |app: &App| {
        let raw = RawRequest::parse(&body)?;
        let terms = Terms::read(&head.headers, &raw, app.limits.request_timeout_ms)?;
        let draft = R::prepare(app, raw, terms)?;
        if draft.sources.is_empty() {
            draft.without_pictures().map(Prepared::Whole)
        } else {
            Ok(Prepared::Draft(draft))
        }
    };
    let (permit, valid) = match app.off_runtime(permit, prepare).await? {
        (permit, Prepared::Whole(valid)) => (permit, valid),
        (permit, Prepared::Draft(draft)) => {
            let deadline = arrived + draft.timeout();
            app.show(permit, draft, deadline).await?
        }
    };
    let request = Arc::new(valid);
    let deadline = arrived + request.terms.timeout;
    let waiting = app.admit(&request, deadline)?;
    let answers = Answers::start(&app, id, request.clone(), (permit, waiting), deadline).await?;
    let reply = R::reply(id, request.clone());
    if request.style.stream { Ok(sse::respond(answers, reply)) } else { reply::whole(answers, reply).await }
}

/// How far a request is once its text has been read.
enum Prepared {
    /// It can be generated.
    Whole(ValidRequest),
    /// Its pictures are still to be looked at.
    Draft(Draft),
}
