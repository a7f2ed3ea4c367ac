//! `GET /v1/requests/{id}/stream?after=N`: the rest of a stream whose connection, or gateway, was lost.
//!
//! ```text
//!  id ─▶ claim (ends it where it is still told) ─▶ read its body anew ─▶ same version, prompts, pictures, seed? ─▶ admission
//!     ─▶ answers from what the client has ─▶ events after N
//! ```
//! Invariant: the events that follow are those that would have followed: text, ids, logprobs and ends depend on the request and
//! its seed alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use protocol::journal::{AnswerFormat, JournalEntry};

use super::admission::Permit;
use super::answers::{Answers, KnownAnswers};
use super::chat::Chat;
use super::completions::Completions;
use super::draft::Draft;
use super::errors::{ApiError, quote};
use super::fields::RawRequest;
use super::handler::{Prepared, Route};
use super::keeping::{PRINCIPAL, pictures, version_now};
use super::position::{AFTER, Known, Phase, Position, Told};
use super::request_id::id_of;
use super::sse;
use super::state::App;
use super::terms::Terms;
use super::validate::ValidRequest;
use crate::journal::Claimed;

/// Header in which browsers' event sources say what they have.
const LAST_EVENT_ID: &str = "last-event-id";
/// Longest `N` that is looked at, bytes: 128 choices of a million tokens.
const AFTER_BYTES_MAX: usize = 2048;

/// The handler.
pub(super) async fn stream(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let asked = Instant::now();
    let after = after(query.as_deref(), &headers)?;
    let permit = app.place()?;
    let id = id_of(name.as_bytes());
    let claimed = app.journal.claim(id, PRINCIPAL).await;
    let claimed = claimed.ok_or_else(|| ApiError::UnknownRequest { id: quote(&name) })?;
    let claim_ms = asked.elapsed().as_millis();
    tracing::info!(request_id = %id, after = after.as_deref(), claim_ms, "a client goes on with its stream");
    let told = match claimed.entry.format {
        AnswerFormat::Chat => go_on::<Chat>(&app, permit, claimed, after).await,
        AnswerFormat::Completions => go_on::<Completions>(&app, permit, claimed, after).await,
    };
    if let Err(error) = &told {
        tracing::warn!(request_id = %id, %error, "a stream does not go on");
    }
    told
}

/// What the client says that it has; a browser that connects again says it in the header, under the first one's URL.
fn after(query: Option<&str>, headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let header = headers.get(LAST_EVENT_ID).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let mut pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let after = header.or_else(|| pairs.find(|(key, _)| *key == AFTER).map(|(_, value)| value.to_owned()));
    match after {
        Some(text) if text.len() > AFTER_BYTES_MAX => {
            let (param, found) = (AFTER.to_owned(), format!("{} bytes", text.len()));
            Err(ApiError::InvalidValue { param, found, expected: format!("at most {AFTER_BYTES_MAX} bytes") })
        }
        after => Ok(after.filter(|text| !text.is_empty())),
    }
}

async fn go_on<R: Route>(
    app: &Arc<App>,
    permit: Permit,
    claimed: Claimed,
    after: Option<String>,
) -> Result<Response, ApiError> {
    let Claimed { entry, deadline } = claimed;
    let (permit, entry, request) = read::<R>(app, permit, entry, deadline).await?;
    let request = Arc::new(request);
    let choices = request.choices_in_all();
    let seen = match after {
        None => Told::nothing(choices),
        Some(after) => {
            let max: Vec<u32> = (0..choices).map(|choice| request.prompt_of(choice).max_tokens).collect();
            Told::parse(&after, &max)?
        }
    };
    if seen == Told::Done {
        // Tells an event source not to connect again.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let (id, created) = (entry.id, entry.created);
    let known = known(&entry, &seen, usize::from(request.choices));
    let waiting = app.admit(&request, deadline)?;
    let version = version_now().max(entry.version + 1);
    let naming = app.keep(JournalEntry { version, ..entry }, deadline);
    let answers = Answers::start(app, id, request.clone(), (permit, waiting), Some(&known), deadline).await?;
    let told = sse::respond_after(answers, R::reply(id, request, created), naming, seen).await?;
    app.counters.picked_up();
    Ok(told)
}

/// What is known of each choice that the client has not been told whole.
fn known(entry: &JournalEntry, seen: &Told, choices_each: usize) -> KnownAnswers {
    let told_whole = |taken: &Vec<u32>| Position { tokens: taken.len(), phase: Phase::Ended };
    let positions: Vec<Position> = match seen {
        Told::Choices(positions) => positions.clone(),
        Told::Usage | Told::Done => entry.taken.iter().map(told_whole).collect(),
    };
    let opened = |prompt: usize| positions[prompt * choices_each].phase != Phase::Unopened;
    let cached = entry.cached.iter().enumerate().map(|(prompt, cached)| cached.filter(|_| opened(prompt))).collect();
    let choices = positions.iter().zip(&entry.taken).map(|(seen, ids)| Known::of(*seen, ids.clone())).collect();
    KnownAnswers { choices, cached }
}

/// The request that was kept, as it was.
async fn read<R: Route>(
    app: &Arc<App>,
    permit: Permit,
    mut entry: JournalEntry,
    deadline: Instant,
) -> Result<(Permit, JournalEntry, ValidRequest), ApiError> {
    let timeout = Duration::from_millis(u64::from(entry.timeout_ms));
    let prepare = move |app: &App| {
        let raw = RawRequest::parse(&entry.body)?;
        let terms = Terms::again(&raw, entry.priority, timeout)?;
        let mut draft = R::prepare(app, raw, terms)?;
        same_prompts(&mut draft, &mut entry)?;
        Ok((entry, Prepared::of(draft)?))
    };
    let (permit, (entry, prepared)) = app.off_runtime(permit, prepare).await?;
    let arrived = deadline.checked_sub(timeout).unwrap_or_else(Instant::now);
    let (permit, mut request) = prepared.whole(app, permit, arrived).await?;
    if pictures(&request) != entry.pictures {
        return Err(ApiError::Changed { reason: "a picture is not what it was" });
    }
    if request.choices_in_all() != entry.taken.len() {
        return Err(ApiError::Internal { what: "journal" });
    }
    request.sampling.seed = entry.seed;
    Ok((permit, entry, request))
}

/// Has the prompts be what they were: a template may tell the day.
fn same_prompts(draft: &mut Draft, entry: &mut JournalEntry) -> Result<(), ApiError> {
    let spec = &draft.target.deployment.spec;
    if spec.model.digest != entry.digest || spec.dtype != entry.dtype {
        return Err(ApiError::Changed { reason: "another version of the model is served now" });
    }
    if draft.prompts.len() != entry.prompts.len() {
        return Err(ApiError::Internal { what: "journal" });
    }
    for (prompt, ids) in draft.prompts.iter_mut().zip(&entry.prompts) {
        prompt.ids.clone_from(ids);
    }
    Ok(())
}
