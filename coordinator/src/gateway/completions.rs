//! `POST /v1/completions`.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use protocol::RequestId;
use serde_json::Value;

use super::completions_reply::CompletionReply;
use super::errors::ApiError;
use super::fields::{RawRequest, wrong};
use super::generation::Generation;
use super::rules::token_ids;
use super::state::{App, Target};
use super::validate::{Endpoint, Options, ValidRequest, encode};
use super::{reply, sse};

/// The handler.
pub(super) async fn handle(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    let admitted = Instant::now();
    let (permit, body) = app.take_in(request.into_body()).await?;
    let (permit, valid) = app.off_runtime(permit, move |app| prepare(app, &body)).await?;
    let stream = valid.style.stream;
    let generation = Generation::start(app, id, valid, permit, admitted).await?;
    let reply = CompletionReply::new(id, generation.request().clone());
    if stream { Ok(sse::respond(generation, reply)) } else { reply::whole(generation, reply).await }
}

/// Parses, checks and encodes. Blocking.
fn prepare(app: &App, body: &[u8]) -> Result<ValidRequest, ApiError> {
    let mut raw = RawRequest::parse(body)?;
    let target = app.target(&raw)?;
    let options = Options::read(&raw, Endpoint::Completions, &target.bundle)?;
    let add_special = raw.boolean("add_special_tokens")?.unwrap_or(true);
    let prompt = raw.take("prompt").ok_or_else(|| ApiError::Missing { param: "prompt".to_owned() })?;
    let prompt_ids = ids_of(&prompt, add_special, &target)?;
    options.with_prompt(prompt_ids, target)
}

/// A text, a list of ids, or a list of one of these.
fn ids_of(prompt: &Value, add_special: bool, target: &Target) -> Result<Vec<u32>, ApiError> {
    match prompt {
        Value::String(text) => encode(text, add_special, target),
        Value::Array(list) if list.len() > 1 && list.iter().any(|v| v.is_string() || v.is_array()) => {
            Err(ApiError::Unsupported { param: "prompt".to_owned(), reason: "one prompt a request" })
        }
        Value::Array(list) => match list.as_slice() {
            [Value::String(text)] => encode(text, add_special, target),
            [Value::Array(ids)] => token_ids("prompt[0]", ids, target.bundle.vocab_size),
            ids => token_ids("prompt", ids, target.bundle.vocab_size),
        },
        other => Err(wrong("prompt", "a string or an array of token ids", other)),
    }
}
