//! The JSON of `/v1/chat/completions`.

use std::sync::Arc;

use protocol::generate::TokenLogprobs;
use serde::Serialize;

use super::logprobs::{ChatLogprobs, Names, PromptLogprobs, prompt_logprobs};
use super::output::{Delta, Finish, OutToken};
use super::reply::{Answer, Reply, StopReason, Usage, Whole, finish_reason, index, json, token_ids};
use super::state::unix_now;
use super::validate::ValidRequest;

/// Tells the answers to one conversation.
pub(super) struct ChatReply {
    id: String,
    created: u64,
    fingerprint: String,
    request: Arc<ValidRequest>,
}

impl ChatReply {
    pub(super) fn new(id: protocol::RequestId, request: Arc<ValidRequest>) -> Self {
        let fingerprint = request.target.fingerprint();
        Self { id: format!("chatcmpl-{id}"), created: unix_now(), fingerprint, request }
    }

    fn names(&self) -> Names<'_> {
        Names { pieces: self.request.target.bundle.tokenizer.pieces(), as_ids: self.request.style.tokens_as_ids }
    }

    fn logprobs(&self, tokens: &[OutToken]) -> Option<ChatLogprobs> {
        let top = self.request.sampling.logprobs?;
        Some(ChatLogprobs::of(tokens, top, self.names()))
    }

    fn object<'a, C>(&'a self, object: &'static str, choices: Vec<C>) -> Object<'a, C> {
        Object {
            id: &self.id,
            object,
            created: self.created,
            model: &self.request.target.model,
            system_fingerprint: &self.fingerprint,
            choices,
            prompt_token_ids: None,
            prompt_logprobs: None,
            usage: None,
        }
    }

    /// Every chunk of a stream that counts tokens has the field; only the last one a value.
    fn chunk_of(&self, choices: Vec<ChunkChoice>, usage: Option<Usage>, prompt: bool) -> String {
        let mut object = self.object("chat.completion.chunk", choices);
        object.usage = self.request.style.include_usage.then_some(usage);
        object.prompt_token_ids = prompt.then_some(&self.request.prompts[0].ids);
        json(&object)
    }

    fn choice(&self, choice: usize, answer: Answer) -> Choice {
        Choice {
            index: index(choice),
            message: Message { role: "assistant", content: answer.text, refusal: None },
            logprobs: self.logprobs(&answer.tokens),
            finish_reason: finish_reason(&answer.finish),
            stop_reason: StopReason::of(&answer.finish),
            token_ids: token_ids(&answer.tokens, self.request.style),
        }
    }
}

impl Reply for ChatReply {
    fn opening(&mut self, choice: usize, _: &[TokenLogprobs]) -> Option<String> {
        let delta = Piece { role: Some("assistant"), content: Some(String::new()) };
        let opened = ChunkChoice { index: index(choice), delta, ..ChunkChoice::default() };
        Some(self.chunk_of(vec![opened], None, self.request.style.return_token_ids && self.request.is_first(choice)))
    }

    fn chunk(&mut self, choice: usize, delta: &Delta) -> String {
        let choice = ChunkChoice {
            index: index(choice),
            delta: Piece { role: None, content: Some(delta.text.clone()) },
            logprobs: self.logprobs(&delta.tokens),
            token_ids: token_ids(&delta.tokens, self.request.style),
            ..ChunkChoice::default()
        };
        self.chunk_of(vec![choice], None, false)
    }

    fn ending(&mut self, choice: usize, finish: &Finish) -> String {
        let choice = ChunkChoice {
            index: index(choice),
            finish_reason: Some(finish_reason(finish)),
            stop_reason: StopReason::of(finish),
            token_ids: token_ids(&[], self.request.style),
            ..ChunkChoice::default()
        };
        self.chunk_of(vec![choice], None, false)
    }

    fn usage(&mut self, usage: Usage) -> String {
        self.chunk_of(Vec::new(), Some(usage), false)
    }

    fn whole(self, whole: Whole, usage: Usage) -> String {
        let choices = whole.answers.into_iter().enumerate().map(|(i, answer)| self.choice(i, answer)).collect();
        let (prompt, style) = (&self.request.prompts[0], self.request.style);
        let mut object = self.object("chat.completion", choices);
        object.usage = Some(Some(usage));
        object.prompt_token_ids = style.return_token_ids.then_some(&prompt.ids);
        object.prompt_logprobs =
            style.prompt_logprobs.map(|top| prompt_logprobs(&prompt.ids, &whole.prompts[0], top, self.names()));
        json(&object)
    }
}

#[derive(Serialize)]
struct Object<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: Vec<C>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<&'a [u32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<PromptLogprobs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

#[derive(Serialize)]
struct Choice {
    index: u32,
    message: Message,
    logprobs: Option<ChatLogprobs>,
    finish_reason: &'static str,
    stop_reason: Option<StopReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: String,
    refusal: Option<()>,
}

#[derive(Default, Serialize)]
struct ChunkChoice {
    index: u32,
    delta: Piece,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<StopReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

#[derive(Default, Serialize)]
struct Piece {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}
