//! `POST /v1/chat/completions`.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use protocol::RequestId;
use serde_json::{Map, Value};

use super::chat_reply::ChatReply;
use super::errors::ApiError;
use super::fields::{RawRequest, wrong};
use super::generation::Generation;
use super::state::App;
use super::template::Conversation;
use super::validate::{Endpoint, Options, ValidRequest, encode};
use super::{conversation, reply, sse};

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
    let reply = ChatReply::new(id, generation.request().clone());
    if stream { Ok(sse::respond(generation, reply)) } else { reply::whole(generation, reply).await }
}

/// Parses, checks, renders and encodes. Blocking.
fn prepare(app: &App, body: &[u8]) -> Result<ValidRequest, ApiError> {
    let mut raw = RawRequest::parse(body)?;
    let target = app.target(&raw)?;
    let options = Options::read(&raw, Endpoint::Chat, &target.bundle)?;
    let Some(template) = &target.bundle.template else {
        let reason = format!("`{}` has no chat template; use /v1/completions", target.model);
        return Err(ApiError::Template { reason });
    };
    let list = match raw.take("messages") {
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong("messages", "an array", &other)),
        None => return Err(ApiError::Missing { param: "messages".to_owned() }),
    };
    let messages = conversation::messages(&list, template)?;
    let kwargs = match raw.take("chat_template_kwargs") {
        None => Map::new(),
        Some(Value::Object(map)) => map,
        Some(other) => return Err(wrong("chat_template_kwargs", "an object", &other)),
    };
    let add_generation_prompt = raw.boolean("add_generation_prompt")?.unwrap_or(true);
    let text = template
        .render(Conversation { messages: &messages, tools: None, add_generation_prompt, kwargs: &kwargs })
        .map_err(|e| ApiError::Template { reason: e.to_string() })?;
    let add_special = raw.boolean("add_special_tokens")?.unwrap_or(false);
    let prompt_ids = encode(&text, add_special, &target)?;
    options.with_prompt(prompt_ids, target)
}
