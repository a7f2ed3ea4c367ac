//! `POST /v1/chat/completions`.

use std::sync::Arc;

use protocol::RequestId;
use protocol::journal::AnswerFormat;
use serde_json::{Map, Value};

use super::chat_reply::ChatReply;
use super::conversation;
use super::draft::Draft;
use super::errors::ApiError;
use super::fields::{RawRequest, wrong};
use super::handler::Route;
use super::prompt::encode;
use super::state::App;
use super::template::Conversation;
use super::terms::Terms;
use super::tools::Tools;
use super::validate::{Encoded, Endpoint, Options, ValidRequest};

/// The route.
pub(super) struct Chat;

impl Route for Chat {
    const FORMAT: AnswerFormat = AnswerFormat::Chat;
    type Reply = ChatReply;

    /// Renders the one prompt by the model's own template.
    fn prepare(app: &App, mut raw: RawRequest, terms: Terms) -> Result<Draft, ApiError> {
        let target = app.target(&raw)?;
        let options = Options::read(&raw, Endpoint::Chat, &target.bundle, terms)?;
        let Some(template) = &target.bundle.template else {
            let reason = format!("`{}` has no chat template; use /v1/completions", target.model);
            return Err(ApiError::Template { reason });
        };
        let mut list = match raw.take("messages") {
            Some(Value::Array(list)) => list,
            Some(other) => return Err(wrong("messages", "an array", &other)),
            None => return Err(ApiError::Missing { param: "messages".to_owned() }),
        };
        let mut sources = Vec::new();
        let messages = conversation::Reader { template, sees: target.eyes().is_some(), pictures: &mut sources }
            .messages(&mut list)?;
        let tools = Tools::read(&mut raw, template)?;
        let kwargs = match raw.take("chat_template_kwargs") {
            None => Map::new(),
            Some(Value::Object(map)) => map,
            Some(other) => return Err(wrong("chat_template_kwargs", "an object", &other)),
        };
        let add_generation_prompt = raw.boolean("add_generation_prompt")?.unwrap_or(true);
        let text = template
            .render(Conversation { messages: &messages, tools: tools.shown(), add_generation_prompt, kwargs: &kwargs })
            .map_err(|e| ApiError::Template { reason: e.to_string() })?;
        let add_special = raw.boolean("add_special_tokens")?.unwrap_or(false);
        let ids = encode(&text, add_special, &target)?;
        let speech = tools.speech(&raw, &text)?;
        let draft = Draft::new(options, target, vec![Encoded::text(ids, None)], sources, Endpoint::Chat)?;
        Ok(Draft { speech, ..draft })
    }

    fn reply(id: RequestId, request: Arc<ValidRequest>, created: u64) -> ChatReply {
        ChatReply::new(id, request, created)
    }
}
