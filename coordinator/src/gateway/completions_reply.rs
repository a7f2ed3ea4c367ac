//! The JSON of `/v1/completions`. As in vLLM, the prompt's ids stand in the choice.

use std::sync::Arc;

use protocol::generate::TokenLogprobs;
use serde::Serialize;

use super::logprobs::{CompletionLogprobs, Names, PromptLogprobs, prompt_logprobs};
use super::output::{Delta, Finish, OutToken};
use super::reply::{Reply, StopReason, Usage, Whole, finish_reason, index, json, token_ids};
use super::validate::ValidRequest;

/// Tells the completions of one request's prompts.
pub(super) struct CompletionReply {
    id: String,
    created: u64,
    fingerprint: String,
    request: Arc<ValidRequest>,
    /// By choice: whether its prompt's ids have still to be told.
    prompt_due: Vec<bool>,
}

/// What a choice, or a chunk of one, tells; absent where there is nothing new.
#[derive(Default)]
struct Part<'a> {
    text: String,
    tokens: &'a [OutToken],
    /// The prompt's logprobs, where it is repeated before the text.
    echoed: Option<&'a [TokenLogprobs]>,
    finish: Option<&'a Finish>,
}

impl CompletionReply {
    pub(super) fn new(id: protocol::RequestId, request: Arc<ValidRequest>, created: u64) -> Self {
        let prompt_due = vec![request.style.return_token_ids; request.choices_in_all()];
        let fingerprint = request.target.fingerprint();
        Self { id: format!("cmpl-{id}"), created, fingerprint, request, prompt_due }
    }

    fn names(&self) -> Names<'_> {
        Names { pieces: self.request.target.bundle.tokenizer.pieces(), as_ids: self.request.style.tokens_as_ids }
    }

    fn choice(&mut self, choice: usize, part: Part<'_>) -> Choice {
        let due = std::mem::take(&mut self.prompt_due[choice]);
        let prompt = self.request.prompt_of(choice);
        let echo = prompt.echo.as_ref().filter(|_| part.echoed.is_some());
        Choice {
            index: index(choice),
            text: echo.map_or_else(String::new, |e| e.text.clone()) + &part.text,
            logprobs: self.logprobs(choice, &part),
            finish_reason: part.finish.map(finish_reason),
            stop_reason: part.finish.and_then(StopReason::of),
            token_ids: token_ids(part.tokens, self.request.style),
            prompt_token_ids: due.then(|| prompt.ids.clone()),
            prompt_logprobs: None,
        }
    }

    fn logprobs(&self, choice: usize, part: &Part<'_>) -> Option<CompletionLogprobs> {
        let prompt = self.request.prompt_of(choice);
        let top = self.request.sampling.logprobs?;
        let mut told = CompletionLogprobs::default();
        match (&prompt.echo, part.echoed) {
            (Some(echo), Some(logprobs)) => told.prompt(&prompt.ids, echo, logprobs, top, self.names()),
            _ if part.tokens.is_empty() => return None,
            _ => {}
        }
        let start = prompt.echo.as_ref().map_or(0, |e| e.chars);
        told.answer(part.tokens, start, top, self.names());
        Some(told)
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
    fn opening(&mut self, choice: usize, prompt: &[TokenLogprobs]) -> Option<String> {
        self.request.prompt_of(choice).echo.as_ref()?;
        let choice = self.choice(choice, Part { echoed: Some(prompt), ..Part::default() });
        Some(self.chunk_of(vec![choice], None))
    }

    fn chunk(&mut self, choice: usize, delta: &Delta) -> Option<String> {
        let part = Part { text: delta.text.clone(), tokens: &delta.tokens, ..Part::default() };
        let choice = self.choice(choice, part);
        Some(self.chunk_of(vec![choice], None))
    }

    fn skip_opening(&mut self, choice: usize) {
        if self.request.prompt_of(choice).echo.is_some() {
            self.prompt_due[choice] = false;
        }
    }

    fn skip(&mut self, choice: usize, _: &Delta) {
        self.prompt_due[choice] = false;
    }

    fn ending(&mut self, choice: usize, finish: &Finish) -> String {
        let choice = self.choice(choice, Part { finish: Some(finish), ..Part::default() });
        self.chunk_of(vec![choice], None)
    }

    fn usage(&mut self, usage: Usage) -> String {
        self.chunk_of(Vec::new(), Some(usage))
    }

    fn whole(mut self, whole: Whole, usage: Usage) -> String {
        let mut choices = Vec::with_capacity(whole.answers.len());
        for (i, answer) in whole.answers.into_iter().enumerate() {
            let logprobs = whole.prompts[i / usize::from(self.request.choices)].as_slice();
            let (tokens, finish) = (answer.tokens.as_slice(), Some(&answer.finish));
            let mut choice = self.choice(i, Part { text: answer.text, tokens, echoed: Some(logprobs), finish });
            let ids = &self.request.prompt_of(i).ids;
            choice.prompt_logprobs =
                self.request.style.prompt_logprobs.map(|top| prompt_logprobs(ids, logprobs, top, self.names()));
            choices.push(choice);
        }
        self.object(choices, Some(Some(usage)))
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
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<PromptLogprobs>,
}
