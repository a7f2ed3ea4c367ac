//! The JSON of `/v1/chat/completions`.

use std::sync::Arc;

use protocol::generate::TokenLogprobs;
use serde::Serialize;

use super::logprobs::{ChatLogprobs, Names, PromptLogprobs, prompt_logprobs};
use super::output::{Delta, Finish, OutToken};
use super::reply::{Answer, Reply, StopReason, Usage, Whole, finish_reason, index, json, token_ids};
use super::said::{Said, ToolCall};
use super::spoken::Speech;
use super::validate::ValidRequest;

/// Tells the answers to one conversation.
pub(super) struct ChatReply {
    id: String,
    created: u64,
    fingerprint: String,
    request: Arc<ValidRequest>,
    /// One a choice, where a request has its answers split.
    speeches: Vec<Speech>,
}

impl ChatReply {
    pub(super) fn new(id: protocol::RequestId, request: Arc<ValidRequest>, created: u64) -> Self {
        let fingerprint = request.target.fingerprint();
        let speeches = match &request.speech {
            Some(rules) => (0..request.choices_in_all()).map(|_| Speech::new(rules.clone())).collect(),
            None => Vec::new(),
        };
        Self { id: format!("chatcmpl-{id}"), created, fingerprint, request, speeches }
    }

    /// What the next part of a choice's text says; with `last`, nothing follows.
    fn said(&mut self, choice: usize, text: &str, last: bool) -> Said {
        let mut pieces = Vec::new();
        let Some(speech) = self.speeches.get_mut(choice) else {
            return Said::content(text);
        };
        speech.push(text, &mut pieces);
        if last {
            speech.finish(&mut pieces);
        }
        let id = &self.id;
        Said::of(pieces, |index| format!("call_{}_{choice}_{index}", id.trim_start_matches("chatcmpl-")))
    }

    /// OpenAI's word for the end; one that comes after tool calls is theirs.
    fn finish_reason(&self, choice: usize, finish: &Finish) -> &'static str {
        let calls = self.speeches.get(choice).map_or(0, Speech::calls);
        match finish_reason(finish) {
            "stop" if calls > 0 => "tool_calls",
            other => other,
        }
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

    fn choice(&mut self, choice: usize, answer: Answer) -> Choice {
        let mut said = self.said(choice, &answer.text, true);
        let tool_calls = said.whole_calls();
        let message = Message {
            role: "assistant",
            // Whoever only calls tools says nothing.
            content: Some(said.content).filter(|text| !text.is_empty() || tool_calls.is_none()),
            reasoning_content: Some(said.reasoning).filter(|text| !text.is_empty()),
            refusal: None,
            tool_calls,
        };
        Choice {
            index: index(choice),
            message,
            logprobs: self.logprobs(&answer.tokens),
            finish_reason: self.finish_reason(choice, &answer.finish),
            stop_reason: StopReason::of(&answer.finish),
            token_ids: token_ids(&answer.tokens, self.request.style),
        }
    }
}

impl Reply for ChatReply {
    fn opening(&mut self, choice: usize, _: &[TokenLogprobs]) -> Option<String> {
        let delta = Piece { role: Some("assistant"), content: Some(String::new()), ..Piece::default() };
        let opened = ChunkChoice { index: index(choice), delta, ..ChunkChoice::default() };
        Some(self.chunk_of(vec![opened], None, self.request.style.return_token_ids && self.request.is_first(choice)))
    }

    fn chunk(&mut self, choice: usize, delta: &Delta) -> Option<String> {
        let said = self.said(choice, &delta.text, false);
        let (logprobs, token_ids) = (self.logprobs(&delta.tokens), token_ids(&delta.tokens, self.request.style));
        if said.is_empty() && logprobs.is_none() && token_ids.is_none() {
            return None;
        }
        let delta = Piece::of(said, self.speeches.is_empty());
        let choice = ChunkChoice { index: index(choice), delta, logprobs, token_ids, ..ChunkChoice::default() };
        Some(self.chunk_of(vec![choice], None, false))
    }

    fn skip_opening(&mut self, _: usize) {}

    fn skip(&mut self, choice: usize, delta: &Delta) {
        self.said(choice, &delta.text, false);
    }

    fn ending(&mut self, choice: usize, finish: &Finish) -> String {
        let said = self.said(choice, "", true);
        let choice = ChunkChoice {
            index: index(choice),
            delta: Piece::of(said, false),
            finish_reason: Some(self.finish_reason(choice, finish)),
            stop_reason: StopReason::of(finish),
            token_ids: token_ids(&[], self.request.style),
            ..ChunkChoice::default()
        };
        self.chunk_of(vec![choice], None, false)
    }

    fn usage(&mut self, usage: Usage) -> String {
        self.chunk_of(Vec::new(), Some(usage), false)
    }

    fn whole(mut self, whole: Whole, usage: Usage) -> String {
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
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    refusal: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Vec<ToolCall>>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Vec<ToolCall>>,
}

impl Piece {
    /// A delta that says this; with its content even where that is empty if `content_always`.
    fn of(mut said: Said, content_always: bool) -> Self {
        let tool_calls = said.call_parts();
        let text = |text: String, always: bool| Some(text).filter(|text| always || !text.is_empty());
        let (content, reasoning_content) = (text(said.content, content_always), text(said.reasoning, false));
        Self { role: None, content, reasoning_content, tool_calls }
    }
}
