//! `POST /v1/completions`.

use std::sync::Arc;

use protocol::RequestId;
use protocol::generate::CHOICES_MAX;
use protocol::journal::AnswerFormat;
use serde_json::Value;

use super::completions_reply::CompletionReply;
use super::draft::Draft;
use super::errors::ApiError;
use super::fields::{RawRequest, wrong};
use super::handler::Route;
use super::prompt::{Echo, encode};
use super::rules::token_ids;
use super::state::{App, Target};
use super::terms::Terms;
use super::validate::{Encoded, Endpoint, Options, ValidRequest};

/// The route.
pub(super) struct Completions;

impl Route for Completions {
    const FORMAT: AnswerFormat = AnswerFormat::Completions;
    type Reply = CompletionReply;

    fn prepare(app: &App, mut raw: RawRequest, terms: Terms) -> Result<Draft, ApiError> {
        let target = app.target(&raw)?;
        let options = Options::read(&raw, Endpoint::Completions, &target.bundle, terms)?;
        let add_special = raw.boolean("add_special_tokens")?.unwrap_or(true);
        let prompt = raw.take("prompt").ok_or_else(|| ApiError::Missing { param: "prompt".to_owned() })?;
        let reader = Reader { target: &target, add_special, echo: options.echo() };
        let prompts = reader.prompts(&prompt)?;
        Draft::new(options, target, prompts, Vec::new(), Endpoint::Completions)
    }

    fn reply(id: RequestId, request: Arc<ValidRequest>, created: u64) -> CompletionReply {
        CompletionReply::new(id, request, created)
    }
}

/// Reads the field `prompt`.
struct Reader<'a> {
    target: &'a Target,
    add_special: bool,
    echo: bool,
}

impl Reader<'_> {
    /// A text, a list of ids, or a list of such prompts.
    fn prompts(&self, prompt: &Value) -> Result<Vec<Encoded>, ApiError> {
        let list = match prompt {
            Value::String(text) => return Ok(vec![self.text(text)?]),
            Value::Array(list) => list,
            other => return Err(wrong("prompt", "a string or an array of token ids", other)),
        };
        if !list.iter().any(|v| v.is_string() || v.is_array()) {
            return Ok(vec![self.ids("prompt", list)?]);
        }
        if list.len() > CHOICES_MAX {
            let (param, found) = ("prompt".to_owned(), format!("{} prompts", list.len()));
            return Err(ApiError::InvalidValue { param, found, expected: format!("at most {CHOICES_MAX}") });
        }
        let one = |(i, value): (usize, &Value)| match value {
            Value::String(text) => self.text(text),
            Value::Array(ids) => self.ids(&format!("prompt[{i}]"), ids),
            other => Err(wrong(&format!("prompt[{i}]"), "a string or an array of token ids, as the others", other)),
        };
        list.iter().enumerate().map(one).collect()
    }

    fn text(&self, text: &str) -> Result<Encoded, ApiError> {
        let ids = encode(text, self.add_special, self.target)?;
        let echo = match (self.echo, self.add_special) {
            (false, _) => None,
            (true, false) => Some(Echo::of(&ids, &ids, self.target)),
            (true, true) => Some(Echo::of(&ids, &encode(text, false, self.target)?, self.target)),
        };
        Ok(Encoded::text(ids, echo))
    }

    fn ids(&self, param: &str, ids: &[Value]) -> Result<Encoded, ApiError> {
        let ids = token_ids(param, ids, self.target.bundle.vocab_size)?;
        let echo = self.echo.then(|| Echo::of(&ids, &ids, self.target));
        Ok(Encoded::text(ids, echo))
    }
}
