//! The JSON of `/v1/completions`. As in vLLM, the prompt's ids stand in the choice.

use std::sync::Arc;

use serde::Serialize;

use super::logprobs::CompletionLogprobs;
use super::output::{Delta, Finish, OutToken};
use super::reply::{Answer, Reply, StopReason, Usage, finish_reason, json, token_ids};
use super::state::unix_now;
use super::validate::ValidRequest;

/// Tells one completion.
pub(super) struct CompletionReply {
    id: String,
    created: u64,
    fingerprint: String,
    request: Arc<ValidRequest>,
    /// Whether the prompt's ids have still to be told.
    prompt_due: bool,
}

impl CompletionReply {
    pub(super) fn new(id: protocol::RequestId, request: Arc<ValidRequest>) -> Self {
        let (fingerprint, prompt_due) = (request.target.fingerprint(), request.style.return_token_ids);
        Self { id: format!("cmpl-{id}"), created: unix_now(), fingerprint, request, prompt_due }
    }

    fn choice(&mut self, text: String, tokens: &[OutToken], finish: Option<&Finish>) -> Choice {
        let pieces = self.request.target.bundle.tokenizer.pieces();
        let top = self.request.sampling.logprobs.filter(|_| !tokens.is_empty());
        let prompt = std::mem::take(&mut self.prompt_due);
        Choice {
            index: 0,
            text,
            logprobs: top.map(|top| CompletionLogprobs::of(tokens, top, pieces)),
            finish_reason: finish.map(finish_reason),
            stop_reason: finish.and_then(StopReason::of),
            token_ids: token_ids(tokens, self.request.style),
            prompt_token_ids: prompt.then(|| self.request.prompt_ids.clone()),
        }
    }

    fn object(&self, choices: Vec<Choice>, usage: Option<Option<Usage>>) -> String {
        json(&Object {
            id: &self.id,
            object: "text_completion",
            created: self.created,
            model: &self.request.target.model,
            system_fingerprint: &self.fingerprint,
            choices,
            usage,
        })
    }

    fn chunk_of(&self, choices: Vec<Choice>, usage: Option<Usage>) -> String {
        self.object(choices, self.request.style.include_usage.then_some(usage))
    }
}

impl Reply for CompletionReply {
    fn opening(&mut self) -> Option<String> {
        None
    }

    fn chunk(&mut self, delta: &Delta) -> String {
        let choice = self.choice(delta.text.clone(), &delta.tokens, None);
        self.chunk_of(vec![choice], None)
    }

    fn ending(&mut self, finish: &Finish) -> String {
        let choice = self.choice(String::new(), &[], Some(finish));
        self.chunk_of(vec![choice], None)
    }

    fn usage(&mut self, usage: Usage) -> String {
        self.chunk_of(Vec::new(), Some(usage))
    }

    fn whole(mut self, answer: Answer, usage: Usage) -> String {
        let choice = self.choice(answer.text, &answer.tokens, Some(&answer.finish));
        self.object(vec![choice], Some(Some(usage)))
    }
}

#[derive(Serialize)]
struct Object<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

#[derive(Serialize)]
struct Choice {
    index: u32,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<&'static str>,
    stop_reason: Option<StopReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Arc<[u32]>>,
}
