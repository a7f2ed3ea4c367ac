//! The public front door: OpenAI's HTTP interface over whatever replicas the [`crate::view::ClusterView`] lists.
//!
//! Not here: anything that asks Raft. A gateway reads the view, its own files of the model (tokenizer, chat template,
//! generation config) and the streams that it opens to rank 0 of a replica. One request goes
//! `routes` → `handler` → `chat` or `completions` → `validate` → `admission` → `answers` → `generation` (`dispatch`) →
//! `output` → `reply` or `sse`; whatever goes wrong on the way leaves through `errors`.
//!
//! Where OpenAI's interface leaves room, or this one goes beyond it:
//! - Defaults of `temperature`, `top_p`, `top_k`, `min_p` and `repetition_penalty` are those of the model's
//!   `generation_config.json`, as in vLLM; a model with `do_sample: false` is greedy unless a request says otherwise.
//! - `max_tokens` defaults to the rest of the context on both endpoints (and to the model's `max_new_tokens`, if that is
//!   less). A prompt and `max_tokens` that together exceed the context are refused, as in vLLM, not cut.
//! - A stop token's text is shown only with `include_stop_str_in_output`; its id, its logprob and its place in `usage`
//!   are always told. Of stop strings, the one whose end comes first counts. Tokens after a stop string do not count.
//! - Streamed text may lag behind `token_ids` and logprobs, which come with the event that brought them: whole
//!   characters only, and nothing that may become a stop string.
//! - `echo` repeats a prompt's own text and tokens, special ones too; what the tokenizer's post-processor adds around a text has
//!   a logprob and no text. `max_tokens` may then be 0. On `/v1/completions` alone.
//! - In completions' `top_logprobs`, a map by text, different tokens of one text are one entry, the likeliest;
//!   `return_tokens_as_token_ids` names tokens `token_id:N` instead, so that none is lost. vLLM's `prompt_logprobs` is by id.
//! - `x-priority` or vLLM's `priority` say who goes first (`terms`), `x-request-timeout-ms` how long a request may take, from its
//!   arrival to its last token. A refusal says by status, `code` and `Retry-After` whether to slow down or to go elsewhere:
//!   `docs/design/0003-the-front-door.md` has the table.
//! - `best_of` other than `n` is refused: every choice is told. Choices are told by index over all prompts of a request.
//! - The token of a logprob that is not whole characters is written `bytes:\xe4…` in completions and with U+FFFD (and
//!   its `bytes`) in chats.
//! - Reasoning and tool calls stay in `content` unless a request asks: `separate_reasoning: true` (SGLang's word) splits
//!   `<think>` off into `reasoning_content`, `tools` split `<tool_call>` off into `tool_calls`. A part that belongs to
//!   neither, such as `<answer>`, is content.
//! - What would change the answer and is not followed is refused by name (`unsupported`); other unknown fields are
//!   ignored.

mod admission;
mod answers;
mod attention;
mod body;
mod bundle;
mod bundles;
mod chat;
mod chat_reply;
mod completions;
mod completions_reply;
mod conversation;
mod counters;
pub mod dispatch;
mod draft;
mod errors;
mod fields;
mod generation;
mod handler;
mod health;
#[cfg(feature = "sim")]
mod in_process;
mod keeping;
mod logprobs;
mod metrics;
mod models;
mod output;
mod pick_up;
mod pictures;
mod position;
mod prompt;
mod quic;
mod reply;
mod request_id;
mod response_format;
mod resume;
mod routes;
mod rules;
mod said;
mod sampling;
mod server;
mod spoken;
mod sse;
mod state;
mod style;
pub mod template;
mod terms;
pub mod tokenize;
mod tools;
mod unstalled;
mod unsupported;
mod validate;
mod wait;
mod watched;

pub use bundle::{BundleError, check_model_files};
pub use counters::GatewayStats;
#[cfg(feature = "sim")]
pub use in_process::{Answer, InProcess};
pub use pictures::RemoteError;
pub use server::{Gateway, GatewayConfig, GatewayError};
